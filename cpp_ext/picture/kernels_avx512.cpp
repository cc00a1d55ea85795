// AVX-512 with VNNI and VBMI (Ice Lake, Zen 4 and later): 16 rows a strip, 64 products an instruction.
//
// A weight is three signed bytes, w = d0 + 2^8 d1 + 2^16 d2, each summed by its own byte dot product: exact,
// because none of the sums saturates and the total is only needed modulo 2^32.
#include "picture/kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include "base/target.h"
#include "picture/axis.h"

#if !defined(__clang__)
// GCC 12 sees its own _mm512_undefined_epi32() as a mistake of the caller (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

RAR_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx512vbmi,avx512vnni,avx2,fma,f16c")

namespace rar {
namespace {

#include "picture/box_pass_template.h"

struct Isa {
    using Vector = __m512i;
    static constexpr const char* kName = "avx512";
    static constexpr int kLanes = 16;
    static constexpr int kTaps = 4;
    static constexpr int kWords = 3;
    static constexpr int kTurnPixels = 16;
    static constexpr int kTurnReads = 1;  // the loads are masked

    static constexpr BoxPass box_pass = box_pass_lines;

    struct Weights {
        explicit Weights(const std::uint32_t* words)
            : low(_mm512_set1_epi32(static_cast<int>(words[0]))),
              middle(_mm512_set1_epi32(static_cast<int>(words[1]))),
              high(_mm512_set1_epi32(static_cast<int>(words[2]))) {}
        __m512i low, middle, high;
    };

    struct Sum {
        Sum()
            : low(_mm512_set1_epi32(1 << (kPrecisionBits - 1))),
              middle(_mm512_setzero_si512()),
              high(_mm512_setzero_si512()) {}
        // Around the intrinsics GCC 12 copies all the sums in every turn of the loop, which costs an eighth.
        void add(__m512i data, const Weights& weights) {
            asm("vpdpbusd %2, %1, %0" : "+v"(low) : "v"(data), "v"(weights.low));
            asm("vpdpbusd %2, %1, %0" : "+v"(middle) : "v"(data), "v"(weights.middle));
            asm("vpdpbusd %2, %1, %0" : "+v"(high) : "v"(data), "v"(weights.high));
        }
        __m512i value() const {
            const __m512i upper = _mm512_add_epi32(_mm512_slli_epi32(middle, 8), _mm512_slli_epi32(high, 16));
            return _mm512_srai_epi32(_mm512_add_epi32(low, upper), kPrecisionBits);
        }
        __m512i low, middle, high;
    };

    static __m512i load(const std::uint8_t* source) { return _mm512_loadu_si512(source); }

