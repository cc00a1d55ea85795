#include "search/int8_form.h"

#include <algorithm>
#include <cmath>
#include <cstring>

namespace rar {
namespace {

constexpr double kLargest = 0x7f7f7f7f;  // what four signed bytes hold

std::int64_t blocks(std::int64_t dim) { return (dim + kInt8Block - 1) / kInt8Block; }

std::int64_t form_bytes(std::int64_t dim) {
    return static_cast<std::int64_t>(sizeof(Int8Head)) + blocks(dim) * kInt8Block * kInt8Digits;
}

// Steps of the finest unit in which the query's largest value is held.
double steps_of(const float* query, std::int64_t dim) {
    float largest = 0;
    for (std::int64_t d = 0; d < dim; ++d) largest = std::max(largest, std::abs(query[d]));
    int exponent = 0;
    std::frexp(largest, &exponent);  // largest < 2^exponent
    const double steps = std::ldexp(1.0, 31 - exponent);
    return std::nearbyint(largest * steps) <= kLargest ? steps : steps / 2;
}

void make_form(const float* query, std::int64_t dim, std::uint8_t* form) {
    std::memset(form, 0, static_cast<std::size_t>(form_bytes(dim)));
    const double steps = steps_of(query, dim);
    Int8Head head{0.0, 1.0 / steps, {}};
    const std::int64_t whole = dim - dim % kInt8Block;
    // Of a last block that is not whole, the place of the dimension `whole`.
    const std::int64_t first = dim < kInt8Block ? 0 : kInt8Block - dim % kInt8Block;
    for (std::int64_t d = 0; d < dim; ++d) {
        const std::int64_t place = d < whole ? d % kInt8Block : first + d - whole;
        if (d >= whole) head.in_last[place] = 0xff;
        std::uint8_t* const digits = form + sizeof head + d / kInt8Block * kInt8Block * kInt8Digits + place;
        auto rest = static_cast<std::int64_t>(std::nearbyint(query[d] * steps));
        const double value = static_cast<double>(rest) * head.unit;
        head.norm += value * value;
        for (int digit = 0; digit < kInt8Digits; ++digit) {
            const auto byte = static_cast<std::int8_t>(rest & 0xff);
            digits[digit * kInt8Block] = static_cast<std::uint8_t>(byte);
            rest = (rest - byte) >> 8;
        }
    }
    std::memcpy(form, &head, sizeof head);
}

}  // namespace

const Int8Form kInt8Form{form_bytes, make_form};

}  // namespace rar
