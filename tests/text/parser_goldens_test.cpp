// The public cases beside the checkout (fixtures/parsers, README there): each strict one as recorded and cut anew.

#include <gtest/gtest.h>

#include <filesystem>
#include <optional>
#include <set>

#include "parsed_answer.h"
#include "shared_folder.h"

namespace kt {
namespace {

using Json = nlohmann::ordered_json;

std::string trim(const std::string& text) { return std::string(trimmed(text)); }

std::string collapsed(const std::string& text) {
  std::string out;
  for (const char c : text) {
    const bool space = kWhiteSpace.find(c) != kWhiteSpace.npos;
    if (!space)
      out += c;
    else if (!out.ends_with(' '))
      out += ' ';
  }
  return trim(out);
}

// The same value: int is not float, bool is not int, the order of keys is free.
bool same(const Json& a, const Json& b) {
  if (a.is_number_integer() && b.is_number_integer()) return a == b;
  if (a.type() != b.type() || a.size() != b.size()) return false;
  if (a.is_array()) return std::equal(a.begin(), a.end(), b.begin(), same);
  if (!a.is_object()) return a == b;
  for (const auto& [key, value] : a.items())
    if (!b.contains(key) || !same(value, b.at(key))) return false;
  return true;
}

std::optional<Json> parsed(const std::string& text) {
  try {
    return parse_exact(text);
  } catch (const std::runtime_error&) {
    return std::nullopt;
  }
}

bool same_arguments(const std::string& expected, const std::string& actual) {
  const auto a = parsed(expected), b = parsed(actual);
  return a ? b && same(*a, *b) : expected == actual;
}

// Nothing, or what differs.
std::string difference(const Json& expected, const ParsedAnswer& actual, const std::string& kind) {
  if (kind != "tool" && trim(expected["reasoning_text"]) != trim(actual.reasoning)) return "reasoning_text";
  const std::string text = expected["normal_text"];
  if (kind == "reasoning") return trim(text) == trim(actual.content) ? "" : "normal_text";
  if (collapsed(text) != collapsed(actual.content)) return "normal_text";
  if (expected["calls"].size() != actual.calls.size()) return "number of calls";
  for (size_t i = 0; i < actual.calls.size(); ++i) {
    if (expected["calls"][i]["name"] != actual.calls[i].name) return "a name";
    if (!same_arguments(expected["calls"][i]["arguments"], actual.calls[i].arguments)) return "arguments";
  }
  return "";
}

OutputParserOptions options_of(const Json& record, const std::string& file) {
  const std::string kind = record["kind"];
  const std::string name = file.substr(file.find('_') + 1);
  OutputParserOptions options;
  if (kind == "tool") options = formats_named(file, "");
  if (kind == "reasoning") options = formats_named("", name);
  if (kind == "combined") options = formats_named(name.substr(name.find('+') + 1), name.substr(0, name.find('+')));
  if (record.contains("tools")) options.tool_list = record["tools"];
  options.in_reasoning = record.value("force_reasoning", false);
  options.stream_reasoning = record.value("stream_reasoning", true);
  if (record.contains("previous_content") && record["previous_content"].is_string())
    options.continued = record["previous_content"].get<std::string>();
  return options;
}

void check(const Json& record, const std::string& file) {
  const OutputParserOptions options = options_of(record, file);
  std::string text;
  std::vector<size_t> lengths;
  for (const Json& chunk : record["input_chunks"]) {
    text += chunk.get_ref<const std::string&>();
    lengths.push_back(chunk.get_ref<const std::string&>().size());
  }
  Chunks recorded;
  for (size_t at = 0; const size_t length : lengths) {
    recorded.push_back(std::string_view(text).substr(at, length));
    at += length;
  }
  const ParsedAnswer whole = parse_any_cut(options, text);
  EXPECT_EQ(parse(options, recorded), whole) << "cut as recorded";
  for (const char* member : {"expect", "expect_stream"}) {
    if (record[member].is_null()) continue;
    EXPECT_EQ(difference(record[member], whole, record["kind"]), "") << member << ": " << record[member];
  }
}

TEST(ParserGoldens, EveryStrictCaseIsReadAsRecordedHoweverItIsCut) {
  SKIP_WITHOUT_SHARED_FOLDER();
  size_t cases = 0;
  for (const auto& entry : std::filesystem::directory_iterator(shared_folder() / "fixtures/parsers")) {
    if (entry.path().extension() != ".jsonl") continue;
    const std::string file = entry.path().stem();
    for (const Json& record : read_cases("fixtures/parsers/" + file + ".jsonl")) {
      if (!record["strict"].get<bool>()) continue;
      SCOPED_TRACE(record["id"].dump() + " in " + file);
      check(record, file);
      ++cases;
    }
  }
  EXPECT_GT(cases, 2000u);
}

TEST(ParserGoldens, WhatIsNotStrictIsReadTheSameHoweverItIsCut) {
  SKIP_WITHOUT_SHARED_FOLDER();
  for (const auto& entry : std::filesystem::directory_iterator(shared_folder() / "fixtures/parsers")) {
    if (entry.path().extension() != ".jsonl") continue;
    const std::string file = entry.path().stem();
    for (const Json& record : read_cases("fixtures/parsers/" + file + ".jsonl")) {
      std::string text;
      for (const Json& chunk : record["input_chunks"]) text += chunk.get_ref<const std::string&>();
      SCOPED_TRACE(record["id"].dump() + " in " + file);
      parse_any_cut(options_of(record, file), text);
      // Answers are cut short anywhere: nothing may depend on the text being whole.
      for (size_t end = 0; end < text.size(); end += 1 + text.size() / 16)
        parse_any_cut(options_of(record, file), std::string_view(text).substr(0, end));
    }
  }
}

}  // namespace
}  // namespace kt
