#include "runtime/checkpoint/safetensors.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <cstring>
#include <numeric>
#include <random>

#include "runtime/base/error.h"
#include "tests/checkpoint/safetensors_bytes.h"
#include "tests/temp_folder.h"

namespace kt {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;

// A tensor of 2 x 3 bf16 numbers, then one of 4 bytes.
constexpr const char* kHeader = R"({"__metadata__":{"format":"pt"},
  "a.weight":{"dtype":"BF16","shape":[2,3],"data_offsets":[0,12]},
  "b":{"dtype":"I8","shape":[4],"data_offsets":[12,16]}})";
constexpr const char* kData = "0123456789abcdef";

// What open_checkpoint says about a lone file with these bytes.
std::string refusal(const std::string& bytes) {
  const TempFolder folder;
  folder.write("model.safetensors", bytes);
  try {
    open_checkpoint(folder.path());
  } catch (const Error& e) {
    EXPECT_EQ(e.exit_code(), kExitModel);
    return e.what();
  }
  return "accepted";
}

std::string refusal_of_tensor(const std::string& entry, std::string_view data = kData) {
  return refusal(safetensors("{\"a.weight\":" + entry + "}", data));
}

std::string refusal_of_index(const std::string& index) {
  const TempFolder folder;
  folder.write("model.safetensors.index.json", index);
  folder.write("one.safetensors", safetensors(kHeader, kData));
  try {
    open_checkpoint(folder.path());
  } catch (const Error& e) {
    return e.what();
  }
  return "accepted";
}

std::string text_of(std::span<const std::byte> bytes) {
  return {reinterpret_cast<const char*>(bytes.data()), bytes.size()};
}

TEST(Safetensors, ReadsALoneFile) {
  const TempFolder folder;
  folder.write("model.safetensors", safetensors(kHeader, kData));

  const auto checkpoint = open_checkpoint(folder.path());

  EXPECT_THAT(checkpoint->names(), ElementsAre("a.weight", "b"));
  EXPECT_EQ(checkpoint->total_bytes(), 16u);
  EXPECT_EQ(checkpoint->find("c"), nullptr);
  const StoredTensor* a = checkpoint->find("a.weight");
  ASSERT_NE(a, nullptr);
  EXPECT_EQ(name_of(a->type), "BF16");
  EXPECT_THAT(a->shape, ElementsAre(2, 3));
  EXPECT_EQ(text_of(a->bytes), "0123456789ab");
  EXPECT_EQ(a->file, "model.safetensors");
}

TEST(Safetensors, GivesRowsOfTheFileWithoutCopying) {
  const TempFolder folder;
  folder.write("model.safetensors", safetensors(kHeader, kData));
  const auto checkpoint = open_checkpoint(folder.path());
  std::vector<std::byte> scratch;

  const StoredRows second = checkpoint->rows("a.weight", std::vector<int64_t>{2, 3}, 1, 1, scratch);

  EXPECT_EQ(second.type, StoredType::bf16);
  EXPECT_EQ(text_of(second.bytes), "6789ab");
  EXPECT_EQ(second.bytes.data(), checkpoint->find("a.weight")->bytes.data() + 6);
  EXPECT_TRUE(scratch.empty());
  EXPECT_EQ(text_of(checkpoint->all_rows("b", std::vector<int64_t>{4}, scratch).bytes), "cdef");
}

TEST(Safetensors, NamesExpectedAndFoundShape) {
  const TempFolder folder;
  folder.write("model.safetensors", safetensors(kHeader, kData));
  const auto checkpoint = open_checkpoint(folder.path());
  std::vector<std::byte> scratch;
  const auto message = [&](const char* name, std::vector<int64_t> shape, int64_t first, int64_t count) {
    try {
      checkpoint->rows(name, shape, first, count, scratch);
    } catch (const Error& e) {
      return std::string(e.what());
    }
    return std::string("accepted");
  };

  EXPECT_THAT(message("a.weight", {3, 2}, 0, 1), AllOf(HasSubstr("model.safetensors: tensor \"a.weight\""),
                                                       HasSubstr("expected shape (3, 2), found (2, 3)")));
  EXPECT_THAT(message("a.weight", {6}, 0, 1), HasSubstr("expected shape (6), found (2, 3)"));
  EXPECT_THAT(message("a.bias", {3}, 0, 1), HasSubstr("tensor \"a.bias\" of shape (3) is missing"));
  EXPECT_THAT(message("a.weight", {2, 3}, 1, 2), HasSubstr("it has 2"));
  EXPECT_THAT(message("a.weight", {2, 3}, -1, 2), HasSubstr("it has 2"));
  EXPECT_EQ(message("a.weight", {2, 3}, 2, 0), "accepted");
}

