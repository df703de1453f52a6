#include "runtime/checkpoint/packed.h"

#include <gmock/gmock.h>
#include <gtest/gtest.h>

#include <fstream>
#include <random>

#include "runtime/base/error.h"
#include "runtime/checkpoint/checksum.h"
#include "runtime/checkpoint/durable_file.h"
#include "tests/refusal_of.h"
#include "tests/temp_folder.h"

namespace kt {
namespace {

using testing::HasSubstr;

std::vector<std::byte> random_bytes(size_t n, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<std::byte> bytes(n);
  for (std::byte& b : bytes) b = static_cast<std::byte>(random());
  return bytes;
}
uint64_t checksum(const std::vector<std::byte>& bytes) {
  Checksum sum;
  sum.update(bytes);
  return sum.value();
}

TEST(ChecksumOfBytes, SeesEveryFlippedBitAndPairsOfHighestBits) {
  std::vector<std::byte> bytes = random_bytes(200, 1);
  const uint64_t whole = checksum(bytes);

  for (size_t i = 0; i < bytes.size() * 8; ++i) {
    bytes[i / 8] ^= std::byte(1 << i % 8);
    EXPECT_NE(checksum(bytes), whole) << i;
    bytes[i / 8] ^= std::byte(1 << i % 8);
  }
  for (size_t word = 7; word + 32 < bytes.size(); word += 8) {  // of one lane
    bytes[word] ^= std::byte{0x80};
    bytes[word + 32] ^= std::byte{0x80};
    EXPECT_NE(checksum(bytes), whole) << word;
    bytes[word] ^= std::byte{0x80};
    bytes[word + 32] ^= std::byte{0x80};
  }
}

TEST(ChecksumOfBytes, SeesLengthAndOrderButNotCutsAtMultiplesOf32) {
  const std::vector<std::byte> bytes = random_bytes(256, 2);
  std::vector<std::byte> longer = bytes, swapped = bytes;
  longer.push_back(std::byte{0});
  std::swap_ranges(swapped.begin(), swapped.begin() + 32, swapped.begin() + 32);
  Checksum cut;
  cut.update(std::span(bytes).first(96));
  cut.update(std::span(bytes).subspan(96));

  EXPECT_EQ(cut.value(), checksum(bytes));
  EXPECT_NE(checksum(longer), checksum(bytes));
  EXPECT_NE(checksum(swapped), checksum(bytes));
}

// Scales of an odd number of groups leave padding in each panel of `down`.
PackedManifest small_manifest(Format format) {
  return {.format = format,
          .architecture = "Test",
          .fingerprint = "0123456789abcdef",
          .hidden = 80,
          .inter = 144,
          .slice = 32,
          .experts = 3,
          .layers = {1, 4}};
}

// A folder whose experts are arbitrary bytes.
struct Folder {
  TempFolder temp;
  PackedManifest manifest;
  ThreadPool pool{2};

