// What an instruction set has to provide to compare vectors.
//
// Rows are given one by one, because a graph's neighbours lie anywhere; they may stand at any address, and nothing
// beyond their last scalar is read. Every scalar is widened to float32 and every sum is taken in float32 in one order
// that depends on the dimension alone: a pair gives the same bits in whatever company it is compared. Only where there
// is a form for int8 (int8_form.h) are sums exact integers, rounded once.
#pragma once

#include <cstdint>

#include "search/scalar.h"

namespace rar {

// A form of a query that is made of float32 [dim] once for all rows: `bytes(dim)` bytes, written by `make`.
struct Int8Form {
    std::int64_t (*bytes)(std::int64_t dim);
    void (*make)(const float* query, std::int64_t dim, std::uint8_t* form);
};

struct Distances {
    // out[i] = the distance of rows[i]: the sum of squared differences to `query`, float32 [dim].
    using Compare = void (*)(const void* query, std::int64_t dim, const std::uint8_t* const* rows, std::int64_t count,
                             float* out);
    Compare compare[kScalars];

    // out[q * count + i] = the dot product of query q, float32 [dim] at queries + q * dim, with rows[i].
    using Dots = void (*)(const float* queries, std::int64_t query_count, std::int64_t dim,
                          const std::uint8_t* const* rows, std::int64_t count, float* out);
    Dots dots_f32;
    Dots dots_f16;

    // What compare[kI8] takes for its query; null for float32 [dim] as for the others.
    const Int8Form* int8_form = nullptr;
};

const Distances* scalar_distances();

// Null where the compiler's target has no such instructions.
const Distances* avx512_distances();
const Distances* avx2_distances();
const Distances* neon_distances();
const Distances* dotprod_distances();

}  // namespace rar
