#include "runtime/text/json/json_exact.h"

#include <fmt/format.h>

#include <cstdint>
#include <stdexcept>
#include <unordered_map>
#include <utility>
#include <vector>

namespace kt {
namespace {

using Json = nlohmann::ordered_json;

constexpr std::uint8_t kBigInteger = 1;  // subtype of the binary values that hold digits

// Before parsing, so that the depth of hostile text is known before a byte of tree is built.
void check_depth(std::string_view text, int max_depth) {
  int depth = 0;
  bool in_string = false;
  for (size_t i = 0; i < text.size(); ++i) {
    const char c = text[i];
    if (in_string) {
      if (c == '\\') ++i;
      if (c == '"') in_string = false;
    } else if (c == '"') {
      in_string = true;
    } else if (c == '[' || c == '{') {
      if (++depth > max_depth)
        throw std::runtime_error(fmt::format("JSON nested deeper than {} levels at byte {}", max_depth, i));
    } else if (c == ']' || c == '}') {
      --depth;
    }
  }
}

bool is_integer(const std::string& number) { return number.find_first_of(".eE") == std::string::npos; }

// Builds the tree from nlohmann's parser events.
class TreeBuilder {
 public:
  Json root;

  bool null() { return add(nullptr); }
  bool boolean(bool value) { return add(value); }
  bool number_integer(Json::number_integer_t value) { return add(value); }
  bool number_unsigned(Json::number_unsigned_t value) { return add(value); }
  bool number_float(Json::number_float_t value, const std::string& raw) {
    if (is_integer(raw)) return add(Json::binary({raw.begin(), raw.end()}, kBigInteger));
    return add(value);
  }
  bool string(std::string& value) { return add(std::move(value)); }
  bool binary(Json::binary_t& value) { return add(std::move(value)); }

  bool start_object(std::size_t) { return open(Json::object()); }
  bool start_array(std::size_t) { return open(Json::array()); }
  bool key(std::string& name) {
    Json::object_t::Container& members = open_.back().container->get_ref<Json::object_t&>();
    const auto [entry, is_new] = open_.back().place_of.try_emplace(name, members.size());
    if (is_new) members.emplace_back(name, nullptr);
    member_ = &members[entry->second].second;
    return true;
  }
  bool end_object() { return close(); }
  bool end_array() { return close(); }

  bool parse_error(std::size_t, const std::string&, const nlohmann::detail::exception& error) {
    const std::string_view text = error.what();  // "[json.exception.parse_error.101] parse error at line 1, ..."
    const size_t end_of_name = text.find("] ");
    throw std::runtime_error(std::string(end_of_name == text.npos ? text : text.substr(end_of_name + 2)));
  }

 private:
  // The containers around the next value, outermost first. ordered_json looks a key up from end to end, so the places
  // of an object's keys are kept here: many keys must not cost their square.
  struct Open {
    Json* container;
    std::unordered_map<std::string, size_t> place_of;
  };

  Json& place(Json value) {
    if (open_.empty()) return root = std::move(value);
    Json& container = *open_.back().container;
    if (container.is_array()) return container.emplace_back(std::move(value));
    return *member_ = std::move(value);
  }
  bool add(Json value) {
    place(std::move(value));
    return true;
  }
  // The pointer stays valid: the container around this one does not grow while this one is open.
  bool open(Json container) {
    open_.push_back({&place(std::move(container)), {}});
    return true;
  }
  bool close() {
    open_.pop_back();
    return true;
  }

  std::vector<Open> open_;
  Json* member_ = nullptr;
};

void append(const Json& value, std::string& out) {
  if (value.is_object()) {
    out += '{';
    for (const char* comma = ""; const auto& [key, member] : value.items()) {
      out += std::exchange(comma, ",");
      out += Json(key).dump();
      out += ':';
      append(member, out);
    }
    out += '}';
  } else if (value.is_array()) {
    out += '[';
    for (const char* comma = ""; const Json& element : value) {
      out += std::exchange(comma, ",");
      append(element, out);
    }
    out += ']';
  } else if (value.is_binary()) {
    out.append(value.get_binary().begin(), value.get_binary().end());
  } else {
    out += value.dump();
  }
}

}  // namespace

nlohmann::ordered_json parse_exact(std::string_view text, int max_depth) {
  check_depth(text, max_depth);
  TreeBuilder builder;
  Json::sax_parse(text.begin(), text.end(), &builder);
  return std::move(builder.root);
}

std::string dump_exact(const nlohmann::ordered_json& value) {
  std::string out;
  append(value, out);
  return out;
}

}  // namespace kt
