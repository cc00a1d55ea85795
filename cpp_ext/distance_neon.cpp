// NEON, as every 64-bit ARM has it: 4 float32 a vector. What is left of a row is taken with a load that ends at the
// row's end.
#include "distance.h"

#if defined(__aarch64__)
#include <arm_neon.h>

namespace rar {
namespace {

struct Isa {
    using Vector = float32x4_t;
    static constexpr std::int64_t kLanes = 4;
    static constexpr int kTileQueries = 4;

    static float32x4_t load(F32, const std::uint8_t* source) { return vreinterpretq_f32_u8(vld1q_u8(source)); }
    static float32x4_t load(F16, const std::uint8_t* source) {
        return vcvt_f32_f16(vreinterpret_f16_u8(vld1_u8(source)));
    }
    static float32x4_t load(Bf16, const std::uint8_t* source) {
        return vreinterpretq_f32_u32(vshll_n_u16(vreinterpret_u16_u8(vld1_u8(source)), 16));
    }
    static float32x4_t load(I8, const std::uint8_t* source) {
        std::uint32_t bytes;
        __builtin_memcpy(&bytes, source, sizeof bytes);
        const int16x8_t wide = vmovl_s8(vreinterpret_s8_u32(vdup_n_u32(bytes)));
        return vcvtq_f32_s32(vmovl_s16(vget_low_s16(wide)));
    }

    struct Tail {
        explicit Tail(std::int64_t dim) : dim(dim) {
            static constexpr std::uint32_t kLane[4] = {0, 1, 2, 3};
            there = vcgtq_u32(vld1q_u32(kLane), vdupq_n_u32(static_cast<std::uint32_t>(3 - dim % kLanes)));
        }
        template <class Kind>
        float32x4_t load(Kind, const std::uint8_t* source) const {
            if (dim > kLanes) {
                const float32x4_t last = Isa::load(Kind{}, source + (dim - kLanes) * Kind::kBytes);
                return vreinterpretq_f32_u32(vandq_u32(vreinterpretq_u32_f32(last), there));
            }
            std::uint8_t copy[kLanes * F32::kBytes] = {};
            __builtin_memcpy(copy, source, static_cast<std::size_t>(dim * Kind::kBytes));
            return Isa::load(Kind{}, copy);
        }
        std::int64_t dim;
        uint32x4_t there;
    };

    static float32x4_t zero() { return vdupq_n_f32(0); }
    static float32x4_t subtract(float32x4_t a, float32x4_t b) { return vsubq_f32(a, b); }
    static float32x4_t multiply_add(float32x4_t a, float32x4_t b, float32x4_t sum) { return vfmaq_f32(sum, a, b); }

    static void store_sums(const float32x4_t values[4], float* out) {
        vst1q_f32(out, vpaddq_f32(vpaddq_f32(values[0], values[1]), vpaddq_f32(values[2], values[3])));
    }
};

#include "distance_template.h"

}  // namespace

const Distances* neon_distances() { return &kDistances; }

}  // namespace rar

#else

namespace rar {
const Distances* neon_distances() { return nullptr; }
}  // namespace rar

#endif
