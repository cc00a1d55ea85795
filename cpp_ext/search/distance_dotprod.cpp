// NEON with byte dot products (FEAT_DotProd): rows of int8 in exact integers, see int8_form.h. All else is plain
// NEON's. With the matrix products of FEAT_I8MM a loop would be as long: what they do at once, two rows by two digits
// of the query, has to be zipped for them first.
#include "base/target.h"
#include "search/distance.h"

#if defined(__aarch64__) && RAR_COMPILER(8, 16)
#include <arm_neon.h>

#include <cstddef>

#include "search/int8_form.h"

RAR_TARGET_BEGIN("arch=armv8.2-a+dotprod")

namespace rar {
namespace {

constexpr int kRows = 4;

// The sums of four rows' products with the query's digits.
struct Products {
    void add(const std::int8_t* digits, const int8x16_t rows[kRows]) {
        for (int digit = 0; digit < kInt8Digits; ++digit) {
            const int8x16_t value = vld1q_s8(digits + digit * kInt8Block);
            for (int r = 0; r < kRows; ++r) own[digit][r] = vdotq_s32(own[digit][r], rows[r], value);
        }
    }
    int32x4_t own[kInt8Digits][kRows] = {};
};

int32x4_t by_row(const int32x4_t rows[kRows]) {
    return vpaddq_s32(vpaddq_s32(rows[0], rows[1]), vpaddq_s32(rows[2], rows[3]));
}

float32x4_t int8_distances(const Int8Head& head, const int32x4_t sums[kInt8Digits], int32x4_t squares) {
    // Lanes of two rows, in 64 bits and in float64: nothing is rounded before the last sum but what head.norm was.
    const auto two = [&](const auto& half, const auto& widened) {
        const int64x2_t low = vaddw_s32(vshll_n_s32(half(sums[1]), 8), half(sums[0]));
        const int64x2_t high = vaddw_s32(vshll_n_s32(half(sums[3]), 8), half(sums[2]));
        const float64x2_t products = vcvtq_f64_s64(vaddq_s64(low, vshlq_n_s64(high, 16)));
        const float64x2_t ends = vaddq_f64(vcvtq_f64_s64(widened(squares)), vdupq_n_f64(head.norm));
        return vfmsq_f64(ends, products, vdupq_n_f64(2 * head.unit));
    };
    const float64x2_t first = two([](int32x4_t all) { return vget_low_s32(all); },
                                  [](int32x4_t all) { return vmovl_s32(vget_low_s32(all)); });
    const float64x2_t last =
        two([](int32x4_t all) { return vget_high_s32(all); }, [](int32x4_t all) { return vmovl_high_s32(all); });
    return vmaxq_f32(vcvt_high_f32_f64(vcvt_f32_f64(first), last), vdupq_n_f32(0));
}

void squared_int8(const void* query, std::int64_t dim, const std::uint8_t* const* rows, std::int64_t count,
                  float* out) {
    const auto* const form = static_cast<const std::uint8_t*>(query);
    Int8Head head;
    __builtin_memcpy(&head, form, sizeof head);
    for (std::int64_t i = 0; i < count; i += kRows) {
        const std::int64_t left = count - i;
        const std::uint8_t* row[kRows];  // the last again where there are no four
        for (int r = 0; r < kRows; ++r) row[r] = rows[i + (r < left ? r : left - 1)];
        const std::uint8_t* digits = form + sizeof head;
        Products products;
        int32x4_t squares[kRows] = {vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0), vdupq_n_s32(0)};
        const auto add = [&](const auto& load, int8x16_t counts) {
            const int8x16_t values[kRows] = {load(row[0]), load(row[1]), load(row[2]), load(row[3])};
            products.add(reinterpret_cast<const std::int8_t*>(digits), values);
            for (int r = 0; r < kRows; ++r) {
                squares[r] = vdotq_s32(squares[r], values[r], vandq_s8(values[r], counts));
            }
            digits += kInt8Block * kInt8Digits;
        };
        std::int64_t d = 0;
        for (; d + kInt8Block <= dim; d += kInt8Block) {
            add([d](const std::uint8_t* p) { return vreinterpretq_s8_u8(vld1q_u8(p + d)); }, vdupq_n_s8(-1));
        }
        if (d < dim) {
            const auto last = [dim](const std::uint8_t* p) {
                if (dim > kInt8Block) return vreinterpretq_s8_u8(vld1q_u8(p + dim - kInt8Block));
                std::uint8_t copy[kInt8Block] = {};
                __builtin_memcpy(copy, p, static_cast<std::size_t>(dim));
                return vreinterpretq_s8_u8(vld1q_u8(copy));
            };
            add(last, vreinterpretq_s8_u8(vld1q_u8(head.in_last)));
        }
        int32x4_t sums[kInt8Digits];
        for (int digit = 0; digit < kInt8Digits; ++digit) sums[digit] = by_row(products.own[digit]);
        float four[kRows];
        vst1q_f32(four, int8_distances(head, sums, by_row(squares)));
        for (int r = 0; r < kRows && r < left; ++r) out[i + r] = four[r];
    }
}

Distances with_int8() {
    Distances all = *neon_distances();
    all.compare[static_cast<int>(Scalar::kI8)] = squared_int8;
    all.int8_form = &kInt8Form;
    return all;
}

}  // namespace

const Distances* dotprod_distances() {
    static const Distances distances = with_int8();
    return &distances;
}

}  // namespace rar

RAR_TARGET_END

#else

namespace rar {
const Distances* dotprod_distances() { return nullptr; }
}  // namespace rar

#endif
