// One query's walk through one graph.
#pragma once

#include <cstdint>
#include <vector>

#include "search/distance.h"
#include "search/entry_filter.h"
#include "search/graph.h"
#include "search/order.h"
#include "search/visited_set.h"

namespace rar {

// The search of HNSW (arXiv 1603.09320, algorithms 2 and 5): greedily down the upper levels, then best first over
// level 0 until the `ef` nearest entries that count have been passed. Entries that do not count lead on as any other;
// so do those beyond the cap of their class, so that the walk gets out of a class larger than ef.
//
// Only what the walk has passed is kept as found, not all that it has seen. It ends at the same place, since its end
// is that no slot seen is nearer than the ef-th nearest passed; but whether an entry counts is asked where its node is
// at hand anyway, and once for each passed instead of each seen.
class GraphWalk {
public:
    struct Limits {
        std::int64_t ef;    // entries kept
        std::int64_t cap;   // of them of a class; 0 for any number
        std::int64_t most;  // entries that count passed at all
    };

    // `query` in the form that Distances::compare takes. The entries found, by distance; valid until the next call.
    // Throws std::invalid_argument where the graph is damaged.
    const std::vector<Ranked>& run(const Graph& graph, const Distances& distances, const void* query,
                                   const Limits& limits, const EntryFilter& filter);

private:
    void prepare(const Graph& graph);
    Ranked descend(const Graph& graph, Distances::Compare compare, const void* query);
    // ranked_[0 … count) = the slots, ranked by their distance.
    void rank(const Graph& graph, Distances::Compare compare, const void* query, const std::uint32_t* slots,
              std::size_t count);

    VisitedSet visited_;
    Nearest found_;
    std::vector<Ranked> next_;  // a heap, the nearest first
    // The buffers of one step: at most kAtOnce times the links of a slot.
    std::vector<std::uint32_t> linked_;
    std::vector<const std::uint8_t*> rows_;
    std::vector<float> distances_;
    std::vector<Ranked> ranked_;
};

}  // namespace rar
