#include "runtime/config/hub_cache.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstdlib>
#include <map>

#include "tests/refusal_of.h"
#include "tests/temp_folder.h"

namespace kt {
namespace {

using testing::AllOf;
using testing::HasSubstr;

TEST(HubCache, IsWhereTheFirstOfItsVariablesSays) {
  std::map<std::string, std::string> variables = {{"HOME", "/own"}};
  const auto cache = [&] { return hub_cache([&](const char* name) { return variables[name]; }).string(); };

  EXPECT_EQ(cache(), "/own/.cache/huggingface/hub");
  variables["XDG_CACHE_HOME"] = "/cache";
  EXPECT_EQ(cache(), "/cache/huggingface/hub");
  variables["HF_HOME"] = "/data";
  EXPECT_EQ(cache(), "/data/hub");
  variables["HUGGINGFACE_HUB_CACHE"] = "/old";
  EXPECT_EQ(cache(), "/old");
  variables["HF_HUB_CACHE"] = "~/hub";
  EXPECT_EQ(cache(), "/own/hub");
  variables["HF_HUB_CACHE"] = "/hub";
  EXPECT_EQ(cache(), "/hub");
}

// A cache as `hf download` leaves it, which the process is told of.
class ModelFolder : public testing::Test {
 protected:
  void SetUp() override {
    download("Org/a.Model-7B", "main", "aaaa");
    download("Org/a.Model-7B", "v2", "bbbb");
    download("Org/a.Model-7B", "refs/pr/3", "cccc");
    download("other/only-tagged", "v1", "dddd");
    setenv("HF_HUB_CACHE", cache_.path().c_str(), 1);
  }
  void TearDown() override { unsetenv("HF_HUB_CACHE"); }

  void download(const std::string& name, const std::string& revision, const std::string& commit) {
    const std::filesystem::path model =
        cache_.path() / ("models--" + std::string(name).replace(name.find('/'), 1, "--"));
    std::filesystem::create_directories(model / "snapshots" / commit);
    std::filesystem::create_directories((model / "refs" / revision).parent_path());
    std::ofstream(model / "refs" / revision) << commit;
  }
  std::string snapshot(const std::string& name, const std::string& commit) const {
    return (cache_.path() / ("models--" + name) / "snapshots" / commit).string();
  }

  TempFolder cache_;
};

TEST_F(ModelFolder, ANameIsTheSnapshotOfItsMainRevision) {
  EXPECT_EQ(model_folder("model", "Org/a.Model-7B"), snapshot("Org--a.Model-7B", "aaaa"));
}

TEST_F(ModelFolder, ARevisionIsABranchATagAPullRequestOrACommit) {
  EXPECT_EQ(model_folder("model", "Org/a.Model-7B@v2"), snapshot("Org--a.Model-7B", "bbbb"));
  EXPECT_EQ(model_folder("model", "Org/a.Model-7B@refs/pr/3"), snapshot("Org--a.Model-7B", "cccc"));
  EXPECT_EQ(model_folder("model", "Org/a.Model-7B@bbbb"), snapshot("Org--a.Model-7B", "bbbb"));
}

TEST_F(ModelFolder, FoldersThatAreThereWin) {
  const TempFolder here;
  std::filesystem::create_directories(here.path() / "Org/a.Model-7B");
  const std::filesystem::path before = std::filesystem::current_path();
  std::filesystem::current_path(here.path());
  EXPECT_EQ(model_folder("model", "Org/a.Model-7B"), "Org/a.Model-7B");
  std::filesystem::current_path(before);
}

TEST_F(ModelFolder, WhatIsNoNameIsLeftToItsReader) {
  for (const char* value : {"", "m", "/there/is/none", "./Org/name", "../name", "a/b/c", "a/", "/a", "Org/../x",
                            "a b/c", "Org/name@../../x", "Org/name@"})
    EXPECT_EQ(model_folder("model", value), value);
}

TEST_F(ModelFolder, WhatIsNotThereIsSaidWithWhatDownloadsIt) {
  EXPECT_THAT(refusal_of([] { model_folder("tokenizer-path", "Org/none"); }),
              AllOf(HasSubstr("tokenizer-path Org/none: there is no such folder"), HasSubstr(cache_.path().string()),
                    HasSubstr("try: hf download Org/none")));
  EXPECT_THAT(refusal_of([] { model_folder("model", "Org/a.Model-7B@v9"); }),
              AllOf(HasSubstr("no revision v9 of it, but main, refs/pr/3, v2"),
                    HasSubstr("try: hf download Org/a.Model-7B --revision v9")));
  EXPECT_THAT(refusal_of([] { model_folder("model", "other/only-tagged"); }),
              AllOf(HasSubstr("no revision main of it, but v1"), HasSubstr("try: hf download other/only-tagged")));
}

TEST_F(ModelFolder, AllOptionsThatNameOneAreLookedUpAndTheServedNameStays) {
  const std::vector<std::string> arguments = {"--model", "Org/a.Model-7B", "--kt-weight-path", "Org/a.Model-7B@v2"};

  const RunConfig run = with_model_folders(parse_run_config(arguments));

  EXPECT_EQ(run.model, snapshot("Org--a.Model-7B", "aaaa"));
  EXPECT_EQ(run.tokenizer_path, run.model);
  EXPECT_EQ(run.kt_weight_path, snapshot("Org--a.Model-7B", "bbbb"));
  EXPECT_EQ(run.served_model_name, "Org/a.Model-7B");
}

}  // namespace
}  // namespace kt
