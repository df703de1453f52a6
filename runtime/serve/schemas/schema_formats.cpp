#include "runtime/serve/schemas/schema_formats.h"

#include <algorithm>
#include <iterator>
#include <string>

namespace kt {
namespace {

const std::string kYear = "([0-9]{3}[1-9]|[0-9]{2}[1-9]0|[0-9][1-9]00|[1-9]000)";
const std::string kLeapYear = "([0-9]{2}(0[48]|[2468][048]|[13579][26])|(0[48]|[2468][048]|[13579][26])00)";
const std::string kDate = "(" + kYear +
                          "-((0[13578]|1[02])-(0[1-9]|[12][0-9]|3[01])|(0[469]|11)-(0[1-9]|[12][0-9]|30)|"
                          "02-(0[1-9]|1[0-9]|2[0-8]))|" +
                          kLeapYear + "-02-29)";
const std::string kTime =
    "([01][0-9]|2[0-3]):[0-5][0-9]:[0-5][0-9](\\.[0-9]{1,9})?(Z|[+-]([01][0-9]|2[0-3]):[0-5][0-9])";
const std::string kDurationTime = "T([0-9]+H([0-9]+M([0-9]+S)?)?|[0-9]+M([0-9]+S)?|[0-9]+S)";
const std::string kLabel = "[A-Za-z0-9]{1,20}(-[A-Za-z0-9]{1,20}){0,2}";
const std::string kHost = kLabel + "(\\." + kLabel + ")*";
const std::string kByte = "(25[0-5]|2[0-4][0-9]|1[0-9][0-9]|[1-9]?[0-9])";
const std::string kHextet = "[0-9a-fA-F]{1,4}";
const std::string kUriCharacter = "([A-Za-z0-9._~!$&'()*+,;=:@-]|%[0-9A-Fa-f]{2})";
const std::string kRelativeSegment = "([A-Za-z0-9._~!$&'()*+,;=@-]|%[0-9A-Fa-f]{2})+";
const std::string kTail = "(\\?(" + kUriCharacter + "|[/?])*)?(#(" + kUriCharacter + "|[/?])*)?";
const std::string kPointer = "(/([^/~]|~[01])*)*";

struct Format {
  std::string_view name;
  std::string expression;
};

const Format kFormats[] = {
    {"date", kDate},
    {"time", kTime},
    {"date-time", kDate + "T" + kTime},
    {"duration", "P([0-9]+W|(([0-9]+Y([0-9]+M([0-9]+D)?)?|[0-9]+M([0-9]+D)?|[0-9]+D)(" + kDurationTime + ")?|" +
                     kDurationTime + "))"},
    {"email", "[A-Za-z0-9_+-]{1,31}(\\.[A-Za-z0-9_+-]{1,31})?@" + kHost},
    {"hostname", kHost},
    {"ipv4", "(" + kByte + "\\.){3}" + kByte},
    {"ipv6", "((" + kHextet + ":){7}" + kHextet + "|(" + kHextet + ":){1,3}(:" + kHextet + "){1,4}|::(" + kHextet +
                 "(:" + kHextet + "){0,5})?)"},
    {"uuid", "[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}"},
    {"uri", "[A-Za-z][A-Za-z0-9+.-]*:(//" + kHost + "(:[0-9]{1,4})?)?" + "(/" + kUriCharacter + "+)*/?" + kTail},
    {"uri-reference",
     "((//" + kHost + ")?(/" + kUriCharacter + "+)*/?|" + kRelativeSegment + "(/" + kUriCharacter + "+)*/?)" + kTail},
    {"json-pointer", kPointer},
    {"relative-json-pointer", "(0|[1-9][0-9]*)(#|" + kPointer + ")"},
};

constexpr std::string_view kUnheld[] = {"idn-email", "idn-hostname", "iri", "iri-reference", "regex", "uri-template"};

}  // namespace

std::optional<SchemaPattern> format_shape(std::string_view name) {
  const auto found =
      std::find_if(std::begin(kFormats), std::end(kFormats), [&](const Format& format) { return format.name == name; });
  if (found == std::end(kFormats)) return std::nullopt;
  return SchemaPattern("^(" + found->expression + ")$");
}

bool is_unheld_format(std::string_view name) {
  return std::find(std::begin(kUnheld), std::end(kUnheld), name) != std::end(kUnheld);
}

}  // namespace kt