TEST(Safetensors, FindsShardsThroughTheIndexOnly) {
  const TempFolder folder;
  folder.write("model.safetensors.index.json",
               R"({"metadata":{"total_size":20},"weight_map":{"b":"one.safetensors","c":"größe-2"}})");
  folder.write("one.safetensors", safetensors(kHeader, kData));
  folder.write("größe-2", safetensors(R"({"c":{"dtype":"U8","shape":[2,2],"data_offsets":[0,4]}})", "wxyz"));

  const auto checkpoint = open_checkpoint(folder.path());

  EXPECT_THAT(checkpoint->names(), ElementsAre("b", "c"));  // a.weight is in a file but not in the index
  EXPECT_EQ(text_of(checkpoint->find("c")->bytes), "wxyz");
  EXPECT_EQ(checkpoint->find("c")->file, "größe-2");
}

TEST(Safetensors, TakesNamesInAnyLanguageAndEmptyTensors) {
  const TempFolder folder;
  folder.write("model.safetensors", safetensors(R"({"层.权重":{"dtype":"F32","shape":[],"data_offsets":[0,4]},
                 "e":{"dtype":"F32","shape":[0,7],"data_offsets":[4,4]}} )",
                                                "1234"));

  const auto checkpoint = open_checkpoint(folder.path());

  EXPECT_EQ(text_of(checkpoint->find("层.权重")->bytes), "1234");
  std::vector<std::byte> scratch;
  EXPECT_EQ(checkpoint->all_rows("e", std::vector<int64_t>{0, 7}, scratch).bytes.size(), 0u);
  EXPECT_EQ(text_of(checkpoint->all_rows("层.权重", {}, scratch).bytes), "1234");
}

TEST(Safetensors, RefusesWhatIsNoSafetensorsFile) {
  EXPECT_THAT(refusal(""), HasSubstr("found 0 bytes"));
  EXPECT_THAT(refusal("abc"), HasSubstr("found 3 bytes"));
  EXPECT_THAT(refusal("version https://git-lfs.github.com/spec/v1\noid sha256:0\n"), HasSubstr("Git LFS pointer"));
  EXPECT_THAT(refusal(std::string(8, '\xff') + "{}"), HasSubstr("header length is 18446744073709551615 bytes"));
  EXPECT_THAT(refusal(safetensors("", "")), HasSubstr("does not start with '{'"));
  EXPECT_THAT(refusal(safetensors("[1]", "")), HasSubstr("does not start with '{'"));
  EXPECT_THAT(refusal(safetensors("{\"a\":", "")), AllOf(HasSubstr("not valid JSON"), HasSubstr("line 1, column 6")));
  EXPECT_THAT(refusal(safetensors("{\"\xff\":1}", "")), HasSubstr("not valid JSON"));
  EXPECT_THAT(refusal(safetensors("{\"a\":" + std::string(1'000'000, '['), "")), HasSubstr("nested deeper than 4"));
}

TEST(Safetensors, RefusesATruncatedFileAtOpening) {
  const std::string whole = safetensors(kHeader, kData);

  for (size_t size = 0; size < whole.size(); ++size) {
    const std::string message = refusal(whole.substr(0, size));
    EXPECT_THAT(message, HasSubstr("model.safetensors")) << "cut to " << size;
    EXPECT_THAT(message, HasSubstr(size < 8 ? "expected a safetensors file" : "was it downloaded completely")) << size;
  }
  EXPECT_EQ(refusal(whole), "accepted");
  EXPECT_THAT(refusal(whole + "x"), HasSubstr("the tensors end at byte 16, but the file holds 17 bytes"));
}

