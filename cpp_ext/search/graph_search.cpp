#include "search/graph_search.h"

#include <algorithm>
#include <limits>

#include "search/query_form.h"

namespace rar {
namespace {

void write(const std::vector<Ranked>& found, std::int64_t query, const SearchTarget& target) {
    std::int64_t* const entries = target.entries + query * target.count;
    float* const distances = target.distances + query * target.count;
    for (std::int64_t i = 0; i < target.count; ++i) {
        const bool there = i < static_cast<std::int64_t>(found.size());
        const auto at = static_cast<std::size_t>(i);
        entries[i] = there ? static_cast<std::int64_t>(number_of(found[at])) : -1;
        distances[i] = there ? distance_of(found[at]) : std::numeric_limits<float>::infinity();
    }
}

}  // namespace

void search_graphs(const std::vector<const Graph*>& graphs, const Distances& distances, const float* queries,
                   std::int64_t query_count, const GraphWalk::Limits& limits, const EntryFilter& filter,
                   const SearchTarget& target, ThreadPool& pool) {
    GraphWalk::Limits own = limits;
    own.ef = std::max(limits.ef, target.count);
    const std::size_t shards = graphs.size();
    // A shard's own best, for the shards of a query may be walked at once.
    std::vector<std::vector<Ranked>> found(shards > 1 ? shards * static_cast<std::size_t>(query_count) : 0);
    pool.run(shards * static_cast<std::size_t>(query_count), [&](std::size_t task) {
        thread_local GraphWalk walk;  // its memory is used again
        const Graph& graph = *graphs[task % shards];
        const auto query = static_cast<std::int64_t>(task / shards);
        const QueryForm form(distances, graph.scalar(), queries + query * graph.dim(), graph.dim());
        const std::vector<Ranked>& nearest = walk.run(graph, distances, form.data(), own, filter);
        if (shards == 1) {
            write(nearest, query, target);
        } else {
            const auto kept = std::min(nearest.size(), static_cast<std::size_t>(target.count));
            found[task].assign(nearest.begin(), nearest.begin() + static_cast<std::ptrdiff_t>(kept));
        }
    });
    for (std::int64_t query = 0; shards > 1 && query < query_count; ++query) {
        Nearest all;
        all.reset(static_cast<std::size_t>(target.count), static_cast<std::size_t>(limits.cap));
        for (std::size_t shard = 0; shard < shards; ++shard) {
            for (const Ranked one : found[static_cast<std::size_t>(query) * shards + shard]) {
                const std::int32_t label = filter.label(number_of(one));
                if (label >= 0) all.add(one, label);  // it may have been removed meanwhile
            }
        }
        write(all.sorted(), query, target);
    }
}

}  // namespace rar
