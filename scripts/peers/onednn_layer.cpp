// The matrix products of a layer of experts in oneDNN 2, for scripts/bench_peers.py: for every expert with rows, rows x
// (hidden, 2 inter) and rows x (inter, hidden) in bf16. Without activation, routing and adding up, which ktmpi's time
// includes. Weights are in the layout that oneDNN asks for, every expert in memory of its own, every call with a
// routing of its own.
//
//   onednn_layer --hidden H --inter I --experts E --topk K --tokens 1,4 --seconds 1

#include <omp.h>
#include <sys/mman.h>

#include <algorithm>
#include <chrono>
#include <cstdio>
#include <cstring>
#include <map>
#include <numeric>
#include <oneapi/dnnl/dnnl.hpp>
#include <random>
#include <sstream>
#include <string>
#include <vector>

using dnnl::memory;
using Clock = std::chrono::steady_clock;

// x (rows, k) times weights (k, n) that lie one after the other.
struct Product {
  long k, n;
  memory::desc weights;
  std::map<long, dnnl::matmul> by_rows;

  Product(const dnnl::engine& engine, long k, long n, long usual_rows) : k(k), n(n) {
    const memory::desc any({k, n}, memory::data_type::bf16, memory::format_tag::any);
    weights = description(engine, usual_rows, any).weights_desc();
  }
  dnnl::matmul::primitive_desc description(const dnnl::engine& engine, long rows, const memory::desc& w) const {
    return {{of_rows(rows, k), w, of_rows(rows, n)}, engine};
  }
  static memory::desc of_rows(long rows, long columns) {
    return {{rows, columns}, memory::data_type::bf16, memory::format_tag::ab};
  }
  void prepare(const dnnl::engine& engine, long rows) {
    if (!by_rows.count(rows)) by_rows.emplace(rows, dnnl::matmul(description(engine, rows, weights)));
  }
};

int main(int argc, char** argv) {
  std::map<std::string, std::string> o;
  for (int i = 1; i + 1 < argc; i += 2) o[argv[i] + 2] = argv[i + 1];
  const long hidden = std::stol(o["hidden"]), inter = std::stol(o["inter"]), experts = std::stol(o["experts"]),
             top_k = std::stol(o["topk"]);
  const double seconds = std::stod(o["seconds"]);
  const dnnl::engine engine(dnnl::engine::kind::cpu, 0);
  dnnl::stream stream(engine);
  std::mt19937_64 random(1);
  std::istringstream list(o["tokens"]);
  for (std::string text; std::getline(list, text, ',');) {
    const long tokens = std::stol(text), usual = std::max(1l, tokens * top_k / experts);
    Product up(engine, hidden, 2 * inter, usual), down(engine, inter, hidden, usual);
    const size_t each = up.weights.get_size() + down.weights.get_size();
    auto* bank =
        static_cast<char*>(mmap(nullptr, each * experts, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (bank == MAP_FAILED) return 1;
    madvise(bank, each * experts, MADV_HUGEPAGE);
    std::memset(bank, 0x3c, each * experts);
    std::vector<uint16_t> x(tokens * hidden, 0x3c3c), h(tokens * 2 * inter), y(tokens * hidden);

    std::vector<double> times;
    const auto start = Clock::now();
    auto since = [](Clock::time_point t) { return std::chrono::duration<double>(Clock::now() - t).count(); };
    for (int call = 0; call < 3 || (since(start) < seconds && call < 2000); ++call) {
      std::vector<long> rows(experts), all(experts);
      std::iota(all.begin(), all.end(), 0);
      for (long t = 0; t < tokens; ++t)
        for (long j = 0; j < top_k; ++j) {
          std::swap(all[j], all[j + random() % (experts - j)]);
          ++rows[all[j]];
        }
      for (long n : rows)
        if (n) up.prepare(engine, n), down.prepare(engine, n);
      const auto begin = Clock::now();
      for (long e = 0; e < experts; ++e) {
        const long n = rows[e];
        if (!n) continue;
        char* w = bank + e * each;
        const memory in(Product::of_rows(n, hidden), engine, x.data()), mid(up.of_rows(n, 2 * inter), engine, h.data()),
            half(Product::of_rows(n, inter), engine, h.data()), out(Product::of_rows(n, hidden), engine, y.data());
        up.by_rows.at(n).execute(
            stream, {{DNNL_ARG_SRC, in}, {DNNL_ARG_WEIGHTS, memory(up.weights, engine, w)}, {DNNL_ARG_DST, mid}});
        down.by_rows.at(n).execute(stream, {{DNNL_ARG_SRC, half},
                                            {DNNL_ARG_WEIGHTS, memory(down.weights, engine, w + up.weights.get_size())},
                                            {DNNL_ARG_DST, out}});
      }
      stream.wait();
      if (call) times.push_back(since(begin));
    }
    munmap(bank, each * experts);
    std::nth_element(times.begin(), times.begin() + times.size() / 2, times.end());
    std::printf("{\"tokens\":%ld,\"threads\":%d,\"experts_real\":%ld,\"calls\":%zu,\"ms_median\":%.4f}\n", tokens,
                omp_get_max_threads(), experts, times.size(), 1e3 * times[times.size() / 2]);
    std::fflush(stdout);
  }
}
