#pragma once

#include <cstdint>
#include <nlohmann/json.hpp>
#include <string>
#include <string_view>
#include <vector>

namespace kt {

// note: worth to know, or costs speed. problem: the start would fail, or be many times slower than it could be.
enum class Severity : uint8_t { ok, note, problem };

struct Finding {
  Severity severity = Severity::ok;
  std::string found;   // one line
  std::string advice;  // what to do; "" where there is nothing
  std::string area;    // whoever asks knows it: "memory"
};
using Findings = std::vector<Finding>;

Finding ok(std::string found);
Finding note(std::string found, std::string advice = {});
Finding problem(std::string found, std::string advice);
// Of a message of this program, which says after a semicolon or on a further line what to do; `otherwise`, where not.
Finding problem_of(std::string_view message, std::string otherwise);

// "12.3 GB" or "4.2 MB".
std::string size_text(int64_t bytes);

bool has_problem(const Findings& findings);

// A line each, problems last with what to do on a line of its own.
std::string to_text(const Findings& findings);
// {"area", "severity", "found", "advice"}, the last where there is any.
nlohmann::ordered_json to_json(const Findings& findings);
Findings findings_of(const nlohmann::ordered_json& list);

}  // namespace kt
