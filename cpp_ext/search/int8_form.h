// A query in fixed point, so that its distance to rows of int8 is a sum of byte products, in exact integers:
//     sum (q - r)^2 = sum q^2 - 2 sum q r + sum r^2
// Each value is a whole number, below 2^31, of steps of 2^-s, in four signed bytes: q = (d0 + 2^8 d1 + 2^16 d2 +
// 2^24 d3) 2^-s. The distance is that of the query so rounded, up to one rounding to float32: whole for a query of
// whole numbers in int8's range; for any other it differs by at most 2^-29 max|q| sqrt(dim * distance).
#pragma once

#include <cstdint>

#include "search/distance.h"

namespace rar {

// Values multiplied at a time. Where they do not divide the dimension, the last block is that which ends where the
// row does, with zeros for what was multiplied before; in a row shorter than a block the zeros follow.
constexpr std::int64_t kInt8Block = 16;
constexpr int kInt8Digits = 4;

struct Int8Head {
    double norm;                       // sum q^2
    double unit;                       // 2^-s
    std::uint8_t in_last[kInt8Block];  // 0xff where the last block's values count
};

// The head, then the blocks' digits: 16 of the lowest, 16 of the next, and so on.
extern const Int8Form kInt8Form;

}  // namespace rar
