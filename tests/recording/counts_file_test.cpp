#include "runtime/recording/counts_file.h"

#include <gmock/gmock.h>

#include <algorithm>
#include <numeric>

#include "runtime/base/error.h"
#include "runtime/recording/torch_file.h"
#include "tests/refusal_of.h"
#include "tests/temp_folder.h"

namespace kt {
namespace {

using testing::AnyOf;
using testing::ElementsAre;
using testing::HasSubstr;
using namespace std::string_literals;

std::string refusal(const std::filesystem::path& file) {
  return refusal_of([&] { read_counts(file); }, kExitUsage);
}

std::filesystem::path write(const TempFolder& folder, const std::string& name, std::string_view text) {
  folder.write(name, text);
  return folder.path() / name;
}

std::string read_file(const std::filesystem::path& path) {
  std::ifstream stream(path, std::ios::binary);
  return {std::istreambuf_iterator<char>(stream), {}};
}

// A file as torch.save lays it out, with this pickle.
std::filesystem::path torch_file(const TempFolder& folder, std::string_view pickle, std::string_view data) {
  ZipWriter zip(folder.path() / "counts.pt");
  zip.add("counts/data.pkl", std::string(pickle));
  zip.add("counts/data/0", std::string(data));
  zip.finish();
  return folder.path() / "counts.pt";
}

template <class T>
void save_tensor(const std::filesystem::path& file, std::vector<T> elements, std::vector<int64_t> shape) {
  TorchWriter writer(file);
  writer.tensor<T>(elements, shape);
  writer.finish();
}

std::string little_endian(std::initializer_list<int32_t> numbers) {
  return {reinterpret_cast<const char*>(numbers.begin()), numbers.size() * sizeof(int32_t)};
}

// torch.save({"rank": 0, "logical_count": torch.tensor([[1, 2], [3, 4]], dtype=torch.int32)}) of torch 2.15, but for
// "offset, shape, strides", which tests replace.
std::string pickled_dict(std::string_view place = "K\x00K\x02K\x02\x86q\x07K\x02K\x01\x86q\x08"s) {
  return "\x80\x02}q\x00(X\x04\x00\x00\x00rankq\x01K\x00X\x0d\x00\x00\x00logical_countq\x02"s +
         "ctorch._utils\n_rebuild_tensor_v2\nq\x03((X\x07\x00\x00\x00storageq\x04"
         "ctorch\nIntStorage\nq\x05X\x01\x00\x00\x00"
         "0q\x06X\x03\x00\x00\x00"
         "cpuq\x09K\x04tq\x0aQ"s +
         std::string(place) + "\x89"s + "ccollections\nOrderedDict\nq\x0b)Rq\x0ctq\x0dRq\x0eu."s;
}

TEST(CountsFile, ReadsItsOwnJsonBack) {
  const TempFolder folder;
  const ExpertCounts counts{2, 3, {1, 0, 2, 1ull << 52, 7, 9}};

  write_counts(folder.path() / "counts.json", counts);
  const ExpertCounts read = read_counts(folder.path() / "counts.json");

  EXPECT_EQ(read.layers, 2);
  EXPECT_EQ(read.experts, 3);
  EXPECT_EQ(read.counts, counts.counts);
}

TEST(CountsFile, JsonIsTheDocumentedOne) {
  const TempFolder folder;

  write_counts(folder.path() / "counts.json", {2, 2, {1, 2, 3, 4}});

  EXPECT_EQ(read_file(folder.path() / "counts.json"),
            "{\"ktmpi_expert_counts\":1,\"layers\":2,\"experts\":2,\"counts\":[[1,2],[3,4]]}\n");
}

TEST(CountsFile, SaysWhyItCannotBeWrittenAndKeepsWhatWasThere) {
  const TempFolder folder;
  const auto refused = [](const std::filesystem::path& path) {
    return refusal_of([&] { write_counts(path, {1, 2, {1, 2}}); }, kExitUsage);
  };
  std::filesystem::create_directory(folder.path() / "full.json.part");  // so that the new file cannot be made
  folder.write("full.json", "what was there");

  EXPECT_THAT(refused(folder.path() / "absent" / "counts.json"), HasSubstr("No such file"));
  EXPECT_THAT(refused(folder.path() / "full.json"), HasSubstr("cannot be written: Is a directory"));
  EXPECT_EQ(read_file(folder.path() / "full.json"), "what was there");
}

TEST(CountsFile, JsonThatIsWrongIsRefusedWithTheReason) {
  const TempFolder folder;
  const auto with = [&](std::string_view text) { return refusal(write(folder, "counts.json", text)); };

  EXPECT_THAT(with(R"({"ktmpi_expert_counts": 1, "layers": 1)"), HasSubstr("parse error"));
  EXPECT_THAT(with(R"({"layers": 1})"), HasSubstr("ktmpi_expert_counts"));
  EXPECT_THAT(with(R"({"ktmpi_expert_counts": 2, "layers": 1})"), HasSubstr("this program reads 1"));
  EXPECT_THAT(with(R"({"ktmpi_expert_counts": 1, "layers": 0, "experts": 1, "counts": []})"), HasSubstr("0 layers"));
  EXPECT_THAT(with(R"({"ktmpi_expert_counts": 1, "layers": 2, "experts": 1, "counts": [[1]]})"), HasSubstr("2 rows"));
  EXPECT_THAT(with(R"({"ktmpi_expert_counts": 1, "layers": 1, "experts": 2, "counts": [[1]]})"), HasSubstr("row 0"));
  EXPECT_THAT(with(R"({"ktmpi_expert_counts": 1, "layers": 1, "experts": 1, "counts": [[-1]]})"), HasSubstr("-1"));
  EXPECT_THAT(with(R"({"ktmpi_expert_counts": 1, "layers": 1, "experts": 1, "counts": [["x"]]})"), HasSubstr("\"x\""));
  EXPECT_THAT(with(R"({"ktmpi_expert_counts": 1, "layers": 1e300, "experts": 1, "counts": []})"), HasSubstr("1e+300"));
  EXPECT_THAT(with(R"({"ktmpi_expert_counts": )" + std::string(200'000, '[')), HasSubstr("deeper nesting"));
}

// 4096 layers of 65536 experts are 2 GiB of counts.
TEST(CountsFile, ManyCountsThatAreNotThereAreRefused) {
  const TempFolder folder;
  const std::string json = R"({"ktmpi_expert_counts": 1, "layers": 4096, "experts": 65536, "counts": [[1]]})";
  const std::string no_passes = "K\x00(K\x00M\x00\x10J\x00\x00\x01\x00t(K\x00K\x00K\x00t"s;
  const std::string one_pass = "K\x00(M\x00\x10J\x00\x00\x01\x00t(J\x00\x00\x01\x00K\x01t"s;

  EXPECT_THAT(refusal(write(folder, "counts.json", json)), HasSubstr("4096 rows"));
  EXPECT_THAT(refusal(torch_file(folder, pickled_dict(no_passes), "")), HasSubstr("holds no pass"));
  EXPECT_THAT(refusal(torch_file(folder, pickled_dict(one_pass), "")), HasSubstr("is not within its 0 elements"));
}

TEST(CountsFile, AFileOfAnotherKindIsRefusedWithWhatIsExpected) {
  const TempFolder folder;

  EXPECT_THAT(refusal(write(folder, "a", "")), HasSubstr("torch.save"));
  EXPECT_THAT(refusal(write(folder, "b", "\x80\x02 an old pickle")), HasSubstr("1.6 or later"));
  EXPECT_THAT(refusal(write(folder, "c", "PK\x03\x04 and no more")), HasSubstr("zip"));
  EXPECT_THAT(refusal(folder.path() / "absent"), HasSubstr("No such file"));
  EXPECT_THAT(refusal(folder.path()), HasSubstr("not a file"));
}

TEST(CountsFile, AddsThePassesOfATensor) {
  const TempFolder folder;
  save_tensor<int32_t>(folder.path() / "counts.pt", {1, 2, 3, 4, 10, 20, 30, 40}, {2, 2, 2});

  const ExpertCounts counts = read_counts(folder.path() / "counts.pt");

  EXPECT_EQ(counts.layers, 2);
  EXPECT_EQ(counts.experts, 2);
  EXPECT_THAT(counts.counts, ElementsAre(11, 22, 33, 44));
}

TEST(CountsFile, ReadsATensorOfOnePassAndOfOtherTypes) {
  const TempFolder folder;
  save_tensor<int64_t>(folder.path() / "counts.pt", {1, 2, 1ll << 40, 4, 5, 6}, {2, 3});

  EXPECT_THAT(read_counts(folder.path() / "counts.pt").counts, ElementsAre(1, 2, 1ull << 40, 4, 5, 6));
}

TEST(CountsFile, ReadsWhatTorchItselfWrites) {
  const TempFolder folder;

  const ExpertCounts counts = read_counts(torch_file(folder, pickled_dict(), little_endian({1, 2, 3, 4})));

  EXPECT_THAT(counts.counts, ElementsAre(1, 2, 3, 4));
}

TEST(CountsFile, FollowsStridesAndOffset) {
  const TempFolder folder;
  const std::string transposed = pickled_dict("K\x00K\x02K\x02\x86q\x07K\x01K\x02\x86q\x08"s);
  const std::string last_row = pickled_dict("K\x02K\x01K\x02\x86q\x07K\x02K\x01\x86q\x08"s);

  EXPECT_THAT(read_counts(torch_file(folder, transposed, little_endian({1, 2, 3, 4}))).counts, ElementsAre(1, 3, 2, 4));
  EXPECT_THAT(read_counts(torch_file(folder, last_row, little_endian({1, 2, 3, 4}))).counts, ElementsAre(3, 4));

  const std::string any_stride_of_one =
      pickled_dict("K\x02K\x01K\x02\x86q\x07\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7fK\x01\x86q\x08"s);
  EXPECT_THAT(read_counts(torch_file(folder, any_stride_of_one, little_endian({1, 2, 3, 4}))).counts,
              ElementsAre(3, 4));
}

TEST(CountsFile, ATensorBeyondItsStorageIsRefused) {
  const TempFolder folder;
  const std::string largest = "\x8a\x08\xff\xff\xff\xff\xff\xff\xff\x7f";
  const std::string places[] = {
      "K\x01K\x02K\x02\x86K\x02K\x01\x86"s,              // one too far
      "K\x00K\x02K\x02\x86K\x03K\x01\x86"s,              // too wide
      "K\x00K\xffK\xff\x86K\x00K\x00\x86"s,              // one element many times
      "J\xff\xff\xff\xffK\x02K\x01\x86K\x02K\x01\x86"s,  // from before its beginning
      "K\x00J\xfe\xff\xff\xffK\x02\x86K\x02K\x01\x86"s,  // a size below zero
      "K\x00K\x02K\x02\x86K\x02\x85"s,                   // a stride is missing
      "K\x00K\x02K\x02\x86"s + largest + "K\x01\x86"s,   // more than can be counted
      "K\x00"s + largest + largest + "\x86K\x01K\x01\x86"s,
      largest + "K\x02K\x02\x86K\x02K\x01\x86"s,
  };
  for (const std::string& place : places) {
    SCOPED_TRACE(&place - places);
    EXPECT_THAT(refusal(torch_file(folder, pickled_dict(place), little_endian({1, 2, 3, 4}))),
                AnyOf(HasSubstr("is not within its 4 elements"), HasSubstr("expected at most 4096 of 65536")));
  }
}

TEST(CountsFile, ShortTensorDataIsRefused) {
  const TempFolder folder;

  EXPECT_THAT(refusal(torch_file(folder, pickled_dict(), little_endian({1, 2, 3}))),
              HasSubstr("is not within its 3 elements"));
}

TEST(CountsFile, NothingThatAFileNamesIsEverCalled) {
  const TempFolder folder;
  const std::string program =
      "\x80\x02"
      "cposix\nsystem\nX\x05\x00\x00\x00"
      "false\x85R."s;

  EXPECT_THAT(refusal(torch_file(folder, program, "")), HasSubstr("it calls posix system"));
}

TEST(CountsFile, PicklesThatAreNoneOfTensorsAreRefused) {
  const TempFolder folder;
  const auto with = [&](std::string_view pickle) { return refusal(torch_file(folder, pickle, "")); };

  EXPECT_THAT(with(""), HasSubstr("ends in the middle"));
  EXPECT_THAT(with("."), HasSubstr("stack is empty"));
  EXPECT_THAT(with("N."), HasSubstr("expected a tensor"));
  EXPECT_THAT(with("}."), HasSubstr("expected a tensor"));
  EXPECT_THAT(with("h\x05."), HasSubstr("did not keep"));
  EXPECT_THAT(with("X\xff\xff\xff\xff"), HasSubstr("ends in the middle"));
  EXPECT_THAT(with("t."), HasSubstr("no mark"));
  EXPECT_THAT(with("NNs."), HasSubstr("stack is empty"));
  EXPECT_THAT(with("NNNs."), HasSubstr("no dict"));
  EXPECT_THAT(with("NNa."), HasSubstr("no list"));
  EXPECT_THAT(with("}(Nu."), HasSubstr("no dict"));
  EXPECT_THAT(with("\x80\x05."), HasSubstr("protocol 5"));
  EXPECT_THAT(with("ios\nsystem\n."), HasSubstr("opcode 0x69"));
  EXPECT_THAT(with("Nb."), HasSubstr("opcode 0x62"));
}

TEST(CountsFile, ADictThatHoldsItselfIsNoTrouble) {
  const TempFolder folder;

  EXPECT_THAT(refusal(torch_file(folder, "}q\x01X\x01\x00\x00\x00xh\x01s."s, "")), HasSubstr("expected a tensor"));
}

TEST(CountsFile, CountsBelowZeroOrOfAWrongShapeAreRefused) {
  const TempFolder folder;

  save_tensor<int32_t>(folder.path() / "below.pt", {1, -2}, {1, 2});
  EXPECT_THAT(refusal(folder.path() / "below.pt"), HasSubstr("-2 is no count"));
  save_tensor<int32_t>(folder.path() / "flat.pt", {1, 2}, {2});
  EXPECT_THAT(refusal(folder.path() / "flat.pt"), HasSubstr("[passes, layers, experts]"));
  save_tensor<int32_t>(folder.path() / "empty.pt", {}, {0, 4});
  EXPECT_THAT(refusal(folder.path() / "empty.pt"), HasSubstr("0 layers"));
}

// Cut anywhere or with any byte changed, a file is read as something or refused; under the sanitizers no more happens.
TEST(CountsFile, DamagedFilesAreRefusedOrRead) {
  const TempFolder folder;
  save_tensor<int32_t>(folder.path() / "whole.pt", {1, 2, 3, 4}, {2, 2});
  const std::string whole = read_file(folder.path() / "whole.pt");
  for (size_t size = 0; size < whole.size(); ++size) {
    const std::filesystem::path cut = write(folder, "damaged.pt", std::string_view(whole).substr(0, size));
    EXPECT_THROW(read_counts(cut), Error) << "cut to " << size;
  }
  for (size_t at = 0; at < whole.size(); ++at) {
    for (const char change : {'\x01', '\xff'}) {
      std::string damaged = whole;
      damaged[at] = static_cast<char>(damaged[at] ^ change);
      try {
        read_counts(write(folder, "damaged.pt", damaged));
      } catch (const Error&) {
      }
    }
  }
}

// The checksums of a zip archive keep the changes above from the pickle's reader, so here it gets them directly.
TEST(CountsFile, DamagedPicklesAreRefusedOrRead) {
  const std::string whole = pickled_dict();
  for (size_t at = 0; at < whole.size(); ++at) {
    for (int value = 0; value < 256; ++value) {
      std::string damaged = whole;
      damaged[at] = static_cast<char>(value);
      try {
        read_pickle(damaged, "damaged");
      } catch (const Error&) {
      }
    }
    EXPECT_THROW(read_pickle(std::string_view(whole).substr(0, at), "cut"), Error);
  }
}

}  // namespace
}  // namespace kt
