#include "search/graph_walk.h"

#include <algorithm>
#include <functional>
#include <stdexcept>
#include <string>

namespace rar {
namespace {

constexpr std::int64_t kCacheLine = 64;
// Slots passed in one step. Two fetch their links and rows at the same time, for a seventh less time at ef 64 than one;
// each more sees more slots than it need.
constexpr int kAtOnce = 2;

// The lines of a row; of a long one the first, on which the processor's own prefetching goes on.
void prefetch(const std::uint8_t* row, std::int64_t bytes) {
    const std::int64_t first = std::min(bytes, 4 * kCacheLine);
    for (std::int64_t at = 0; at < first; at += kCacheLine) __builtin_prefetch(row + at);
    __builtin_prefetch(row + first - 1);
}

// The entry of a slot; what is known of it is asked for.
std::int64_t entry_of(const Graph& graph, std::uint32_t slot, const EntryFilter& filter) {
    const std::uint64_t entry = graph.key(slot);
    if (entry >= static_cast<std::uint64_t>(filter.entries())) {
        throw std::invalid_argument("slot " + std::to_string(slot) + " has key " + std::to_string(entry) +
                                    ", but there are " + std::to_string(filter.entries()) + " entries");
    }
    filter.prefetch(static_cast<std::int64_t>(entry));
    return static_cast<std::int64_t>(entry);
}

}  // namespace

const std::vector<Ranked>& GraphWalk::run(const Graph& graph, const Distances& distances, const void* query,
                                          const Limits& limits, const EntryFilter& filter) {
    found_.reset(static_cast<std::size_t>(std::min(limits.ef, graph.size())), static_cast<std::size_t>(limits.cap));
    std::int64_t left = limits.most;
    if (graph.size() == 0) return found_.sorted();
    prepare(graph);
    const Distances::Compare compare = distances.compare[static_cast<int>(graph.scalar())];
    Ranked passed[kAtOnce] = {descend(graph, compare, query)};
    const std::uint32_t start = number_of(passed[0]);
    visited_.insert(&start, 1);
    next_.clear();
    for (int passing = 1; passing != 0;) {
        std::int64_t entries[kAtOnce];
        const std::size_t before = visited_.count();
        for (int i = 0; i < passing; ++i) {
            const std::uint32_t slot = number_of(passed[i]);
            visited_.insert(linked_.data(), graph.links(slot, 0, linked_.data()));
            entries[i] = entry_of(graph, slot, filter);
        }
        const std::size_t fresh = visited_.count() - before;
        rank(graph, compare, query, visited_.slots(before), fresh);
        if (fresh != 0) graph.prefetch_node(number_of(*std::min_element(ranked_.data(), ranked_.data() + fresh)));
        for (int i = 0; i < passing; ++i) {
            const std::int32_t label = filter.label(entries[i]);
            if (label < 0) continue;
            found_.add(ranked(distance_of(passed[i]), static_cast<std::uint32_t>(entries[i])), label);
            --left;
        }
        for (std::size_t i = 0; i < fresh; ++i) {
            next_.push_back(ranked_[i]);
            std::push_heap(next_.begin(), next_.end(), std::greater<>());
        }
        for (passing = 0; passing < kAtOnce && left > 0 && !next_.empty(); ++passing) {
            const Ranked nearest = next_.front();
            if (found_.full() && rank_of(nearest) >= rank_of(found_.farthest())) break;
            graph.prefetch_node(number_of(nearest));
            std::pop_heap(next_.begin(), next_.end(), std::greater<>());
            next_.pop_back();
            passed[passing] = nearest;
        }
    }
    return found_.sorted();
}

void GraphWalk::prepare(const Graph& graph) {
    visited_.reset(graph.size());
    const std::size_t most = std::max<std::size_t>(graph.most_links(), 1);
    linked_.resize(std::max(linked_.size(), most));
    rows_.resize(kAtOnce * linked_.size());
    distances_.resize(rows_.size());
    ranked_.resize(rows_.size());
}

Ranked GraphWalk::descend(const Graph& graph, Distances::Compare compare, const void* query) {
    const std::uint32_t entry = graph.entry_slot();
    rank(graph, compare, query, &entry, 1);
    Ranked best = ranked_[0];
    for (int level = graph.levels(); level > 0; --level) {
        for (bool closer = true; closer;) {
            const std::size_t linked = graph.links(number_of(best), level, linked_.data());
            rank(graph, compare, query, linked_.data(), linked);
            const Ranked* const nearest = std::min_element(ranked_.data(), ranked_.data() + linked);
            closer = linked != 0 && *nearest < best;
            if (closer) best = *nearest;
            if (graph.level(number_of(best)) < level) {
                throw std::invalid_argument("slot " + std::to_string(number_of(best)) +
                                            " is linked on a level that it does not have");
            }
        }
    }
    return best;
}

void GraphWalk::rank(const Graph& graph, Distances::Compare compare, const void* query, const std::uint32_t* slots,
                     std::size_t count) {
    const std::int64_t bytes = bytes_of(graph.scalar(), graph.dim());
    for (std::size_t i = 0; i < count; ++i) {
        rows_[i] = graph.row(slots[i]);
        prefetch(rows_[i], bytes);
    }
    compare(query, graph.dim(), rows_.data(), static_cast<std::int64_t>(count), distances_.data());
    for (std::size_t i = 0; i < count; ++i) ranked_[i] = ranked(distances_[i], slots[i]);
}

}  // namespace rar
