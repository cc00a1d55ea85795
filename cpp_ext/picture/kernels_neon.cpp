// NEON, as every 64-bit ARM has it. Weights stay whole; pixels are widened to 32 bits and multiplied with wrapping
// adds, which is exact modulo 2^32.
#include "picture/kernels.h"

#if defined(__aarch64__)
#include <arm_neon.h>

#include "picture/axis.h"

namespace rar {
namespace {

#include "picture/kernels_arm.h"

struct Isa : Neon {
    static constexpr const char* kName = "neon";
    static constexpr int kWords = 4;

    static void pack_weights(const std::int32_t* weights, std::uint32_t* words) {
        for (int tap = 0; tap < 4; ++tap) words[tap] = static_cast<std::uint32_t>(weights[tap]);
    }

    struct Weights {
        explicit Weights(const std::uint32_t* words) : taps(vreinterpretq_s32_u32(vld1q_u32(words))) {}
        int32x4_t taps;
    };

    struct Sum {
        Sum() : even(vdupq_n_s32(1 << (kPrecisionBits - 1))), odd(vdupq_n_s32(0)) {}
        void add(int32x4_t data, const Weights& weights) {
            const uint32x4_t bytes = vreinterpretq_u32_s32(data);
            const uint32x4_t low = vdupq_n_u32(0xff);
            const auto tap = [](uint32x4_t value) { return vreinterpretq_s32_u32(value); };
            even = vmlaq_laneq_s32(even, tap(vandq_u32(bytes, low)), weights.taps, 0);
            odd = vmlaq_laneq_s32(odd, tap(vandq_u32(vshrq_n_u32(bytes, 8), low)), weights.taps, 1);
            even = vmlaq_laneq_s32(even, tap(vandq_u32(vshrq_n_u32(bytes, 16), low)), weights.taps, 2);
            odd = vmlaq_laneq_s32(odd, tap(vshrq_n_u32(bytes, 24)), weights.taps, 3);
        }
        int32x4_t value() const { return vaddq_s32(even, odd); }
        int32x4_t even, odd;
    };

    static void turn(const std::uint8_t* const* rows, std::int64_t at, std::int64_t, std::uint8_t* strip) {
        Neon::turn<0>(rows, at, strip);
    }
    static void store_groups(const int32x4_t columns[4], std::uint8_t* const* groups, std::ptrdiff_t at) {
        Neon::store_groups<0>(columns, groups, at);
    }
};

#include "picture/kernels_template.h"

}  // namespace

const Kernels* neon_kernels() { return &kKernels; }

}  // namespace rar

#else

namespace rar {
const Kernels* neon_kernels() { return nullptr; }
}  // namespace rar

#endif
