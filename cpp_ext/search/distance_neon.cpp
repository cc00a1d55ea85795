// NEON, as every 64-bit ARM has it: 8 float32 a step, in two vectors. What is left of a row is taken with a load that
// ends at the row's end.
#include "search/distance.h"

#if defined(__aarch64__)
#include <arm_neon.h>

#include <cstddef>

namespace rar {
namespace {

struct Isa {
    // Two vectors share what a step costs beside its sums.
    struct Vector {
        float32x4_t low, high;
    };
    static constexpr std::int64_t kLanes = 8;
    static constexpr int kTileQueries = 2;

    // GCC 12 takes arithmetic and loads that are built-in functions for accesses to any memory, and then writes the
    // sums of a tile to memory in every turn of the loop; asm and memcpy it understands.
    static uint8x16_t bytes16(const std::uint8_t* source) {
        uint8x16_t bytes;
        __builtin_memcpy(&bytes, source, sizeof bytes);
        return bytes;
    }
    static Vector load(F32, const std::uint8_t* source) {
        return {vreinterpretq_f32_u8(bytes16(source)), vreinterpretq_f32_u8(bytes16(source + 16))};
    }
    static Vector load(F16, const std::uint8_t* source) {
        const float16x8_t halves = vreinterpretq_f16_u8(bytes16(source));
        Vector wide;
        asm("fcvtl %0.4s, %1.4h" : "=w"(wide.low) : "w"(halves));
        asm("fcvtl2 %0.4s, %1.8h" : "=w"(wide.high) : "w"(halves));
        return wide;
    }
    static Vector load(I8, const std::uint8_t* source) {
        const int16x8_t wide = vmovl_s8(vreinterpret_s8_u8(vld1_u8(source)));
        return {vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide))), vcvtq_f32_s32(vmovl_high_s16(wide))};
    }

    struct Tail {
        explicit Tail(std::int64_t dim) : dim(dim) {
            static constexpr std::uint32_t kLane[kLanes] = {0, 1, 2, 3, 4, 5, 6, 7};
            const uint32x4_t taken = vdupq_n_u32(static_cast<std::uint32_t>(kLanes - 1 - dim % kLanes));
            low = vcgtq_u32(vld1q_u32(kLane), taken);
            high = vcgtq_u32(vld1q_u32(kLane + 4), taken);
        }
        template <class Kind>
        Vector load(Kind, const std::uint8_t* source) const {
            if (dim > kLanes) {
                const Vector last = Isa::load(Kind{}, source + (dim - kLanes) * Kind::kBytes);
                return {there(last.low, low), there(last.high, high)};
            }
            std::uint8_t copy[kLanes * F32::kBytes] = {};
            __builtin_memcpy(copy, source, static_cast<std::size_t>(dim * Kind::kBytes));
            return Isa::load(Kind{}, copy);
        }
        static float32x4_t there(float32x4_t value, uint32x4_t lanes) {
            return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(value), lanes));
        }
        std::int64_t dim;
        uint32x4_t low, high;
    };

    static Vector zero() { return {vdupq_n_f32(0), vdupq_n_f32(0)}; }
    static Vector subtract(Vector a, Vector b) { return {vsubq_f32(a.low, b.low), vsubq_f32(a.high, b.high)}; }
    static Vector multiply_add(Vector a, Vector b, Vector sum) {
        asm("fmla %0.4s, %1.4s, %2.4s" : "+w"(sum.low) : "w"(a.low), "w"(b.low));
        asm("fmla %0.4s, %1.4s, %2.4s" : "+w"(sum.high) : "w"(a.high), "w"(b.high));
        return sum;
    }

    static void store_sums(const Vector values[4], float* out) {
        const auto sum = [&](int i) { return vaddq_f32(values[i].low, values[i].high); };
        vst1q_f32(out, vpaddq_f32(vpaddq_f32(sum(0), sum(1)), vpaddq_f32(sum(2), sum(3))));
    }
};

#include "search/distance_template.h"

}  // namespace

const Distances* neon_distances() { return &kDistances; }

}  // namespace rar

#else

namespace rar {
const Distances* neon_distances() { return nullptr; }
}  // namespace rar

#endif
