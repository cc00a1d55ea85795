#include "search/exact_search.h"

#include <algorithm>
#include <limits>
#include <stdexcept>
#include <string>
#include <vector>

#include "search/order.h"
#include "search/read_ahead.h"

namespace rar {
namespace {

constexpr float kNone = -std::numeric_limits<float>::infinity();
constexpr std::int64_t kIdsATask = 64;
// Rows compared with all queries before the next are read: of 768 float16 they fill half of a level-2 cache.
constexpr std::int64_t kBlock = 256;
constexpr std::int64_t kQueriesAtATime = 8;
constexpr std::int64_t kLeastEntriesATask = 4 * kBlock;

Distances::Dots dots_of(const VectorView& vectors, const Distances& distances) {
    return vectors.scalar == Scalar::kF16 ? distances.dots_f16 : distances.dots_f32;
}

// The best of a range of entries, for each query.
void scan(const VectorView& vectors, Distances::Dots dots, const float* queries, std::int64_t first, std::int64_t last,
          const EntryFilter& filter, std::vector<Nearest>& best) {
    const auto query_count = static_cast<std::int64_t>(best.size());
    std::vector<const std::uint8_t*> rows(kBlock);
    std::vector<std::uint32_t> entries(2 * kBlock);
    std::vector<std::int32_t> labels(kBlock);
    std::vector<float> products(kQueriesAtATime * kBlock);
    // Entries are gathered until they fill a block, so that where few count many are compared at a time.
    std::size_t gathered = 0;
    while (first < last || gathered > 0) {
        while (first < last && gathered < kBlock) {
            const std::int64_t end = std::min(last, first + kBlock);
            gathered += filter.select(first, end, entries.data() + gathered);
            first = end;
        }
        const std::size_t count = std::min<std::size_t>(gathered, kBlock);
        for (std::size_t i = 0; i < count; ++i) {
            rows[i] = vectors.row(entries[i]);
            labels[i] = filter.label(entries[i]);
        }
        for (std::int64_t query = 0; query < query_count; query += kQueriesAtATime) {
            const std::int64_t some = std::min(kQueriesAtATime, query_count - query);
            dots(queries + query * vectors.dim, some, vectors.dim, rows.data(), static_cast<std::int64_t>(count),
                 products.data());
            for (std::int64_t q = 0; q < some; ++q) {
                Nearest& own = best[static_cast<std::size_t>(query + q)];
                const float* const product = products.data() + q * static_cast<std::int64_t>(count);
                for (std::size_t i = 0; i < count; ++i) own.add(ranked(-product[i], entries[i]), labels[i]);
            }
        }
        std::copy(entries.begin() + static_cast<std::ptrdiff_t>(count),
                  entries.begin() + static_cast<std::ptrdiff_t>(gathered), entries.begin());
        gathered -= count;
    }
}

}  // namespace

void score_vectors(const VectorView& vectors, const Distances& distances, const float* queries,
                   std::int64_t query_count, const std::int64_t* ids, std::int64_t ids_a_query, float* out,
                   ThreadPool& pool) {
    const Distances::Dots dots = dots_of(vectors, distances);
    const std::int64_t tasks_a_query = (ids_a_query + kIdsATask - 1) / kIdsATask;
    pool.run(static_cast<std::size_t>(query_count * tasks_a_query), [&](std::size_t task) {
        const std::int64_t query = static_cast<std::int64_t>(task) / tasks_a_query;
        const std::int64_t first = static_cast<std::int64_t>(task) % tasks_a_query * kIdsATask;
        const std::int64_t last = std::min(first + kIdsATask, ids_a_query);
        const std::uint8_t* rows[kIdsATask] = {};
        std::int64_t places[kIdsATask];
        float products[kIdsATask];
        std::int64_t count = 0;
        for (std::int64_t i = first; i < last; ++i) {
            const std::int64_t place = query * ids_a_query + i;
            const std::int64_t id = ids[place];
            out[place] = kNone;
            if (id == -1) continue;
            if (id < 0 || id >= vectors.count) {
                throw std::invalid_argument("ids[" + std::to_string(query) + ", " + std::to_string(i) + "] is " +
                                            std::to_string(id) + ", but there are " + std::to_string(vectors.count) +
                                            " vectors");
            }
            rows[count] = vectors.row(id);
            places[count++] = place;
        }
        read_ahead(rows, count, bytes_of(vectors.scalar, vectors.dim));
        dots(queries + query * vectors.dim, 1, vectors.dim, rows, count, products);
        for (std::int64_t i = 0; i < count; ++i) out[places[i]] = products[i] == products[i] ? products[i] : kNone;
    });
}

void nearest_vectors(const VectorView& vectors, const Distances& distances, const float* queries,
                     std::int64_t query_count, const EntryFilter& filter, std::int64_t cap, const SearchTarget& target,
                     ThreadPool& pool) {
    const Distances::Dots dots = dots_of(vectors, distances);
    // As many ranges as threads; which they are makes no difference, as what is best among all is best in its own.
    const std::int64_t ranges =
        std::max<std::int64_t>(1, std::min<std::int64_t>(pool.threads(), vectors.count / kLeastEntriesATask));
    const auto limit = static_cast<std::size_t>(std::min(target.count, vectors.count));
    std::vector<std::vector<Nearest>> best(static_cast<std::size_t>(ranges),
                                           std::vector<Nearest>(static_cast<std::size_t>(query_count)));
    pool.run(static_cast<std::size_t>(ranges), [&](std::size_t range) {
        const auto at = static_cast<std::int64_t>(range);
        for (Nearest& own : best[range]) own.reset(limit, static_cast<std::size_t>(cap));
        scan(vectors, dots, queries, vectors.count * at / ranges, vectors.count * (at + 1) / ranges, filter,
             best[range]);
    });
    for (std::int64_t query = 0; query < query_count; ++query) {
        Nearest& all = best[0][static_cast<std::size_t>(query)];
        for (std::size_t range = 1; range < best.size(); ++range) {
            for (const Ranked one : best[range][static_cast<std::size_t>(query)].sorted()) {
                all.add(one, filter.label(number_of(one)));
            }
        }
        const std::vector<Ranked>& sorted = all.sorted();
        for (std::int64_t i = 0; i < target.count; ++i) {
            const bool there = i < static_cast<std::int64_t>(sorted.size());
            const auto one = static_cast<std::size_t>(i);
            target.entries[query * target.count + i] = there ? static_cast<std::int64_t>(number_of(sorted[one])) : -1;
            target.distances[query * target.count + i] = there ? -distance_of(sorted[one]) : kNone;
        }
    }
}

}  // namespace rar
