// Runs a fuzz target: each file of a folder, then a fixed sequence of changes to them, 4000 or as many as SECONDS
// allow.
//
//   fuzz_TARGET FOLDER [SECONDS]
//
// An input that breaks the target, keeps it busy for 5 s or takes more than 512 MiB is written to fuzz_TARGET-input in
// the working folder.
#include <fcntl.h>
#include <sys/resource.h>
#include <sys/time.h>
#include <unistd.h>

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <random>
#include <string>
#include <string_view>
#include <vector>

extern "C" int LLVMFuzzerTestOneInput(const uint8_t* data, size_t size);

using namespace std::string_view_literals;

namespace {

constexpr int kSeconds = 5;  // of the processor, for one input
constexpr long kRounds = 4000;
constexpr rlim_t kMemory = 512 << 20;  // bytes

std::string input, input_file;  // signals can only reach what is global

extern "C" void keep_input(int number) {
  const int file = open(input_file.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
  const bool kept = file >= 0 && write(file, input.data(), input.size()) == static_cast<ssize_t>(input.size());
  const char* const message = kept ? "fuzz: the input was kept\n" : "fuzz: the input could not be kept\n";
  (void)!write(STDERR_FILENO, message, std::char_traits<char>::length(message));
  std::signal(number, SIG_DFL);
  std::raise(number);
}

// Sanitizers reserve address space of their own, and report bad memory themselves.
void set_limits() {
#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)
  const rlimit memory{kMemory, kMemory};
  setrlimit(RLIMIT_AS, &memory);
  std::signal(SIGSEGV, keep_input);
#endif
  std::signal(SIGABRT, keep_input);
  std::signal(SIGPROF, keep_input);
}

void run() {
  const itimerval limit{.it_interval = {}, .it_value = {.tv_sec = kSeconds, .tv_usec = 0}};
  setitimer(ITIMER_PROF, &limit, nullptr);
  LLVMFuzzerTestOneInput(reinterpret_cast<const uint8_t*>(input.data()), input.size());
}

std::vector<std::string> read_folder(const char* folder) {
  std::vector<std::filesystem::path> paths;
  for (const auto& entry : std::filesystem::directory_iterator(folder)) paths.push_back(entry.path());
  std::sort(paths.begin(), paths.end());
  std::vector<std::string> files;
  for (const std::filesystem::path& path : paths) {
    std::ifstream stream(path, std::ios::binary);
    files.emplace_back(std::istreambuf_iterator<char>(stream), std::istreambuf_iterator<char>());
  }
  return files;
}

// One to eight bytes set, bits flipped, parts cut out, doubled, or taken from another file.
std::string change(std::string text, const std::vector<std::string>& files, std::mt19937& random) {
  constexpr std::string_view kTelling = "\0\xff\x7f\x80 \n\r:,\"\\/<>[]{}()0-9.e%"sv;
  for (auto times = 1 + random() % 8; times > 0; --times) {
    const size_t at = random() % (text.size() + 1), length = random() % 9;
    const std::string& other = files[random() % files.size()];
    switch (random() % 6) {
      case 0: text.insert(at, 1, static_cast<char>(random())); break;
      case 1: text.insert(at, 1, kTelling[random() % kTelling.size()]); break;
      case 2: text.erase(at, length); break;
      case 3: text.insert(at, text.substr(at, length)); break;
      case 4: text.insert(at, other.substr(random() % (other.size() + 1), 4 * length)); break;
      default:
        if (at < text.size()) text[at] = static_cast<char>(text[at] ^ 1 << random() % 8);
    }
  }
  return text;
}

}  // namespace

int main(int argc, char** argv) {
  if (argc < 2) {
    std::fprintf(stderr, "fuzz: %s FOLDER [SECONDS]\n", argv[0]);
    return 2;
  }
  input_file = std::filesystem::path(argv[0]).filename().string() + "-input";
  const std::vector<std::string> files = read_folder(argv[1]);
  const auto end = std::chrono::steady_clock::now() + std::chrono::seconds(argc > 2 ? std::atoi(argv[2]) : 0);
  if (files.empty()) {
    std::fprintf(stderr, "fuzz: %s is empty\n", argv[1]);
    return 2;
  }
  set_limits();
  for (const std::string& file : files) {
    input = file;
    run();
  }
  std::mt19937 random(1);
  long rounds = 0;
  for (; argc > 2 ? std::chrono::steady_clock::now() < end : rounds < kRounds; ++rounds) {
    input = change(files[random() % files.size()], files, random);
    run();
  }
  std::printf("fuzz: %zu files and %ld changes of them\n", files.size(), rounds);
}
