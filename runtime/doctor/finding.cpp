#include "runtime/doctor/finding.h"

#include <fmt/format.h>

#include <algorithm>

namespace kt {
namespace {

constexpr std::string_view kNames[] = {"ok", "note", "problem"};

std::string_view name_of(Severity severity) { return kNames[static_cast<size_t>(severity)]; }

// Messages of the program have lines; a finding is one.
std::string in_one_line(std::string text) {
  while (text.ends_with('\n')) text.pop_back();
  for (size_t at = 0; (at = text.find('\n', at)) != std::string::npos;) {
    const size_t end = text.find_first_not_of(" \n", at);
    text.replace(at, end == std::string::npos ? std::string::npos : end - at, "; ");
  }
  return text;
}

Finding make(Severity severity, std::string found, std::string advice) {
  return {severity, in_one_line(std::move(found)), in_one_line(std::move(advice)), {}};
}

}  // namespace

Finding ok(std::string found) { return make(Severity::ok, std::move(found), {}); }
Finding note(std::string found, std::string advice) {
  return make(Severity::note, std::move(found), std::move(advice));
}
Finding problem(std::string found, std::string advice) {
  return make(Severity::problem, std::move(found), std::move(advice));
}

Finding problem_of(std::string_view message, std::string otherwise) {
  const size_t end = std::min(message.find("; "), message.find('\n'));
  if (end == message.npos) return problem(std::string(message), std::move(otherwise));
  const size_t advice = message.find_first_not_of("; \n", end);
  return problem(std::string(message.substr(0, end)),
                 advice == message.npos ? std::move(otherwise) : std::string(message.substr(advice)));
}

std::string size_text(int64_t bytes) {
  const auto n = static_cast<double>(bytes);
  return bytes < 1'000'000'000 ? fmt::format("{:.1f} MB", n / 1e6) : fmt::format("{:.1f} GB", n / 1e9);
}

bool has_problem(const Findings& findings) {
  return std::any_of(findings.begin(), findings.end(),
                     [](const Finding& f) { return f.severity == Severity::problem; });
}

std::string to_text(const Findings& findings) {
  size_t width = 0;
  for (const Finding& f : findings) width = std::max(width, f.area.size());
  std::string text;
  for (const bool problems : {false, true})
    for (const Finding& f : findings) {
      if ((f.severity == Severity::problem) != problems) continue;
      text += fmt::format("{:<7}  {:<{}}  {}", name_of(f.severity), f.area, width, f.found);
      if (!f.advice.empty()) text += problems ? fmt::format("\n{:{}}do: ", "", 11 + width) : "; do: ";
      text += f.advice + "\n";
    }
  return text;
}

nlohmann::ordered_json to_json(const Findings& findings) {
  auto list = nlohmann::ordered_json::array();
  for (const Finding& f : findings) {
    nlohmann::ordered_json one = {{"area", f.area}, {"severity", name_of(f.severity)}, {"found", f.found}};
    if (!f.advice.empty()) one["advice"] = f.advice;
    list.push_back(std::move(one));
  }
  return list;
}

Findings findings_of(const nlohmann::ordered_json& list) {
  Findings findings;
  for (const auto& one : list) {
    const auto name = one.at("severity").get<std::string>();
    findings.push_back({static_cast<Severity>(std::find(std::begin(kNames), std::end(kNames), name) - kNames),
                        one.at("found"), one.value("advice", ""), one.at("area")});
  }
  return findings;
}

}  // namespace kt
