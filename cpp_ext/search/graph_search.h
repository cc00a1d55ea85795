// Many queries over the shards of one part.
#pragma once

#include <cstdint>
#include <vector>

#include "base/thread_pool.h"
#include "search/distance.h"
#include "search/entry_filter.h"
#include "search/graph.h"
#include "search/graph_walk.h"

namespace rar {

struct SearchTarget {
    std::int64_t* entries;  // [queries, count], -1 where fewer were found
    float* distances;       // [queries, count], infinity there
    std::int64_t count;
};

// Of each query, float32 [dim] at queries + q * dim, the nearest entries that count in all the graphs, which are alike
// in dimension and scalar; the limits hold for each graph, the cap for all together. A query of bits is the signs: a
// bit is set where the value is above 0. The same answer with any number of threads.
void search_graphs(const std::vector<const Graph*>& graphs, const Distances& distances, const float* queries,
                   std::int64_t query_count, const GraphWalk::Limits& limits, const EntryFilter& filter,
                   const SearchTarget& target, ThreadPool& pool);

}  // namespace rar
