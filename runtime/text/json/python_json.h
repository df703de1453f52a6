#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace kt {

// JSON texts as Python reads and writes them, for prompts that reference code in Python makes: NaN and Infinity are
// numbers, integers have any size, and floats are written in the shortest way that reads back the same.

enum class PythonForm {
  kJson,  // json.dumps(value, ensure_ascii=False): {"a": [1, 2.0, null]}
  kRepr,  // str(value) of anything but a string: {'a': [1, 2.0, None]}
};

// Throws std::runtime_error for what json.loads refuses, for lone surrogates and for more than 200 levels.
std::string python_text(std::string_view json, PythonForm form);

struct PythonMember {
  std::string name, value;  // value: a string's own text, anything else in PythonForm::kJson
  bool is_string;
};
// The members of an object in order; of equal names the first gives the place and the last the value.
// Throws std::runtime_error, also when the text is no object.
std::vector<PythonMember> python_members(std::string_view json);

}  // namespace kt
