// NEON with dot products of unsigned by signed bytes (FEAT_I8MM: Neoverse V1, N2 and V2, Cortex-A710): the digits of
// kernels_dotprod.cpp without its detour over signed pixels.
//
// The matrix product of the same extension, two rows by two, would do three digits of a weight in the work of four
// and want taps in groups of eight, more than which many a filter has.
#include "base/target.h"
#include "picture/kernels.h"

#if defined(__aarch64__) && RAR_COMPILER(10, 16)
#include <arm_neon.h>

#include "picture/axis.h"

RAR_TARGET_BEGIN("arch=armv8.2-a+dotprod+i8mm")

namespace rar {
namespace {

#include "picture/kernels_arm.h"

struct Isa : Neon {
    static constexpr const char* kName = "i8mm";
    static constexpr int kWords = 4;  // the last is not used: a group is one load

    static void pack_weights(const std::int32_t* weights, std::uint32_t* words) {
        pack_digits(weights, words);
        words[3] = 0;
    }

    struct Weights {
        explicit Weights(const std::uint32_t* words) : digits(vreinterpretq_s8_u32(vld1q_u32(words))) {}
        int8x16_t digits;
    };

    struct Sum : DigitSums {
        void add(int32x4_t data, const Weights& weights) {
            const uint8x16_t pixels = vreinterpretq_u8_s32(data);
            low = vusdotq_laneq_s32(low, pixels, weights.digits, 0);
            middle = vusdotq_laneq_s32(middle, pixels, weights.digits, 1);
            high = vusdotq_laneq_s32(high, pixels, weights.digits, 2);
        }
        int32x4_t value() const { return vreinterpretq_s32_u32(total()); }
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

const Kernels* i8mm_kernels() { return &kKernels; }

}  // namespace rar

RAR_TARGET_END

#else

namespace rar {
const Kernels* i8mm_kernels() { return nullptr; }
}  // namespace rar

#endif
