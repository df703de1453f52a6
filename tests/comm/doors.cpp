#include "tests/comm/doors.h"

#include <gtest/gtest.h>

#include <numeric>
#include <random>

namespace kt::testing {
namespace {

// What a faulty transport holds back is let go before the memory that it is about.
struct LetGo {
  Transport& transport;
  ~LetGo() {
    transport.wait_until([] { return true; });
  }
};

enum Ask { compute, list, notice, leave };
constexpr int kHidden = 40, kTopK = 3, kExperts = 8, kMostRows = 33;

Topology topology_of(const Transport& transport, const DispatchCase& c) {
  Topology t{.rank = transport.rank(),
             .world = transport.size(),
             .trunk = {},
             .experts = {},
             .group_of = {},
             .node_of = transport.nodes()};
  for (int r = 0; r < t.world; ++r) {
    if (r < c.trunk_ranks) t.trunk.push_back(r);
    if (r >= c.trunk_ranks || c.trunks_hold) t.experts.push_back(r);
  }
  for (const int rank : t.experts)
    t.group_of.push_back(c.layout == "slice"    ? 0
                         : c.layout == "expert" ? static_cast<int>(t.group_of.size())
                                                : t.node_of[static_cast<size_t>(rank)]);
  return t;
}

// One order of all trunk ranks, the same on every rank.
struct Script {
  Ask ask = compute;
  int layer = 0, rows = 0;
  bool late = false;

  uint32_t draw(int row, int what) const {
    uint32_t state = static_cast<uint32_t>(layer * 7919 + row * 104'729 + what * 31) * 2654435761u + 12345u;
    state ^= state >> 15;
    return state * 2246822519u >> 8;
  }
  // A row is for most groups; the pairs of it that are late wait for the next order.
  bool wanted(int row, int group) const { return draw(row, group) % 4 != 0; }
  int32_t id(int row, int j) const { return static_cast<int32_t>(draw(row, 100 + j) % (kExperts + 1)) - 1; }
  int32_t late_id(int row, int j) const { return static_cast<int32_t>(draw(row, 200 + j) % (kExperts + 1)) - 1; }
  float weight(int row, int j) const { return static_cast<float>(draw(row, 300 + j) % 64) / 64.0f; }
  bf16 x(int row, int column) const { return to_bf16(static_cast<float>(draw(row, 1000 + column) % 255) - 127.0f); }
  // Thirds are no multiples of a short grid: types of fewer bits must round them.
  double sum(int row, int column, int rank, bool is_late) const {
    double all = 0.0;
    for (int j = 0; j < kTopK; ++j) {
      const int32_t e = is_late ? late_id(row, j) : id(row, j);
      if (e >= 0) all += (e + 1) * static_cast<double>(weight(row, j)) * to_float(x(row, column)) / 3.0;
    }
    return to_grid(all * (rank + 1));
  }
};

std::vector<Script> scripts(int steps) {
  const int rows[] = {1, kMostRows, 0, 2, 7, 1, 1, 20};
  std::vector<Script> all;
  for (int i = 0; i < steps; ++i) {
    all.push_back({compute, i, rows[static_cast<size_t>(i) % std::size(rows)], i % 3 == 1});
    if (i % 5 == 2) all.push_back({list, i});
    if (i % 4 == 3) all.push_back({notice, i});
  }
  all.push_back({compute, steps, 1});  // takes what is late
  all.push_back({leave, steps});
  return all;
}

double on_the_wire(WireType type, double x) {
  if (type == WireType::float64) return x;
  const float single = static_cast<float>(x);
  return type == WireType::float32 ? single : to_float(to_bf16(single));
}

std::vector<int> rows_of(const Script& s, int group) {
  std::vector<int> rows;
  for (int r = 0; r < s.rows; ++r)
    if (s.wanted(r, group)) rows.push_back(r);
  return rows;
}

// A trunk rank's part of the rows.
std::pair<int, int> share_of(int rows, int index, int count) {
  return {rows * index / count, rows * (index + 1) / count};
}

struct TrunkSide {
  Transport& transport;
  const Topology& topology;
  const DispatchShape& shape;
  TrunkDispatch dispatch;
  ThreadPool pool{2};
  std::vector<std::vector<int32_t>> rows, late_rows;  // by team: in this order, and of which late sums are to come
  std::vector<double> y, expected;