    static void pack_weights(const std::int32_t* weights, std::uint32_t* words) {
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

    // 16 pixels of 16 rows: to [group, channel] dwords within each row, then a 16 x 16 transposition, of which
    // the quarter that would hold a fourth channel is left out.
    static void turn(const std::uint8_t* const* rows, std::int64_t at, std::int64_t bytes, std::uint8_t* strip) {
        alignas(64) static constexpr std::uint8_t kPlanar[64] = {
            0,  3,  6,  9,  1,  4,  7,  10, 2,  5,  8,  11, 63, 63, 63, 63,  //
            12, 15, 18, 21, 13, 16, 19, 22, 14, 17, 20, 23, 63, 63, 63, 63,  //
            24, 27, 30, 33, 25, 28, 31, 34, 26, 29, 32, 35, 63, 63, 63, 63,  //
            36, 39, 42, 45, 37, 40, 43, 46, 38, 41, 44, 47, 63, 63, 63, 63};
        const __m512i planar = _mm512_load_si512(kPlanar);
        const __mmask64 there = ~std::uint64_t{0} >> (64 - (bytes < 48 ? bytes : 48));
        __m512i quads[3][4];  // [channel][quad of rows], lane: pixel group
        for (int quad = 0; quad < 4; ++quad) {
            __m512i row[4];
            for (int i = 0; i < 4; ++i) {
                row[i] = _mm512_permutexvar_epi8(planar, _mm512_maskz_loadu_epi8(there, rows[quad * 4 + i] + at));
            }
            const __m512i low01 = _mm512_unpacklo_epi32(row[0], row[1]);
            const __m512i low23 = _mm512_unpacklo_epi32(row[2], row[3]);
            const __m512i high01 = _mm512_unpackhi_epi32(row[0], row[1]);
            const __m512i high23 = _mm512_unpackhi_epi32(row[2], row[3]);
            quads[0][quad] = _mm512_unpacklo_epi64(low01, low23);
            quads[1][quad] = _mm512_unpackhi_epi64(low01, low23);
            quads[2][quad] = _mm512_unpacklo_epi64(high01, high23);
        }
        for (int channel = 0; channel < kChannels; ++channel) {
            const __m512i* quad = quads[channel];
            const __m512i even01 = _mm512_shuffle_i32x4(quad[0], quad[1], 0x88);
            const __m512i even23 = _mm512_shuffle_i32x4(quad[2], quad[3], 0x88);
            const __m512i odd01 = _mm512_shuffle_i32x4(quad[0], quad[1], 0xdd);
            const __m512i odd23 = _mm512_shuffle_i32x4(quad[2], quad[3], 0xdd);
            const auto store = [&](int group, __m512i value) {
                _mm512_storeu_si512(strip + (group * kChannels + channel) * 64, value);
            };
            store(0, _mm512_shuffle_i32x4(even01, even23, 0x88));
            store(1, _mm512_shuffle_i32x4(odd01, odd23, 0x88));
            store(2, _mm512_shuffle_i32x4(even01, even23, 0xdd));
            store(3, _mm512_shuffle_i32x4(odd01, odd23, 0xdd));
        }
    }

    static void store_groups(const __m512i columns[4], std::uint8_t* const* groups, std::ptrdiff_t at) {
        const __m512i bytes =
            _mm512_packus_epi16(_mm512_packs_epi32(columns[0], columns[1]), _mm512_packs_epi32(columns[2], columns[3]));
        const auto store = [&](int group, __m128i value) {
            _mm_storeu_si128(reinterpret_cast<__m128i*>(groups[group] + at), value);
        };
        store(0, _mm512_castsi512_si128(bytes));
        store(1, _mm512_extracti32x4_epi32(bytes, 1));
        store(2, _mm512_extracti32x4_epi32(bytes, 2));
        store(3, _mm512_extracti32x4_epi32(bytes, 3));
    }

    static __m512i clip(__m512i value) {
        return _mm512_min_epi32(_mm512_max_epi32(value, _mm512_setzero_si512()), _mm512_set1_epi32(255));
    }

    static __m512 multiply(__m512 value, float inverse, float rest) {
        return _mm512_fmadd_ps(value, _mm512_set1_ps(inverse), _mm512_mul_ps(value, _mm512_set1_ps(rest)));
    }

    static __m512 multiplied(__m512i value, int channel, const Scaling& scaling) {
        const __m512 unit = multiply(_mm512_cvtepi32_ps(value), kUnit, kUnitRest);
        return multiply(_mm512_sub_ps(unit, _mm512_set1_ps(scaling.mean[channel])), scaling.inverse_std[channel],
                        scaling.inverse_rest[channel]);
    }

    static __m512 divided(__m512i value, int channel, const Scaling& scaling) {
        const __m512 unit = _mm512_div_ps(_mm512_cvtepi32_ps(value), _mm512_set1_ps(255.0f));
        return _mm512_div_ps(_mm512_sub_ps(unit, _mm512_set1_ps(scaling.mean[channel])),
                             _mm512_set1_ps(scaling.std[channel]));
    }

    static void write_bytes(const __m512i rgb[kChannels], std::uint8_t* out, int count) {
        alignas(64) static constexpr std::uint8_t kPacked[64] = {
            0,  1,  2,  4,  5,  6,  8,  9,  10, 12, 13, 14, 16, 17, 18, 20, 21, 22, 24, 25, 26, 28, 29, 30,
            32, 33, 34, 36, 37, 38, 40, 41, 42, 44, 45, 46, 48, 49, 50, 52, 53, 54, 56, 57, 58, 60, 61, 62};
        const __m512i pixels =
            _mm512_or_si512(rgb[0], _mm512_or_si512(_mm512_slli_epi32(rgb[1], 8), _mm512_slli_epi32(rgb[2], 16)));
        _mm512_mask_storeu_epi8(out, (std::uint64_t{1} << (count * kChannels)) - 1,
                                _mm512_permutexvar_epi8(_mm512_load_si512(kPacked), pixels));
    }

    static __mmask16 first(int count) { return static_cast<__mmask16>((1u << count) - 1); }

    static void write_floats(__m512 values, float* out, int count) { _mm512_mask_storeu_ps(out, first(count), values); }

    static void stream_floats(__m512 values, float* out, int count) {
        if (count == kLanes) {
            _mm512_stream_ps(out, values);
        } else {
            write_floats(values, out, count);
        }
    }

    static void settle() { _mm_sfence(); }

    static void write_halves(__m512 values, std::uint16_t* out, int count) {
        _mm256_mask_storeu_epi16(out, first(count),
                                 _mm512_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
    }
};

#include "picture/kernels_template.h"

}  // namespace

const Kernels* avx512_kernels() { return &kKernels; }

}  // namespace rar

RAR_TARGET_END

#else

namespace rar {
const Kernels* avx512_kernels() { return nullptr; }
}  // namespace rar

#endif