TEST(Safetensors, RefusesBadTensorsNamingThem) {
  const auto where = HasSubstr("model.safetensors: tensor \"a.weight\": ");
  EXPECT_THAT(refusal_of_tensor("7"), AllOf(where, HasSubstr("expected an object")));
  EXPECT_THAT(refusal_of_tensor(R"({"shape":[4],"data_offsets":[0,16]})"), AllOf(where, HasSubstr("dtype: expected")));
  EXPECT_THAT(refusal_of_tensor(R"({"dtype":"F4","shape":[4],"data_offsets":[0,16]})"),
              AllOf(where, HasSubstr("dtype \"F4\" is not supported")));
  EXPECT_THAT(refusal_of_tensor(R"({"dtype":"F32","data_offsets":[0,16]})"),
              AllOf(where, HasSubstr("shape: expected")));
  EXPECT_THAT(refusal_of_tensor(R"({"dtype":"F32","shape":[-4],"data_offsets":[0,16]})"),
              AllOf(where, HasSubstr("-4")));
  EXPECT_THAT(refusal_of_tensor(R"({"dtype":"F32","shape":[4.5],"data_offsets":[0,16]})"), HasSubstr("4.5"));
  EXPECT_THAT(refusal_of_tensor(R"({"dtype":"F32","shape":["4"],"data_offsets":[0,16]})"), HasSubstr("\"4"));
  EXPECT_THAT(refusal_of_tensor(R"({"dtype":"F32","shape":[18446744073709551615],"data_offsets":[0,16]})"),
              HasSubstr("18446744073709551615"));
  EXPECT_THAT(refusal_of_tensor(R"({"dtype":"F32","shape":[4],"data_offsets":[16,0]})"), HasSubstr("(begin, end)"));
  EXPECT_THAT(refusal_of_tensor(R"({"dtype":"F32","shape":[4],"data_offsets":[0]})"), HasSubstr("(begin, end)"));
  EXPECT_THAT(refusal_of_tensor(R"({"dtype":"F32","shape":[4],"data_offsets":null})"), HasSubstr("data_offsets"));
  EXPECT_THAT(refusal_of_tensor(R"({"dtype":"F32","shape":[5],"data_offsets":[0,16]})"),
              AllOf(where, HasSubstr("F32 of shape (5) takes 20 bytes"), HasSubstr("hold 16")));
  EXPECT_THAT(refusal_of_tensor(R"({"dtype":"F32","shape":[8],"data_offsets":[0,32]})"),
              AllOf(where, HasSubstr("end at byte 32"), HasSubstr("holds 16 bytes")));
}

TEST(Safetensors, RefusesProductsThatOverflow) {
  // 2^32 * 2^32 wraps to 0, 2^62 * 4 bytes wraps to 0 as well.
  EXPECT_THAT(refusal_of_tensor(R"({"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,0]})", ""),
              HasSubstr("more than 2^63"));
  EXPECT_THAT(refusal_of_tensor(R"({"dtype":"F32","shape":[4611686018427387904],"data_offsets":[0,0]})", ""),
              HasSubstr("more than 2^63"));
  EXPECT_THAT(
      refusal_of_tensor(R"({"dtype":"U8","shape":[9223372036854775807],"data_offsets":[0,9223372036854775807]})"),
      HasSubstr("holds 16 bytes"));
}

TEST(Safetensors, RefusesHolesOverlapsAndDuplicates) {
  const auto two = [](const char* first, const char* second) {
    return safetensors(std::string(R"({"a":{"dtype":"U8","shape":[8],"data_offsets":)") + first +
                           R"(},"b":{"dtype":"U8","shape":[8],"data_offsets":)" + second + "}}",
                       kData);
  };

  EXPECT_EQ(refusal(two("[8,16]", "[0,8]")), "accepted");
  EXPECT_THAT(refusal(two("[0,8]", "[4,12]")), HasSubstr("tensor \"b\": its data begin at byte 4, expected at 8"));
  EXPECT_THAT(refusal(two("[0,8]", "[0,8]")), HasSubstr("begin at byte 0, expected at 8"));
  EXPECT_THAT(refusal(safetensors(R"({"a":{"dtype":"U8","shape":[8],"data_offsets":[8,16]}})", kData)),
              HasSubstr("begin at byte 8, expected at 0"));
  EXPECT_THAT(refusal(safetensors(R"({"a":{"dtype":"U8","shape":[8],"data_offsets":[0,8]},)"
                                  R"("a":{"dtype":"U8","shape":[8],"data_offsets":[8,16]}})",
                                  kData)),
              HasSubstr("\"a\" appears twice"));
  EXPECT_THAT(refusal_of_tensor(R"({"dtype":"U8","dtype":"I8","shape":[16],"data_offsets":[0,16]})"),
              HasSubstr("\"dtype\" appears twice"));
}