  explicit Folder(Format format = Format::AMXINT4) : manifest(small_manifest(format)) {
    for (const int layer : manifest.layers)
      manifest.files[layer] = write_layer(temp.path(), manifest, layer, pool, [&](int e, std::byte* out) {
        const auto bytes = expert(layer, e);
        std::copy(bytes.begin(), bytes.end(), out);
      });
    write_manifest(temp.path(), manifest);
  }
  std::vector<std::byte> expert(int layer, int e) const {
    return random_bytes(manifest.shape().bytes(), static_cast<uint32_t>(100 * layer + e));
  }
  // Opens a layer and takes all columns of all experts.
  void take(int layer) const {
    const PackedLayer file(temp.path(), manifest, layer);
    std::vector<std::byte> out(manifest.shape().bytes());
    for (int e = 0; e < manifest.experts; ++e)
      file.copy(e, 0, manifest.inter, out.data(), out.data() + manifest.shape().gate_up.bytes());
  }
};

TEST(PackedFolder, GivesBackTheManifestAndTheExperts) {
  for (Format format : {Format::AMXINT4, Format::AMXINT8}) {
    const Folder folder(format);

    const auto read = read_manifest(folder.temp.path());
    ASSERT_TRUE(read);
    EXPECT_TRUE(read->same_conversion(folder.manifest));
    EXPECT_TRUE(read->complete());
    EXPECT_EQ(read->files, folder.manifest.files);
    const PackedLayer layer(folder.temp.path(), *read, 4);
    const auto expected = folder.expert(4, 2);
    EXPECT_EQ(std::vector(layer.expert(2), layer.expert(2) + expected.size()), expected);
    EXPECT_NO_THROW(folder.take(1));
  }
}

// Every column of every range lands where the matrix of that range has it.
TEST(PackedFolder, CopiesAnyRunOfSlicesAsAMatrixOfItsOwn) {
  for (Format format : {Format::AMXINT4, Format::AMXINT8}) {
    const Folder folder(format);
    const PackedShape whole = folder.manifest.shape();
    const PackedLayer layer(folder.temp.path(), folder.manifest, 1);
    const auto source = folder.expert(1, 0);
    for (int first = 0; first < whole.inter; first += whole.slice)
      for (int end = first + whole.slice;; end += whole.slice) {
        end = std::min(end, whole.inter);
        const PackedShape part = packed_shape(format, 80, end - first, 32);
        std::vector<std::byte> out(part.bytes(), std::byte{0xee});
        layer.copy(0, first, end - first, out.data(), out.data() + part.gate_up.bytes());

        for (int p = 0; p < part.gate_up.panels(); ++p)
          EXPECT_TRUE(std::equal(&out[p * part.gate_up.panel_bytes()], &out[(p + 1) * part.gate_up.panel_bytes() - 1],
                                 &source[(p + first / 8) * whole.gate_up.panel_bytes()]))
              << "gate_up panel " << p << " of " << first << "-" << end;
        const int tile_bytes = info(format).tile_bytes;
        for (int p = 0; p < part.down.panels(); ++p) {
          const std::byte* panel = &out[part.gate_up.bytes() + p * part.down.panel_bytes()];
          const std::byte* from = &source[whole.gate_up.bytes() + p * whole.down.panel_bytes()];
          for (int t = 0; t < part.down.k_tiles(); ++t) {
            const int at = first / kTileK + t;
            EXPECT_TRUE(std::equal(panel + t * tile_bytes, panel + (t + 1) * tile_bytes, from + at * tile_bytes));
            EXPECT_TRUE(std::equal(panel + part.down.scales_at() + t * 32, panel + part.down.scales_at() + t * 32 + 32,
                                   from + whole.down.scales_at() + at * 32));
          }
        }
        if (end == whole.inter) break;
      }
  }
}

TEST(PackedFolder, RefusesEveryDamagedByteWithFileLayerAndExpert) {
  Folder folder;
  const std::filesystem::path path = layer_file(folder.temp.path(), 4);
  const size_t expert_bytes = folder.manifest.shape().bytes();
  const size_t data = folder.manifest.files[4].bytes - 3 * expert_bytes - 3 * 5 * 8;

  for (size_t at = 0; at < folder.manifest.files[4].bytes; at += at < data ? 1 : 53) {
    std::fstream file(path, std::ios::in | std::ios::out | std::ios::binary);
    file.seekg(static_cast<std::streamoff>(at));
    const char was = static_cast<char>(file.get());
    file.seekp(static_cast<std::streamoff>(at)).put(static_cast<char>(was ^ 0x10)).flush();

    const std::string error = refusal_of([&] { folder.take(4); });

    EXPECT_THAT(error, HasSubstr("layer-00004.safetensors: layer 4")) << at;
    if (at >= data && at < data + 3 * expert_bytes) {
      EXPECT_THAT(error, HasSubstr(fmt::format("expert {}: columns", (at - data) / expert_bytes))) << at;
    }
    file.seekp(static_cast<std::streamoff>(at)).put(was).flush();
  }
  EXPECT_NO_THROW(folder.take(4));
}

TEST(PackedFolder, VerifiesOnlyTheColumnsThatAreTaken) {
  Folder folder;
  const PackedShape shape = folder.manifest.shape();
  std::fstream file(layer_file(folder.temp.path(), 1), std::ios::in | std::ios::out | std::ios::binary);
  file.seekp(static_cast<std::streamoff>(folder.manifest.files[1].bytes - 3 * shape.bytes() - 3 * 5 * 8))
      .put(0)
      .flush();
  const PackedLayer layer(folder.temp.path(), folder.manifest, 1);
  std::vector<std::byte> out(shape.bytes());

  EXPECT_NO_THROW(layer.copy(0, 32, 64, out.data(), out.data() + shape.gate_up.bytes()));
  EXPECT_THAT(refusal_of([&] { layer.copy(0, 0, 32, out.data(), out.data() + shape.gate_up.bytes()); }),
              HasSubstr("layer 1, expert 0: columns 0 to 32 do not have their checksum"));
}

TEST(PackedFolder, RefusesTruncatedSwappedAndMissingFiles) {
  Folder folder;
  const auto one = layer_file(folder.temp.path(), 1), four = layer_file(folder.temp.path(), 4);

  std::filesystem::rename(one, folder.temp.path() / "x");
  EXPECT_THAT(refusal_of([&] { folder.take(1); }), HasSubstr("layer-00001.safetensors"));
  std::filesystem::rename(four, one);
  EXPECT_THAT(refusal_of([&] { folder.take(1); }), HasSubstr("layer 1: the table of checksums is not the manifest's"));
  std::filesystem::resize_file(one, folder.manifest.files[1].bytes - 1);
  EXPECT_THAT(refusal_of([&] { folder.take(1); }), HasSubstr("layer 1: expected"));
}

TEST(PackedManifests, AreRefusedWhenTheyAreNotOurs) {
  const TempFolder temp;
  const auto error_with = [&](const std::string& text) {
    std::ofstream(temp.path() / "manifest.json") << text;
    return refusal_of([&] { read_manifest(temp.path()); });
  };
  const Folder good;
  std::stringstream text;
  text << std::ifstream(good.temp.path() / "manifest.json").rdbuf();
  const auto changed = [&](const std::string& from, const std::string& to) {
    std::string s = text.str();
    s.replace(s.find(from), from.size(), to);
    return error_with(s);
  };

  EXPECT_FALSE(read_manifest(temp.path()));
  EXPECT_THAT(error_with("{}"), HasSubstr("not written by `ktmpi convert`"));
  EXPECT_THAT(error_with("["), HasSubstr("not valid JSON"));
  EXPECT_THAT(changed("\"version\": 1", "\"version\": 2"), HasSubstr("version 2 is not supported"));
  EXPECT_THAT(changed("AMXINT4", "AMXINT2"), HasSubstr("method: expected AMXINT4 or AMXINT8"));
  EXPECT_THAT(changed("\"hidden\": 80", "\"hidden\": -80"), HasSubstr("hidden: expected an integer"));
  EXPECT_THAT(changed("\"slice\": 32", "\"slice\": 48"), HasSubstr("slice: expected a multiple of 32"));
  EXPECT_THAT(changed("\"layer\": 4", "\"layer\": 1"), HasSubstr("1 does not come after 1"));
  EXPECT_THAT(changed("\"checksum\": \"", "\"checksum\": \"x"), HasSubstr("expected 16 hexadecimal digits"));
  EXPECT_EQ(error_with(text.str()), "accepted");
}

TEST(KTransformersFolders, AreRecognisedByTheirNames) {
  const TempFolder layers, merged, plain;
  std::filesystem::create_directories(layers.path() / "_layer_3" / "_numa_0");
  std::ofstream(merged.path() / "model.safetensors.index.json")
      << R"({"weight_map": {"blk.3.ffn_up_exps.0.numa.0.weight": "model-00001-of-00001.safetensors"}})";
  std::ofstream(plain.path() / "model.safetensors.index.json")
      << R"({"weight_map": {"model.layers.3.mlp.experts.0.up_proj.weight": "model.safetensors"}})";

  EXPECT_TRUE(converted_by_ktransformers(layers.path()));
  EXPECT_TRUE(converted_by_ktransformers(merged.path()));
  EXPECT_FALSE(converted_by_ktransformers(plain.path()));
  EXPECT_FALSE(converted_by_ktransformers(plain.path() / "nothing"));
}

TEST(DurableFiles, AppearWholeOrNotAtAll) {
  const TempFolder temp;
  const auto bytes = random_bytes(1000, 3);
  {
    DurableFile abandoned(temp.path() / "a");
    abandoned.write(bytes, 0);
  }
  EXPECT_FALSE(std::filesystem::exists(temp.path() / "a"));
  DurableFile file(temp.path() / "a");
  file.write(bytes, 0);
  file.commit();

  EXPECT_EQ(std::filesystem::file_size(temp.path() / "a"), bytes.size());
  EXPECT_FALSE(std::filesystem::exists(temp.path() / "a.part"));
  EXPECT_THAT(refusal_of([] { DurableFile("/nonexistent/a"); }, kExitTryAgain), HasSubstr("/nonexistent/a.part"));
}

TEST(FolderLocks, AreHeldByOne) {
  const TempFolder temp;
  {
    const FolderLock lock(temp.path());
    EXPECT_THAT(refusal_of([&] { FolderLock second(temp.path()); }, kExitTryAgain), HasSubstr("another process"));
  }
  EXPECT_NO_THROW(FolderLock again(temp.path()));
}

}  // namespace
}  // namespace kt
