// What an instruction set has to provide to compare vectors.
//
// Rows are given one by one, because a graph's neighbours lie anywhere; they may stand at any address, and nothing
// beyond their last scalar is read. Every scalar is widened to float32 and every sum is taken in float32 in one order
// that depends on the dimension alone: a pair gives the same bits in whatever company it is compared.
#pragma once

#include <cstdint>

#include "scalar.h"

namespace rar {

struct Distances {
    // out[i] = the distance of rows[i]: the sum of squared differences to `query`, float32 [dim]; for kB1 the number
    // of bits unlike those of `query`, which is packed as the rows are.
    using Compare = void (*)(const void* query, std::int64_t dim, const std::uint8_t* const* rows, std::int64_t count,
                             float* out);
    Compare compare[kScalars];

    // out[q * count + i] = the dot product of query q, float32 [dim] at queries + q * dim, with rows[i].
    using Dots = void (*)(const float* queries, std::int64_t query_count, std::int64_t dim,
                          const std::uint8_t* const* rows, std::int64_t count, float* out);
    Dots dots_f32;
    Dots dots_f16;
};

const Distances* scalar_distances();

// Null where the compiler's target has no such instructions.
const Distances* avx512_distances();
const Distances* avx2_distances();
const Distances* neon_distances();

}  // namespace rar
