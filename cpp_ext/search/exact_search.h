// Dot products with stored vectors: of some that are named, or of all for the best.
#pragma once

#include <cstdint>

#include "base/thread_pool.h"
#include "search/distance.h"
#include "search/entry_filter.h"
#include "search/graph_search.h"

namespace rar {

// Packed rows of float32 or float16.
struct VectorView {
    const std::uint8_t* row(std::int64_t at) const { return data + at * bytes_of(scalar, dim); }

    const std::uint8_t* data;
    Scalar scalar;
    std::int64_t count;
    std::int64_t dim;
};

// out[q * ids_a_query + i] = the dot product of query q and vector ids[q * ids_a_query + i]; minus infinity for id -1
// and for NaN. Throws std::invalid_argument for an id of no vector.
void score_vectors(const VectorView& vectors, const Distances& distances, const float* queries,
                   std::int64_t query_count, const std::int64_t* ids, std::int64_t ids_a_query, float* out,
                   ThreadPool& pool);

// For each query the counting entries with the greatest dot products, at most `cap` of a class unless that is 0.
// The products are written as the target's distances: greatest first, the lower entry first among equals, minus
// infinity if there are fewer. The result does not depend on the number of threads. `queries` is [query_count, dim].
void nearest_vectors(const VectorView& vectors, const Distances& distances, const float* queries,
                     std::int64_t query_count, const EntryFilter& filter, std::int64_t cap, const SearchTarget& target,
                     ThreadPool& pool);

}  // namespace rar
