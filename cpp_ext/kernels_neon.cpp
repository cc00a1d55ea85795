// NEON, as every 64-bit ARM has it: 4 rows a strip. Weights stay whole; pixels are widened to 32 bits and
// multiplied with wrapping adds, which is exact modulo 2^32.
#include "kernels.h"

#if defined(__aarch64__)
#include <arm_neon.h>

#include "axis.h"

namespace rar {
namespace {

struct Isa {
    using Vector = int32x4_t;
    static constexpr const char* kName = "neon";
    static constexpr int kLanes = 4;
    static constexpr int kWords = 4;
    static constexpr int kTurnPixels = 4;
    static constexpr int kTurnReads = 16;  // of which 12 are used

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
        int32x4_t value() const { return vshrq_n_s32(vaddq_s32(even, odd), kPrecisionBits); }
        int32x4_t even, odd;
    };

    static int32x4_t load(const std::uint8_t* source) { return vreinterpretq_s32_u8(vld1q_u8(source)); }

    static void pack_weights(const std::int32_t weights[4], std::uint32_t* words) {
        for (int tap = 0; tap < 4; ++tap) words[tap] = static_cast<std::uint32_t>(weights[tap]);
    }

    static void turn(const std::uint8_t* const* rows, std::int64_t at, std::int64_t, std::uint8_t* strip) {
        alignas(16) static constexpr std::uint8_t kPlanar[16] = {0, 3, 6, 9,  1,   4,   7,   10,
                                                                 2, 5, 8, 11, 255, 255, 255, 255};
        const uint8x16_t planar = vld1q_u8(kPlanar);
        uint32x4_t row[4];
        for (int i = 0; i < 4; ++i) row[i] = vreinterpretq_u32_u8(vqtbl1q_u8(vld1q_u8(rows[i] + at), planar));
        const auto wide = [](uint32x4_t value) { return vreinterpretq_u64_u32(value); };
        const auto store = [&](int channel, uint64x2_t value) {
            vst1q_u8(strip + channel * 16, vreinterpretq_u8_u64(value));
        };
        const uint64x2_t low01 = wide(vzip1q_u32(row[0], row[1]));
        const uint64x2_t low23 = wide(vzip1q_u32(row[2], row[3]));
        store(0, vzip1q_u64(low01, low23));
        store(1, vzip2q_u64(low01, low23));
        store(2, vzip1q_u64(wide(vzip2q_u32(row[0], row[1])), wide(vzip2q_u32(row[2], row[3]))));
    }

    static void store_groups(const int32x4_t columns[4], std::uint8_t* const* groups, std::ptrdiff_t at) {
        const int16x8_t left = vcombine_s16(vqmovn_s32(columns[0]), vqmovn_s32(columns[1]));
        const int16x8_t right = vcombine_s16(vqmovn_s32(columns[2]), vqmovn_s32(columns[3]));
        vst1q_u8(groups[0] + at, vcombine_u8(vqmovun_s16(left), vqmovun_s16(right)));
    }

    static int32x4_t clip(int32x4_t value) { return vminq_s32(vmaxq_s32(value, vdupq_n_s32(0)), vdupq_n_s32(255)); }

    static float32x4_t multiply(float32x4_t value, float inverse, float rest) {
        return vfmaq_f32(vmulq_f32(value, vdupq_n_f32(rest)), value, vdupq_n_f32(inverse));
    }

    static float32x4_t multiplied(int32x4_t value, int channel, const Scaling& scaling) {
        const float32x4_t unit = multiply(vcvtq_f32_s32(value), kUnit, kUnitRest);
        return multiply(vsubq_f32(unit, vdupq_n_f32(scaling.mean[channel])), scaling.inverse_std[channel],
                        scaling.inverse_rest[channel]);
    }

    static float32x4_t divided(int32x4_t value, int channel, const Scaling& scaling) {
        const float32x4_t unit = vdivq_f32(vcvtq_f32_s32(value), vdupq_n_f32(255.0f));
        return vdivq_f32(vsubq_f32(unit, vdupq_n_f32(scaling.mean[channel])), vdupq_n_f32(scaling.std[channel]));
    }

    static void write_bytes(const int32x4_t rgb[kChannels], std::uint8_t* out, int count) {
        std::uint32_t pixels[4];
        const int32x4_t upper = vorrq_s32(vshlq_n_s32(rgb[1], 8), vshlq_n_s32(rgb[2], 16));
        vst1q_u32(pixels, vreinterpretq_u32_s32(vorrq_s32(rgb[0], upper)));
        for (int i = 0; i < count; ++i) __builtin_memcpy(out + i * kChannels, &pixels[i], kChannels);
    }

    static void write_floats(float32x4_t values, float* out, int count) {
        float floats[4];
        vst1q_f32(floats, values);
        __builtin_memcpy(out, floats, static_cast<std::size_t>(count) * sizeof floats[0]);
    }

    // There is no such store.
    static void stream_floats(float32x4_t values, float* out, int count) { write_floats(values, out, count); }
    static void settle() {}

    static void write_halves(float32x4_t values, std::uint16_t* out, int count) {
        std::uint16_t halves[4];
        vst1_u16(halves, vreinterpret_u16_f16(vcvt_f16_f32(values)));
        __builtin_memcpy(out, halves, static_cast<std::size_t>(count) * sizeof halves[0]);
    }
};

#include "kernels_template.h"

}  // namespace

const Kernels* neon_kernels() { return &kKernels; }

}  // namespace rar

#else

namespace rar {
const Kernels* neon_kernels() { return nullptr; }
}  // namespace rar

#endif