TEST(Safetensors, RefusesBadIndexes) {
  EXPECT_THAT(refusal_of_index(""), HasSubstr("not valid JSON"));
  EXPECT_THAT(refusal_of_index("[]"), HasSubstr("weight_map: expected an object"));
  EXPECT_THAT(refusal_of_index(R"({"weight_map":[]})"), HasSubstr("weight_map: expected an object"));
  EXPECT_THAT(refusal_of_index(R"({"weight_map":{}})"), HasSubstr("weight_map is empty"));
  EXPECT_THAT(refusal_of_index(R"({"weight_map":{"a.weight":1}})"), HasSubstr("expected the name of a file"));
  EXPECT_THAT(refusal_of_index(R"({"weight_map":{"a.weight":"../one.safetensors"}})"), HasSubstr("in this folder"));
  EXPECT_THAT(refusal_of_index(R"({"weight_map":{"a.weight":".."}})"), HasSubstr("in this folder"));
  EXPECT_THAT(refusal_of_index(R"({"weight_map":{"a.weight":"one.safetensors\u0000"}})"), HasSubstr("in this folder"));
  EXPECT_THAT(refusal_of_index(R"({"weight_map":{"a.weight":"two.safetensors","b":"one.safetensors"}})"),
              HasSubstr("1 of 2 files of model.safetensors.index.json are missing, the first is \"two.safetensors\""));
  EXPECT_THAT(refusal_of_index(R"({"weight_map":{"a.weight":")" + std::string(5000, 'x') + "\"}}"),
              HasSubstr("1 of 1 files"));
  EXPECT_THAT(refusal_of_index(R"({"weight_map":{"c.weight":"one.safetensors"}})"),
              AllOf(HasSubstr("one.safetensors"), HasSubstr("tensor \"c.weight\" is missing")));
  EXPECT_THAT(refusal_of_index(R"({"weight_map":{"b":"one.safetensors","b":"one.safetensors"}})"),
              HasSubstr("\"b\" appears twice"));
}

TEST(Safetensors, RefusesFoldersWithoutWeights) {
  const TempFolder folder;
  EXPECT_THROW(open_checkpoint(folder.path()), Error);
  EXPECT_THROW(open_checkpoint(folder.path() / "absent"), Error);
  std::filesystem::create_directory(folder.path() / "model.safetensors");
  EXPECT_THROW(open_checkpoint(folder.path()), Error);
}

// Whatever happens to the bytes, opening either throws Error or gives tensors that lie inside the file.
TEST(Safetensors, SurvivesRandomDamage) {
  const std::string whole = safetensors(kHeader, kData);
  const TempFolder folder;
  std::mt19937 random(7);
  int accepted = 0;
  for (int round = 0; round < 4000; ++round) {
    std::string damaged = whole;
    for (uint32_t flips = random() % 4; flips > 0; --flips) damaged[random() % damaged.size()] ^= 1 << random() % 8;
    if (random() % 4 == 0) damaged.resize(random() % damaged.size());
    if (random() % 8 == 0) damaged.insert(random() % (damaged.size() + 1), 1 + random() % 9, "0[{\":,}9"[random() % 8]);
    folder.write("model.safetensors", damaged);
    try {
      const auto checkpoint = open_checkpoint(folder.path());
      int sum = 0;
      for (const auto name : checkpoint->names()) {
        for (const std::byte b : checkpoint->find(name)->bytes) sum += std::to_integer<int>(b);
      }
      accepted += sum >= 0;
    } catch (const Error& e) {
      EXPECT_EQ(e.exit_code(), kExitModel);
    }
  }
  EXPECT_GT(accepted, 200);  // undamaged rounds, and flips in data and names
}

TEST(RowCount, IsTheProductOfAllButTheLastDimension) {
  const auto rows = [](std::vector<int64_t> shape) { return count_rows(shape)->rows; };
  EXPECT_EQ(rows({}), 1);
  EXPECT_EQ(rows({5}), 1);
  EXPECT_EQ(rows({2, 3, 5}), 6);
  EXPECT_EQ(count_rows(std::vector<int64_t>{2, 3, 5})->columns, 5);
  EXPECT_EQ(count_rows(std::vector<int64_t>{int64_t{1} << 40, int64_t{1} << 40, 1}), std::nullopt);
}

}  // namespace
}  // namespace kt