  Fault give(const Script& s, size_t team) {
    const Team& to = dispatch.teams()[team];
    Order order{.ask = s.ask, .layer = s.layer, .phase = 1, .late = s.late};
    rows[team].clear();
    const std::vector<int> all = to.group < 0 ? std::vector<int>() : rows_of(s, to.group);
    const auto [begin, end] = share_of(s.rows, topology.trunk_index(), static_cast<int>(topology.trunk.size()));
    order.rows = static_cast<int32_t>(all.size());
    for (const int r : all) {
      if (r < begin) ++order.first;
      if (r >= begin && r < end) rows[team].push_back(r);
    }
    order.count = static_cast<int32_t>(rows[team].size());
    order.listed = s.ask == list ? 5 : 0;
    if (order.rows == 0) order.late = 0;
    const TrunkDispatch::Outbox out = dispatch.outbox(team, order.first);
    if (out.fault) return out.fault;
    for (int i = 0; i < order.count; ++i) {
      const int r = rows[team][static_cast<size_t>(i)];
      for (int j = 0; j < kTopK; ++j) {
        out.ids[i * kTopK + j] = s.id(r, j);
        out.weights[i * kTopK + j] = s.weight(r, j);
        if (s.late) out.late[i * kTopK + j] = s.late_id(r, j);
      }
      for (int c = 0; c < kHidden; ++c) out.rows[i * shape.row_stride() + c] = s.x(r, c);
    }
    for (int i = 0; i < order.listed && out.listed; ++i) out.listed[i] = (s.layer + i) % kExperts;
    return dispatch.give(team, order).fault;
  }

  void expect(const Script& s, size_t team, const std::vector<int32_t>& of, bool late) {
    const Team& t = dispatch.teams()[team];
    const bool here = topology.node_of[static_cast<size_t>(t.ranks[0])] == transport.node();
    for (const int32_t r : of)
      for (int c = 0; c < kHidden; ++c) {
        double together = 0.0;
        for (const int rank : t.ranks) together += s.sum(r, c, rank, late);
        expected[static_cast<size_t>(r) * kHidden + c] += here ? together : on_the_wire(shape.wire, together);
      }
  }

  Fault step(const Script& s, const Script* before) {
    y.assign(static_cast<size_t>(kMostRows) * kHidden, 0.0);
    expected = y;
    const size_t teams = dispatch.teams().size();
    for (size_t i = 0; i < teams; ++i)
      if (const Fault fault = give(s, i)) return fault;
    dispatch.progress();
    for (TrunkDispatch::Sums sums; dispatch.next(sums);) {
      if (sums.fault) return sums.fault;
      const std::vector<int32_t>& of = sums.late ? late_rows[sums.team] : rows[sums.team];
      add_sums(sums.at, of.data(), static_cast<int64_t>(of.size()), kHidden, y.data(), kHidden, pool);
    }
    for (size_t i = 0; i < teams; ++i) {
      expect(s, i, rows[i], false);
      if (before && before->late) expect(*before, i, late_rows[i], true);
      late_rows[i] = s.late ? rows[i] : std::vector<int32_t>();
    }
    for (size_t i = 0; i < y.size(); ++i)
      EXPECT_EQ(y[i], expected[i]) << "layer " << s.layer << ", row " << i / kHidden << ", column " << i % kHidden;
    return {};
  }

