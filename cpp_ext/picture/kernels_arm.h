// What the forms of 64-bit ARM share of kernels.h: 4 rows a strip. Included inside the anonymous namespace of each
// kernels_*.cpp of ARM, before `Isa`, which derives from it and adds
//     kName, kWords, pack_weights, Weights, Sum, turn, store_groups
// A value of a Sum still has its fractional bits: clip and store_groups drop them.
#include "picture/box_pass_template.h"

struct Neon {
    using Vector = int32x4_t;
    static constexpr BoxPass box_pass = box_pass_lines;
    static constexpr int kLanes = 4;
    static constexpr int kTaps = 4;
    static constexpr int kTurnPixels = 4;
    static constexpr int kTurnReads = 16;  // of which 12 are used

    static int32x4_t load(const std::uint8_t* source) { return vreinterpretq_s32_u8(vld1q_u8(source)); }

    // Each byte of a strip, and of a row group, is the pixel's with the bits of kFlipped turned over.
    template <std::uint8_t kFlipped>
    static uint8x16_t flipped(uint8x16_t bytes) {
        return kFlipped == 0 ? bytes : veorq_u8(bytes, vdupq_n_u8(kFlipped));
    }

    template <std::uint8_t kFlipped>
    static void turn(const std::uint8_t* const* rows, std::int64_t at, std::uint8_t* strip) {
        alignas(16) static constexpr std::uint8_t kPlanar[16] = {0, 3, 6, 9,  1,   4,   7,   10,
                                                                 2, 5, 8, 11, 255, 255, 255, 255};
        const uint8x16_t planar = vld1q_u8(kPlanar);
        uint32x4_t row[4];
        for (int i = 0; i < 4; ++i) {
            row[i] = vreinterpretq_u32_u8(flipped<kFlipped>(vqtbl1q_u8(vld1q_u8(rows[i] + at), planar)));
        }
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

    // The upper halves of two vectors' values, which are their values but for the last fractional bits.
    static int16x8_t upper(int32x4_t a, int32x4_t b) {
        return vuzp2q_s16(vreinterpretq_s16_s32(a), vreinterpretq_s16_s32(b));
    }

    template <std::uint8_t kFlipped>
    static void store_groups(const int32x4_t columns[4], std::uint8_t* const* groups, std::ptrdiff_t at) {
        constexpr int kLeft = kPrecisionBits - 16;
        const uint8x8_t first = vqshrun_n_s16(upper(columns[0], columns[1]), kLeft);
        const uint8x16_t bytes = vqshrun_high_n_s16(first, upper(columns[2], columns[3]), kLeft);
        vst1q_u8(groups[0] + at, flipped<kFlipped>(bytes));
    }

    static int32x4_t clip(int32x4_t value) {
        const int32x4_t whole = vshrq_n_s32(value, kPrecisionBits);
        return vminq_s32(vmaxq_s32(whole, vdupq_n_s32(0)), vdupq_n_s32(255));
    }

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
        alignas(16) static constexpr std::uint8_t kPacked[16] = {0,  1,  2,  4,  5,   6,   8,   9,
                                                                 10, 12, 13, 14, 255, 255, 255, 255};
        const auto plane = [&](int channel) { return vreinterpretq_u32_s32(rgb[channel]); };
        const uint32x4_t spread = vsliq_n_u32(vsliq_n_u32(plane(0), plane(1), 8), plane(2), 16);
        const uint8x16_t pixels = vqtbl1q_u8(vreinterpretq_u8_u32(spread), vld1q_u8(kPacked));
        if (count == kLanes) {
            vst1_u8(out, vget_low_u8(pixels));
            const std::uint32_t last = vgetq_lane_u32(vreinterpretq_u32_u8(pixels), 2);
            __builtin_memcpy(out + 8, &last, sizeof last);
        } else {
            std::uint8_t bytes[16];
            vst1q_u8(bytes, pixels);
            for (int i = 0; i < count; ++i) __builtin_memcpy(out + i * kChannels, bytes + i * kChannels, kChannels);
        }
    }

    // Fewer than kLanes are stored by count: memcpy would be a call, which saves every register.
    static void write_floats(float32x4_t values, float* out, int count) {
        if (count == kLanes) {
            vst1q_f32(out, values);
        } else if (count == 1) {
            vst1q_lane_f32(out, values, 0);
        } else {
            vst1_f32(out, vget_low_f32(values));
            if (count == 3) vst1q_lane_f32(out + 2, values, 2);
        }
    }

    // NEON intrinsics have no streaming store.
    static void stream_floats(float32x4_t values, float* out, int count) { write_floats(values, out, count); }
    static void settle() {}

    static void write_halves(float32x4_t values, std::uint16_t* out, int count) {
        const uint16x4_t bits = vreinterpret_u16_f16(vcvt_f16_f32(values));
        if (count == kLanes) {
            vst1_u16(out, bits);
        } else {
            vst1_lane_u16(out, bits, 0);
            if (count > 1) vst1_lane_u16(out + 1, bits, 1);
            if (count > 2) vst1_lane_u16(out + 2, bits, 2);
        }
    }
};

// A weight as three signed bytes, in as many words of four taps.
inline void pack_digits(const std::int32_t* weights, std::uint32_t* words) {
    words[0] = words[1] = words[2] = 0;
    for (int tap = 0; tap < 4; ++tap) {
        std::int32_t rest = weights[tap];
        for (int digit = 0; digit < 3; ++digit) {
            const auto byte = static_cast<std::int8_t>(rest & 0xff);
            words[digit] |= static_cast<std::uint32_t>(static_cast<std::uint8_t>(byte)) << (8 * tap);
            rest = (rest - byte) >> 8;
        }
    }
}

// The sums of each digit's products.
struct DigitSums {
    uint32x4_t total() const {
        const auto wrapping = [](int32x4_t value) { return vreinterpretq_u32_s32(value); };
        const uint32x4_t upper = vaddq_u32(vshlq_n_u32(wrapping(middle), 8), vshlq_n_u32(wrapping(high), 16));
        return vaddq_u32(wrapping(low), upper);
    }
    int32x4_t low = vdupq_n_s32(1 << (kPrecisionBits - 1));
    int32x4_t middle = vdupq_n_s32(0);
    int32x4_t high = vdupq_n_s32(0);
};
