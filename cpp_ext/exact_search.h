// Dot products with stored vectors: of some that are named, or of all for the best.
#pragma once

#include <cstdint>

#include "distance.h"
#include "entry_filter.h"
#include "graph_search.h"
#include "thread_pool.h"

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

// Of each query the entries that count with the greatest dot products, of a class at most `cap` where that is not 0;
// the products are written as the target's distances:
// greatest first, the lower entry among equals, minus infinity where there are fewer. The same with any number of
// threads. `queries` is [query_count, dim].
void nearest_vectors(const VectorView& vectors, const Distances& distances, const float* queries,
                     std::int64_t query_count, const EntryFilter& filter, std::int64_t cap, const SearchTarget& target,
                     ThreadPool& pool);

}  // namespace rar
