#include "runtime/config/run_config.h"

#include <fmt/format.h>
#include <gmock/gmock.h>
#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <sstream>

#include "runtime/base/error.h"
#include "runtime/config/options.h"

namespace kt {
namespace {

using testing::AllOf;
using testing::ElementsAre;
using testing::HasSubstr;
using testing::Not;
using Arguments = std::vector<std::string>;

RunConfig parse(const Arguments& arguments) { return parse_run_config(std::span<const std::string>(arguments)); }

// The message of the usage error that these arguments cause; "" and a failure if they cause none.
std::string error_of(const Arguments& arguments) {
  try {
    parse(arguments);
  } catch (const Error& error) {
    EXPECT_EQ(error.exit_code(), kExitUsage);
    return error.what();
  }
  ADD_FAILURE() << "accepted";
  return "";
}

// A file of its own for each test program, removed with the object.
class YamlFile {
 public:
  explicit YamlFile(const std::string& text)
      : path_(std::filesystem::path(testing::TempDir()) / fmt::format("run_config_{}.yaml", getpid())) {
    std::ofstream(path_) << text;
  }
  ~YamlFile() { std::filesystem::remove(path_); }
  std::string path() const { return path_.string(); }

 private:
  std::filesystem::path path_;
};

std::string yaml_error(const std::string& text) {
  const YamlFile file(text);
  return error_of({"--config", file.path()});
}

TEST(CommandLine, ReadsEveryTypeOfValue) {
  const RunConfig config = parse({"--model", "m", "--port=8080", "--step-timeout-s", "0.5", "--enable-mixed-chunk",
                                  "--kt-numa-nodes", "1", "0", "--max-total-tokens", "4096"});

  EXPECT_EQ(config.model, "m");
  EXPECT_EQ(config.port, 8080);
  EXPECT_EQ(config.step_timeout_s, 0.5);
  EXPECT_TRUE(config.enable_mixed_chunk);
  EXPECT_THAT(config.kt_numa_nodes, ElementsAre(1, 0));
  EXPECT_EQ(config.max_total_tokens, 4096);
  EXPECT_EQ(config.max_running_requests, std::nullopt);
}

TEST(CommandLine, ReadsTheRecordersOptions) {
  const RunConfig config =
      parse({"--model", "m", "--expert-distribution-recorder-mode", "per_token",
             "--expert-distribution-recorder-buffer-size", "-1", "--record-kt-gpu-expert-distribution"});

  EXPECT_EQ(config.expert_distribution_recorder_mode, "per_token");
  EXPECT_EQ(config.expert_distribution_recorder_buffer_size, -1);
  EXPECT_TRUE(config.record_kt_gpu_expert_distribution);
  EXPECT_EQ(parse({"--model", "m"}).expert_distribution_recorder_mode, "stat");
  EXPECT_THAT(error_of({"--model", "m", "--expert-distribution-recorder-mode", "all"}), HasSubstr("per_pass"));
  EXPECT_THAT(error_of({"--model", "m", "--expert-distribution-recorder-buffer-size", "0"}), HasSubstr("-1 for all"));
}

TEST(CommandLine, TakesUnderscoresInNamesOnly) {
  const RunConfig config = parse({"--model_path=my_model", "--served_model_name", "my_name"});

  EXPECT_EQ(config.model, "my_model");
  EXPECT_EQ(config.served_model_name, "my_name");
}

TEST(CommandLine, FlagsMaySayNo) {
  EXPECT_FALSE(parse({"--model", "m", "--enable-mixed-chunk=false"}).enable_mixed_chunk);
  EXPECT_TRUE(parse({"--enable-mixed-chunk", "--model", "m"}).enable_mixed_chunk);
}

TEST(CommandLine, TheLastOfTwoEqualOptionsWins) {
  EXPECT_EQ(parse({"--model", "m", "--tp", "2", "--tensor-parallel-size", "4"}).tensor_parallel_size, 4);
}

TEST(CommandLine, NamesTheNearestOptionForAnUnknownOne) {
  EXPECT_THAT(error_of({"--model", "m", "--kt-cpu-infer", "4"}),
              HasSubstr("--kt-cpu-infer; the nearest one is --kt-cpuinfer"));
  EXPECT_THAT(error_of({"--confg", "x"}), HasSubstr("the nearest one is --config"));
}

TEST(CommandLine, DoesNotGuessFromAPrefix) {
  EXPECT_THAT(error_of({"--model", "m", "--por", "1"}), HasSubstr("unknown option --por"));
}

TEST(CommandLine, RefusesStrayWordsAndMissingValues) {
  EXPECT_THAT(error_of({"--model", "m", "stray"}), HasSubstr("found 'stray'"));
  EXPECT_THAT(error_of({"--model"}), HasSubstr("--model"));
}

TEST(Values, AreCheckedForTypeAndRange) {
  EXPECT_THAT(error_of({"--model", "m", "--port", "70000"}),
              HasSubstr("command line: port: expected a whole number from 0 to 65535, found '70000'"));
  EXPECT_THAT(error_of({"--model", "m", "--max-total-tokens", "4k"}), HasSubstr("found '4k'"));
  EXPECT_THAT(error_of({"--model", "m", "--max-total-tokens", "99999999999"}), HasSubstr("found '99999999999'"));
  EXPECT_THAT(error_of({"--model", "m", "--step-timeout-s", "nan"}),
              HasSubstr("expected a number from 0.001 to 86400"));
  EXPECT_THAT(error_of({"--model", "m", "--enable-mixed-chunk=maybe"}), HasSubstr("expected true or false"));
  EXPECT_THAT(error_of({"--model", "m", "--max-running-requests", "-1"}), HasSubstr("found '-1'"));
  EXPECT_THAT(error_of({"--model", "m", "--load-format", "dumy"}),
              HasSubstr("expected one of auto, dummy (the nearest is dummy), found 'dumy'"));
}

TEST(Values, OriginsHaveASchemeAndNoPath) {
  EXPECT_EQ(parse({"--model", "m", "--allowed-origins", "https://a.example,http://localhost:5173"}).allowed_origins,
            "https://a.example,http://localhost:5173");
  for (const char* origin : {"*", "a.example", "https://", "https://a.example/", "ftp://a.example"})
    EXPECT_THAT(error_of({"--model", "m", "--allowed-origins", origin}), HasSubstr("allowed-origins: expected http://"))
        << origin;
}

TEST(Values, AnEmptyTextIsRefusedBecauseAnEmptyKeyWouldOpenTheDoor) {
  EXPECT_THAT(error_of({"--model", "m", "--api-key", ""}), HasSubstr("api-key: expected a text that is not empty"));
}

TEST(Yaml, IsOverruledByTheCommandLineAndOverrulesTheDefaults) {
  const YamlFile file("model: m\nport: 1234\nkt_numa_nodes: [0, 1]\nenable-mixed-chunk: true\nhost: '::1'\n");

  const RunConfig config = parse({"--config", file.path(), "--port", "4321"});

  EXPECT_EQ(config.model, "m");
  EXPECT_EQ(config.port, 4321);
  EXPECT_THAT(config.kt_numa_nodes, ElementsAre(0, 1));
  EXPECT_TRUE(config.enable_mixed_chunk);
  EXPECT_EQ(config.host, "::1");
}

TEST(Yaml, ErrorsNameFileAndLine) {
  EXPECT_THAT(yaml_error("model: m\n\nport: none\n"), HasSubstr(".yaml:3: port: expected a whole number"));
  EXPECT_THAT(yaml_error("model: m\nprot: 1\n"),
              HasSubstr(".yaml:2: unknown option 'prot'; the nearest one is 'port'"));
  EXPECT_THAT(yaml_error("model: [a, b]\n"), HasSubstr(".yaml:1: model: expected one value, found a list"));
  EXPECT_THAT(yaml_error("model: m\nhost:\n"), HasSubstr(".yaml:2: host: expected one value, found none"));
  EXPECT_THAT(yaml_error("model: m\nport: [1\n"), HasSubstr("not valid YAML"));
}

TEST(Yaml, RefusesWhatWouldBeDroppedSilently) {
  EXPECT_THAT(yaml_error("port: 1\nport: 2\n"), HasSubstr(".yaml:2: port: expected once, found again after"));
  EXPECT_THAT(yaml_error("model: a\n---\nmodel: b\n"), HasSubstr("expected one YAML document, found 2"));
  EXPECT_THAT(yaml_error("config: other.yaml\n"), HasSubstr("one file cannot name another"));
  EXPECT_THAT(yaml_error("- model\n"), HasSubstr("expected lines of the form 'option: value'"));
}

TEST(Yaml, SaysThatAFileCannotBeRead) {
  EXPECT_THAT(error_of({"--config", "/nonexistent/x.yaml"}), HasSubstr("--config /nonexistent/x.yaml: cannot be read"));
  EXPECT_THAT(error_of({"--config", "/"}), HasSubstr("is a folder"));
}

TEST(NotBuilt, IsRefusedByName) {
  if (find_option("device")->words.find("|cuda|") != std::string_view::npos) GTEST_SKIP() << "built with CUDA";
  EXPECT_THAT(error_of({"--model", "m", "--device", "cuda"}), HasSubstr("device: asked for 'cuda'"));
}

TEST(DispatchDtype, IsOneOfThoseThatTravel) {
  EXPECT_EQ(parse({"--model", "m"}).dispatch_dtype, "exact");
  EXPECT_EQ(parse({"--model", "m", "--dispatch-dtype", "bf16"}).dispatch_dtype, "bf16");
  EXPECT_THAT(error_of({"--model", "m", "--dispatch-dtype", "fp8"}),
              AllOf(HasSubstr("dispatch-dtype"), HasSubstr("float32"), HasSubstr("fp8")));
}

TEST(Experts, WhatCannotTakeEffectIsAnError) {
  EXPECT_THAT(error_of({"--model", "m", "--kt-enable-dynamic-expert-update"}),
              AllOf(HasSubstr("kt-gpu-prefill-token-threshold"), HasSubstr("no expert is hot")));
  EXPECT_THAT(error_of({"--model", "m", "--kt-expert-placement-strategy", "frequency"}),
              HasSubstr("init-expert-location"));
  EXPECT_THAT(error_of({"--model", "m", "--hot-weights", "model"}), HasSubstr("kt-num-gpu-experts"));
  EXPECT_THAT(error_of({"--model", "m", "--trunk-matmul", "tensor"}), HasSubstr("expected device cuda, found 'cpu'"));
  EXPECT_EQ(parse({"--model", "m", "--trunk-matmul", "tensor", "--device", "cuda-emulated"}).trunk_matmul, "tensor");
  EXPECT_THAT(error_of({"--model", "m", "--trunk-sums", "nccl", "--on-lost-expert-rank", "go-on"}),
              AllOf(HasSubstr("expected device cuda, found 'cpu'"), HasSubstr("set tensor-parallel-size"),
                    HasSubstr("set trunk-sums to host")));
  EXPECT_EQ(parse({"--model", "m", "--trunk-sums", "nccl", "--device", "cuda-emulated", "--tensor-parallel-size", "2"})
                .trunk_sums,
            "nccl");
  EXPECT_THAT(error_of({"--model", "m", "--kt-gpu-prefill-token-threshold", "many"}), HasSubstr("or auto"));
  EXPECT_EQ(parse({"--model", "m", "--kt-gpu-prefill-token-threshold", "auto"}).prefill_threshold(), -1);
  EXPECT_THAT(error_of({"--model", "m", "--bank", "replicate", "--expert-layout", "slice", "--kt-num-gpu-experts", "2",
                        "--kt-gpu-prefill-token-threshold", "auto", "--ep-num-redundant-experts", "1"}),
              AllOf(HasSubstr("expert-layout slice"), HasSubstr("kt-num-gpu-experts"), HasSubstr("-threshold fetches"),
                    HasSubstr("ep-num-redundant-experts copies")));
  EXPECT_THAT(error_of({"--model", "m", "--sliced-below", "4"}), HasSubstr("set bank to replicate"));
  EXPECT_TRUE(parse({"--model", "m", "--kt-gpu-experts-ratio", "0", "--kt-enable-dynamic-expert-update",
                     "--kt-gpu-prefill-token-threshold", "512"})
                  .kt_enable_dynamic_expert_update);
}

TEST(PrefillThreshold, OnACpuTrunkANumberMeansAutoUnlessItInsists) {
  const RunConfig number = parse({"--model", "m", "--kt-gpu-prefill-token-threshold", "512"});
  const RunConfig insisting = parse({"--model", "m", "--kt-gpu-prefill-token-threshold", "512!"});
  const RunConfig automatic = parse({"--model", "m", "--kt-gpu-prefill-token-threshold", "auto"});
  const RunConfig never = parse({"--model", "m", "--kt-gpu-prefill-token-threshold", "0"});
  RunConfig gpu = number;
  gpu.device = "cuda";

  EXPECT_EQ(number.prefill_threshold(), -1);
  EXPECT_EQ(number.update_threshold(), 512) << "which prefills re-choose the hot experts stays";
  EXPECT_THAT(number.warnings, ElementsAre(AllOf(HasSubstr("kt-gpu-prefill-token-threshold 512"), HasSubstr("auto"),
                                                 HasSubstr("512!"))));
  EXPECT_EQ(insisting.prefill_threshold(), 512);
  EXPECT_EQ(insisting.update_threshold(), 512);
  EXPECT_EQ(automatic.prefill_threshold(), -1);
  EXPECT_EQ(automatic.update_threshold(), 0);
  EXPECT_EQ(never.prefill_threshold(), 0);
  EXPECT_EQ(gpu.prefill_threshold(), 512);
  for (const RunConfig& quiet : {insisting, automatic, never}) EXPECT_TRUE(quiet.warnings.empty());
  for (const char* wrong : {"!", "5!!", "1000000000", "-5", "auto!"})
    EXPECT_THAT(error_of({"--model", "m", "--kt-gpu-prefill-token-threshold", wrong}), HasSubstr("or auto")) << wrong;
}

TEST(Numbers, BeyondWhatAnyMachineHasAreRefused) {
  for (const char* option : {"--tensor-parallel-size", "--kt-threadpool-count", "--chunked-prefill-size"})
    for (const char* value : {"2147483647", "2147483648", "-2147483648", "99999999999999999999"})
      EXPECT_THAT(error_of({"--model", "m", option, value}), HasSubstr("a whole number from")) << option << value;
}

TEST(NotBuilt, AcceptsAValueThatAsksForNothing) {
  const RunConfig config = parse({"--model", "m", "--kt-num-gpu-experts", "0", "--kt-expert-placement-strategy",
                                  "uniform", "--kt-enable-dynamic-expert-update=false", "--dispatch-dtype", "exact"});

  EXPECT_TRUE(config.warnings.empty());
}

TEST(NotBuilt, IsJudgedByTheLastValueOnly) {
  const YamlFile file("model: m\ndevice: cuda\n");

  EXPECT_NO_THROW(parse({"--config", file.path(), "--device", "cpu"}));
}

TEST(NoMeaning, WarnsOnceWithTheReason) {
  const RunConfig config = parse({"--model", "m", "--attention-backend", "triton", "--attention-backend", "triton"});

  ASSERT_EQ(config.warnings.size(), 1u);
  EXPECT_THAT(config.warnings[0], HasSubstr("attention-backend has no effect: the kernels follow from the device"));
}

TEST(Conflicts, AreRefused) {
  EXPECT_THAT(error_of({"--port", "1"}), HasSubstr("model is required"));
  EXPECT_THAT(error_of({"--model", "m", "--kt-threadpool-count", "2", "--kt-numa-nodes", "0"}),
              HasSubstr("kt-numa-nodes: expected 2 numbers"));
}

TEST(Defaults, OfPathsAreTheModel) {
  const RunConfig config = parse({"--model", "m", "--tokenizer-path", "t"});

  EXPECT_EQ(config.tokenizer_path, "t");
  EXPECT_EQ(config.kt_weight_path, "m");
  EXPECT_EQ(config.served_model_name, "m");
}

TEST(Help, NamesEveryOption) {
  const std::string help = run_config_help();

  for (const Option& option : all_options()) {
    EXPECT_THAT(help, HasSubstr("--" + std::string(option.name)));
    const bool says_why = !(option.status == Status::active ? option.help : option.reason).empty();
    EXPECT_TRUE(says_why) << option.name;
  }
  for (size_t begin = 0, end; begin < help.size(); begin = end + 1) {
    end = help.find('\n', begin);
    EXPECT_LE(end - begin, 130u) << help.substr(begin, end - begin);
  }
}

TEST(Json, ShowsWhatRunsButNoKeys) {
  const auto json =
      nlohmann::json::parse(to_json(parse({"--model", "m", "--api-key", "hush", "--trunk-threads", "3"})));

  EXPECT_EQ(json.at("model"), "m");
  EXPECT_EQ(json.at("trunk_threads"), 3);
  EXPECT_EQ(json.at("kt_cpuinfer"), nullptr);
  EXPECT_EQ(json.at("api_key"), "***");
  EXPECT_EQ(json.at("admin_api_key"), nullptr);
  EXPECT_FALSE(json.contains("attention_backend"));
}

TEST(Json, SurvivesAPathThatIsNotUtf8) {
  EXPECT_EQ(nlohmann::json::parse(to_json(parse({"--model", "\xff"}))).at("model"), "\xEF\xBF\xBD");
}

// The files of configs/ may ask for what is not built yet, and for nothing else that is wrong.
TEST(ConfigFiles, HoldOnlyKnownOptionsWithValidValues) {
  size_t files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(std::string(KTMPI_SOURCE_DIR) + "/configs")) {
    if (entry.path().extension() != ".yaml") continue;
    ++files;
    try {
      parse({"--config", entry.path().string()});
    } catch (const Error& error) {
      std::istringstream lines(error.what());
      for (std::string line; std::getline(lines, line);)
        EXPECT_TRUE(line.find(": asked for '") != std::string::npos || line.starts_with("ktmpi serve --help")) << line;
    }
  }
  EXPECT_GE(files, 5u);
}

// The words that follow "sglang.launch_server" in a shell command that goes on over lines ending in '\'.
std::vector<Arguments> launch_commands(const std::filesystem::path& file) {
  std::vector<Arguments> commands;
  bool inside = false;
  std::ifstream stream(file);
  for (std::string line; std::getline(stream, line);) {
    const bool starts = line.find("sglang.launch_server") != std::string::npos;
    if (starts) commands.emplace_back();
    if (inside) {
      std::istringstream words(line);
      for (std::string word; words >> word;)
        if (word != "\\") commands.back().push_back(word);
    }
    inside = (starts || inside) && line.ends_with('\\');
  }
  return commands;
}

// Every option of the KTransformers tutorials is known, and what is wrong with their values is only what is not built.
TEST(Tutorials, LaunchCommandsHoldOnlyKnownOptions) {
  const char* given = std::getenv("KTMPI_SHARED");
  const std::filesystem::path folder =
      (given ? std::filesystem::path(given) : std::filesystem::path(KTMPI_SOURCE_DIR) / "../shared") / "seeds";
  if (!std::filesystem::is_directory(folder)) GTEST_SKIP() << folder << " is absent; KTMPI_SHARED names its parent";

  size_t commands = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    for (const Arguments& arguments : launch_commands(entry.path())) {
      EXPECT_GE(arguments.size(), 6u) << entry.path();
      ++commands;
      try {
        parse(arguments);
      } catch (const Error& error) {
        EXPECT_THAT(error.what(), Not(HasSubstr("unknown option"))) << entry.path();
        EXPECT_THAT(error.what(), Not(HasSubstr("expected"))) << entry.path();
      }
    }
  }
  EXPECT_GE(commands, 8u);
}

}  // namespace
}  // namespace kt
