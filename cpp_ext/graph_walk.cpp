#include "graph_walk.h"

#include <algorithm>
#include <functional>
#include <stdexcept>
#include <string>

namespace rar {
namespace {

constexpr std::int64_t kCacheLine = 64;

void prefetch(const std::uint8_t* first, std::int64_t bytes) {
    for (std::int64_t at = 0; at < bytes; at += kCacheLine) __builtin_prefetch(first + at);
    __builtin_prefetch(first + bytes - 1);
}

}  // namespace

const std::vector<Ranked>& GraphWalk::run(const Graph& graph, const Distances& distances, const void* query,
                                          std::int64_t ef, const EntryFilter& filter) {
    found_.reset(static_cast<std::size_t>(std::min(ef, graph.size())));
    if (graph.size() == 0) return found_.sorted();
    prepare(graph);
    const Distances::Compare compare = distances.compare[static_cast<int>(graph.scalar())];
    next_.assign(1, descend(graph, compare, query));
    visited_.insert(number_of(next_.front()));
    while (!next_.empty()) {
        const Ranked nearest = next_.front();
        if (found_.full() && rank_of(nearest) >= rank_of(found_.farthest())) break;
        std::pop_heap(next_.begin(), next_.end(), std::greater<>());
        next_.pop_back();
        const std::uint32_t slot = number_of(nearest);
        const std::int64_t linked = graph.links(slot, 0, linked_.data());
        std::int64_t fresh = 0;
        for (std::int64_t i = 0; i < linked; ++i) {
            const std::uint32_t other = linked_[static_cast<std::size_t>(i)];
            if (visited_.insert(other)) linked_[static_cast<std::size_t>(fresh++)] = other;
        }
        const std::uint64_t entry = graph.key(slot);
        if (entry >= static_cast<std::uint64_t>(filter.entries())) {
            throw std::invalid_argument("slot " + std::to_string(slot) + " has key " + std::to_string(entry) +
                                        ", but there are " + std::to_string(filter.entries()) + " entries");
        }
        if (filter.counts(static_cast<std::int64_t>(entry))) {
            found_.add(ranked(distance_of(nearest), static_cast<std::uint32_t>(entry)));
        }
        measure(graph, compare, query, fresh);
        for (std::size_t i = 0; i < static_cast<std::size_t>(fresh); ++i) {
            const Ranked one = ranked(distances_[i], linked_[i]);
            if (found_.full() && rank_of(one) >= rank_of(found_.farthest())) continue;
            next_.push_back(one);
            std::push_heap(next_.begin(), next_.end(), std::greater<>());
        }
    }
    return found_.sorted();
}

void GraphWalk::prepare(const Graph& graph) {
    visited_.reset(graph.size());
    const auto most = static_cast<std::size_t>(graph.most_links());
    linked_.resize(std::max(linked_.size(), std::max<std::size_t>(most, 1)));
    rows_.resize(linked_.size());
    distances_.resize(linked_.size());
}

Ranked GraphWalk::descend(const Graph& graph, Distances::Compare compare, const void* query) {
    linked_[0] = graph.entry_slot();
    measure(graph, compare, query, 1);
    Ranked best = ranked(distances_[0], linked_[0]);
    for (int level = graph.levels(); level > 0; --level) {
        for (bool closer = true; closer;) {
            closer = false;
            const std::int64_t linked = graph.links(number_of(best), level, linked_.data());
            measure(graph, compare, query, linked);
            for (std::size_t i = 0; i < static_cast<std::size_t>(linked); ++i) {
                const Ranked one = ranked(distances_[i], linked_[i]);
                if (one >= best) continue;
                best = one;
                closer = true;
            }
            if (graph.level(number_of(best)) < level) {
                throw std::invalid_argument("slot " + std::to_string(number_of(best)) +
                                            " is linked on a level that it does not have");
            }
        }
    }
    return best;
}

void GraphWalk::measure(const Graph& graph, Distances::Compare compare, const void* query, std::int64_t count) {
    const std::int64_t bytes = bytes_of(graph.scalar(), graph.dim());
    for (std::size_t i = 0; i < static_cast<std::size_t>(count); ++i) {
        rows_[i] = graph.row(linked_[i]);
        prefetch(rows_[i], bytes);
    }
    compare(query, graph.dim(), rows_.data(), count, distances_.data());
}

}  // namespace rar