  Fault run(const std::vector<Script>& all) {
    rows.resize(dispatch.teams().size());
    late_rows.resize(rows.size());
    const Script* before = nullptr;
    for (const Script& s : all) {
      if (const Fault fault = step(s, before)) return fault;
      before = &s;
    }
    return {};
  }
};

void expect_content(const ExpertDispatch::Asked& asked, const Script& s, int group) {
  const std::vector<int> rows = group < 0 ? std::vector<int>() : rows_of(s, group);
  ASSERT_EQ(asked.order.rows, static_cast<int>(rows.size()));
  ASSERT_EQ(asked.late.size(), s.late ? rows.size() * kTopK : 0);
  for (size_t i = 0; i < rows.size(); ++i) {
    for (int j = 0; j < kTopK; ++j) {
      EXPECT_EQ(asked.ids[i * kTopK + j], s.id(rows[i], j));
      EXPECT_EQ(asked.weights[i * kTopK + j], s.weight(rows[i], j));
      if (s.late) {
        EXPECT_EQ(asked.late[i * kTopK + j], s.late_id(rows[i], j));
      }
    }
    for (int c = 0; c < kHidden; ++c) EXPECT_EQ(asked.rows[static_cast<int64_t>(i) * 64 + c], s.x(rows[i], c));
  }
  ASSERT_EQ(asked.listed.size(), s.ask == list ? 5u : 0u);
  for (size_t i = 0; i < asked.listed.size(); ++i)
    EXPECT_EQ(asked.listed[i], (s.layer + static_cast<int>(i)) % kExperts);
}

Fault run_expert(ExpertDispatch& dispatch, const std::vector<Script>& all, int rank, int group,
                 const DispatchShape& shape) {
  ThreadPool pool(2);
  for (const Script& s : all) {
    const ExpertDispatch::Asked asked = dispatch.next();
    if (asked.fault) return asked.fault;
    EXPECT_EQ(asked.order.ask, s.ask);
    EXPECT_EQ(asked.order.layer, s.layer);
    expect_content(asked, s, group);
    if (asked.order.rows == 0) continue;
    const std::vector<int> rows = rows_of(s, group);
    for (int late = 0; late <= asked.order.late; ++late) {
      double* sums = dispatch.sums(late != 0);
      for (size_t i = 0; i < rows.size(); ++i)
        for (int c = 0; c < kHidden; ++c)
          sums[static_cast<int64_t>(i) * shape.sum_stride() + c] = s.sum(rows[i], c, rank, late != 0);
      if (const Fault fault = dispatch.give(late != 0, pool).fault) return fault;
    }
  }
  return {};
}

}  // namespace

Fault run_dispatch(Transport& transport, const DispatchCase& c, Limit limit) {
  const Topology topology = topology_of(transport, c);
  const DispatchShape shape{
      .rows = kMostRows, .hidden = kHidden, .top_k = kTopK, .experts = kExperts, .late = true, .wire = c.wire};
  std::vector<bool> holds(topology.experts.size(), true);
  if (holds.size() > 2) holds.back() = false;
  const std::vector<Team> teams = make_teams(topology, holds);
  const NodeMemory memory = share_mailbox(transport, topology, teams, shape);
  const LetGo let_go{transport};
  transport.give_up_after(limit);
  const std::vector<Script> all = scripts(12);
  Fault fault;
  if (topology.trunk_index() >= 0) {
    TrunkSide side{transport, topology, shape, {transport, topology, teams, shape, memory}};
    return side.run(all);
  }
  for (const Team& team : teams)
    if (std::count(team.ranks.begin(), team.ranks.end(), transport.rank())) {
      ExpertDispatch dispatch(transport, topology, teams, shape, memory);
      fault = run_expert(dispatch, all, transport.rank(), team.group, shape);
    }
  return fault;
}

Fault run_group(Transport& transport, int members, Limit limit) {
  Group::Members who{.ranks = {}, .root = 0};
  for (int i = 0; i < members; ++i) who.ranks.push_back(transport.size() - 1 - i);
  constexpr size_t kMost = 40'003, kRows = 3;
  const NodeMemory memory = Group::share(transport, who, (kMost + 16) * sizeof(double));
  const LetGo let_go{transport};
  transport.give_up_after(limit);
  const bool adds = who.has(transport.rank()), root = transport.rank() == 0;
  if (!adds && !root) return {};
  Group group(transport, who, memory, kMost * sizeof(double));
  ThreadPool pool(2);
  double ranks_sum = 0.0;
  for (const int r : who.ranks) ranks_sum += r + 1;
  const auto place = reinterpret_cast<double*>(group.values().data());

  uint64_t round = 0;
  for (const size_t count : {size_t{0}, size_t{1}, size_t{7}, size_t{4096}, kMost, size_t{16}}) {
    ++round;
    if (adds) {
      const std::span<double> values(place + 8, count);
      for (size_t i = 0; i < count; ++i)
        values[i] = static_cast<double>(i % 1000 + round) * (transport.rank() + 1) + 0.25;
      if (const Fault fault = group.sum(values, pool)) return fault;
      for (size_t i = 0; i < count; ++i)
        if (values[i] != static_cast<double>(i % 1000 + round) * ranks_sum + 0.25 * members) {
          ADD_FAILURE() << "value " << i << " of " << count << " over " << members << " ranks: " << values[i];
          break;
        }
    }
    const auto value = [&](int rank, size_t r, size_t c) {
      return static_cast<float>(rank * 100 + r * 10 + c + round);
    };
    if (root) {
      std::vector<int> columns;
      for (const int r : who.ranks) columns.push_back(r + 1);
      size_t placed = 0;
      const Fault fault = group.take(kRows, columns, [&](int i, const Group::Rows& rows) {
        ++placed;
        const int rank = who.ranks[static_cast<size_t>(i)];
        for (size_t r = 0; r < kRows; ++r)
          for (int c = 0; c < columns[static_cast<size_t>(i)]; ++c)
            EXPECT_EQ(rows.at[static_cast<int64_t>(r) * rows.stride + c], value(rank, r, static_cast<size_t>(c)));
      });
      if (fault) return fault;
      EXPECT_EQ(placed, who.ranks.size() - (adds ? 1 : 0));
    } else {
      auto* logits = reinterpret_cast<float*>(place);
      constexpr int64_t kStride = 20;
      for (size_t r = 0; r < kRows; ++r)
        for (int c = 0; c <= transport.rank(); ++c)
          logits[static_cast<int64_t>(r) * kStride + c] = value(transport.rank(), r, static_cast<size_t>(c));
      if (const Fault fault =
              group.give({.at = logits, .stride = kStride, .rows = kRows, .columns = transport.rank() + 1}))
        return fault;
    }
  }
  return {};
}

void check_doors(Transport& transport) {
  const auto expect_none = [&](const Fault& fault, const std::string& what) {
    EXPECT_FALSE(fault) << what << " on rank " << transport.rank() << ": " << fault.text();
    transport.barrier();
  };
  for (int members = 1; members <= transport.size(); ++members)
    expect_none(run_group(transport, members), "group of " + std::to_string(members));
  for (int trunks = 1; trunks < transport.size() && trunks <= 3; ++trunks)
    for (const char* layout : {"hybrid", "slice", "expert"})
      for (const WireType wire : {WireType::float64, WireType::float32, WireType::bf16})
        expect_none(run_dispatch(transport, {trunks, layout, wire, trunks == 2}),
                    std::string("dispatch, ") + layout + ", trunk ranks: " + std::to_string(trunks));
}

}  // namespace kt::testing
