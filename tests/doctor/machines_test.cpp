#include "runtime/doctor/machines.h"

#include <gmock/gmock.h>

#include <thread>

namespace kt {
namespace {

using testing::ElementsAre;
using testing::HasSubstr;
using testing::IsEmpty;

RankReport report(int rank, int machine, const Facts& facts, const std::map<std::string, int64_t>& files = {}) {
  return {.rank = rank, .machine = machine, .host = machine ? "n2" : "n1", .facts = facts, .files = files};
}

std::vector<std::string> found(const Findings& findings, Severity severity) {
  std::vector<std::string> texts;
  for (const Finding& f : findings)
    if (f.severity == severity) texts.push_back(f.found);
  return texts;
}

TEST(DoctorDifferences, NameValueHostAndRanks) {
  Facts facts = {{"version", "1"}, {"kernels", "avx512"}, {"mpi", "m"}, {"processor", "p"}, {"kernel", "6.1"}};
  Facts other = facts;
  other["kernels"] = "avx2";
  other["kernel"] = "6.2";

  const Findings findings = find_differences({report(0, 0, facts), report(1, 0, facts), report(2, 1, other)});

  EXPECT_THAT(found(findings, Severity::problem),
              ElementsAre("kernels: avx512 on n1 (ranks 0, 1), avx2 on n2 (rank 2)"));
  EXPECT_THAT(found(findings, Severity::note), ElementsAre("kernel: 6.1 on n1 (ranks 0, 1), 6.2 on n2 (rank 2)"));
  EXPECT_THAT(found(findings, Severity::ok), ElementsAre(HasSubstr("alike on all ranks: version, mpi, processor")));
}

TEST(DoctorDifferences, FilesMustBeThereWithTheSameSizes) {
  const auto differences = [](const std::map<std::string, int64_t>& a, const std::map<std::string, int64_t>& b) {
    return found(find_differences({report(0, 0, {}, a), report(1, 1, {}, b)}), Severity::problem);
  };

  EXPECT_THAT(differences({{"a", 1}, {"b", 2}}, {{"a", 1}, {"b", 2}}), IsEmpty());
  EXPECT_THAT(differences({{"a", 1}, {"b", 2}}, {{"a", 1}, {"b", 3}}),
              ElementsAre("the model's folder: 1 of 2 files differ, the first is b: 2 bytes on n1 (rank 0), 3 bytes on "
                          "n2 (rank 1)"));
  EXPECT_THAT(differences({{"a", 1}, {"b", 2}}, {{"b", 3}}),
              ElementsAre(HasSubstr("a: 1 bytes on n1 (rank 0), absent")));
  EXPECT_THAT(differences({{"a", 1}, {"b", 2}}, {}),
              ElementsAre("the model's folder is not there, or is empty, on n2 (rank 1)"));
  EXPECT_THAT(differences({}, {}), IsEmpty());
}

TEST(DoctorDifferences, EachSaysWhatToDo) {
  Facts facts = facts_of(Site{.version = "1", .mpi_library = "m"}), other = facts;
  for (auto& [name, value] : other) value += "x";

  const Findings findings = find_differences({report(0, 0, facts), report(1, 1, other)});

  EXPECT_EQ(findings.size(), facts.size());
  for (const Finding& f : findings) EXPECT_NE(f.advice, "") << f.found;
}

TEST(DoctorDifferences, BuildsOfOneVersionAreTold) {
  const Facts facts = facts_of(Site());

  EXPECT_EQ(facts.at("build").size(), 12u);
  EXPECT_EQ(facts.at("build").find_first_not_of("0123456789abcdef"), std::string::npos);
}

TEST(DoctorMachines, ReportsTravelWhole) {
  const auto transports = make_local_transports(2, {0, 1});
  std::vector<RankReport> reports;
  const auto play = [&](int rank) {
    RankReport mine = report(rank, rank, {{"mpi", "m"}}, {{"caf\xe9.safetensors", 5'000'000'000}});
    if (rank == 1) mine.findings = {problem("no\nroom", "make\n  some"), ok("fine")};
    const auto all = gather_reports(*transports[static_cast<size_t>(rank)], mine);
    if (rank == 0) reports = all;
  };

  std::thread other(play, 1);
  play(0);
  other.join();

  ASSERT_EQ(reports.size(), 2u);
  EXPECT_EQ(reports[1].rank, 1);
  EXPECT_EQ(reports[1].machine, 1);
  EXPECT_EQ(reports[1].host, "n2");
  EXPECT_EQ(reports[1].files.begin()->second, 5'000'000'000);
  ASSERT_EQ(reports[1].findings.size(), 2u);
  EXPECT_EQ(reports[1].findings[0].found, "no; room");
  EXPECT_EQ(reports[1].findings[0].advice, "make; some");
  EXPECT_EQ(reports[1].findings[0].severity, Severity::problem);
  EXPECT_EQ(reports[1].findings[1].severity, Severity::ok);
}

TEST(DoctorText, HasALineForEachFindingAndProblemsLast) {
  Findings findings = {problem("bad", "mend it"), ok("good"), note("so", "look")};
  for (Finding& f : findings) f.area = f.found == "bad" ? "a" : "long";

  EXPECT_EQ(to_text(findings),
            "ok       long  good\n"
            "note     long  so; do: look\n"
            "problem  a     bad\n"
            "               do: mend it\n");
  EXPECT_TRUE(has_problem(findings));
  EXPECT_FALSE(has_problem({ok("good"), note("so")}));
}

TEST(DoctorText, AMessageSaysItselfWhatToDo) {
  const auto parts = [](std::string_view message) {
    const Finding f = problem_of(message, "otherwise");
    return f.found + " | " + f.advice;
  };

  EXPECT_EQ(parts("a: missing"), "a: missing | otherwise");
  EXPECT_EQ(parts("a: missing; get it; or b"), "a: missing | get it; or b");
  EXPECT_EQ(parts("a: missing\n  try b\n  or c"), "a: missing | try b; or c");
  EXPECT_EQ(parts("a: missing;\n"), "a: missing; | otherwise");
}

}  // namespace
}  // namespace kt
