// NEON with byte dot products (FEAT_DotProd: Cortex-A76 and A78, Neoverse N1): 16 products an instruction.
//
// A weight is three signed bytes, w = d0 + 2^8 d1 + 2^16 d2, each summed by its own dot product, as on AVX-512. Here
// both factors are signed: of a pixel u the dot product takes u - 128, and 128 w is added, four weights at a time.
#include "base/target.h"
#include "picture/kernels.h"

#if defined(__aarch64__) && RAR_COMPILER(8, 16)
#include <arm_neon.h>

#include "picture/axis.h"

RAR_TARGET_BEGIN("arch=armv8.2-a+dotprod")

namespace rar {
namespace {

#include "picture/kernels_arm.h"

struct Isa : Neon {
    static constexpr const char* kName = "dotprod";
    static constexpr int kWords = 4;
    static constexpr std::uint8_t kFlipped = 0x80;  // u - 128 in two's complement

    static void pack_weights(const std::int32_t* weights, std::uint32_t* words) {
        pack_digits(weights, words);
        words[3] = 0;
        for (int tap = 0; tap < 4; ++tap) words[3] += static_cast<std::uint32_t>(weights[tap]) * kFlipped;
    }

    struct Weights {
        explicit Weights(const std::uint32_t* words) : digits(vld1q_u32(words)) {}
        uint32x4_t digits;
    };

    struct Sum : DigitSums {
        Sum() : missing(vdupq_n_u32(0)) {}
        void add(int32x4_t data, const Weights& weights) {
            const int8x16_t pixels = vreinterpretq_s8_s32(data);
            const int8x16_t digits = vreinterpretq_s8_u32(weights.digits);
            low = vdotq_laneq_s32(low, pixels, digits, 0);
            middle = vdotq_laneq_s32(middle, pixels, digits, 1);
            high = vdotq_laneq_s32(high, pixels, digits, 2);
            missing = vaddq_u32(missing, weights.digits);  // lane 3; the three channels' are one
        }
        int32x4_t value() const { return vreinterpretq_s32_u32(vaddq_u32(total(), vdupq_laneq_u32(missing, 3))); }
        uint32x4_t missing;
    };

    static void turn(const std::uint8_t* const* rows, std::int64_t at, std::int64_t, std::uint8_t* strip) {
        Neon::turn<kFlipped>(rows, at, strip);
    }
    static void store_groups(const int32x4_t columns[4], std::uint8_t* const* groups, std::ptrdiff_t at) {
        Neon::store_groups<kFlipped>(columns, groups, at);
    }
};

#include "picture/kernels_template.h"

}  // namespace

const Kernels* dotprod_kernels() { return &kKernels; }

}  // namespace rar

RAR_TARGET_END

#else

namespace rar {
const Kernels* dotprod_kernels() { return nullptr; }
}  // namespace rar

#endif
