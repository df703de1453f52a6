#include "runtime/serve/http/key_file.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "runtime/base/error.h"
#include "tests/refusal_of.h"

namespace kt {
namespace {

namespace fs = std::filesystem;

std::string key_file(const std::string& text, fs::perms perms = fs::perms::owner_read | fs::perms::owner_write) {
  const std::string path = testing::TempDir() + "ktmpi_keys";
  fs::remove(path);
  std::ofstream(path) << text;
  fs::permissions(path, perms);
  return path;
}

std::string refusal(const std::string& path) {
  return refusal_of([&] { read_key_file(path); }, kExitUsage);
}

TEST(KeyFile, HoldsOneKeyALine) {
  EXPECT_EQ(read_key_file(key_file("# who\nalpha\r\n\nbeta")), (std::vector<std::string>{"alpha", "beta"}));
}

TEST(KeyFile, IsRefusedWhenOthersMayReadItOrItHoldsNoUsableKey) {
  EXPECT_NE(refusal(key_file("alpha\n", fs::perms::owner_all | fs::perms::group_read)).find("chmod 600"),
            std::string::npos);
  EXPECT_NE(refusal(key_file("# none\n\n")).find("holds no key"), std::string::npos);
  EXPECT_NE(refusal(key_file("alpha\nbe ta\n")).find("line 2"), std::string::npos);
  EXPECT_EQ(refusal(key_file("alpha\nbe ta\n")).find("be ta"), std::string::npos) << "a message must not show a key";
  EXPECT_NE(refusal(testing::TempDir() + "no_such_keys").find("No such file"), std::string::npos);
  EXPECT_NE(refusal(testing::TempDir()), "accepted") << "a folder";
}

}  // namespace
}  // namespace kt
