// AVX2 with FMA and F16C (Haswell, Zen and later): 8 rows a strip.
//
// A weight is two signed 16-bit halves, w = low + 2^16 high, each multiplied with pixels widened to 16 bits and
// summed in pairs: exact, because a pair cannot overflow 32 bits and the total is needed modulo 2^32 only.
#include "picture/kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include "base/target.h"
#include "picture/axis.h"

RAR_TARGET_BEGIN("avx2,fma,f16c")

namespace rar {
namespace {

struct Isa {
    using Vector = __m256i;
    static constexpr const char* kName = "avx2";
    static constexpr int kLanes = 8;
    static constexpr int kWords = 4;
    static constexpr int kTurnPixels = 4;
    static constexpr int kTurnReads = 16;  // of which 12 are used

    struct Weights {
        explicit Weights(const std::uint32_t* words)
            : low_even(_mm256_set1_epi32(static_cast<int>(words[0]))),
              low_odd(_mm256_set1_epi32(static_cast<int>(words[1]))),
              high_even(_mm256_set1_epi32(static_cast<int>(words[2]))),
              high_odd(_mm256_set1_epi32(static_cast<int>(words[3]))) {}
        __m256i low_even, low_odd, high_even, high_odd;
    };

    struct Sum {
        Sum() : low(_mm256_set1_epi32(1 << (kPrecisionBits - 1))), high(_mm256_setzero_si256()) {}
        void add(__m256i data, const Weights& weights) {
            const __m256i even = _mm256_and_si256(data, _mm256_set1_epi32(0x00ff00ff));
            const __m256i odd = _mm256_srli_epi16(data, 8);
            low = _mm256_add_epi32(low, _mm256_add_epi32(_mm256_madd_epi16(even, weights.low_even),
                                                         _mm256_madd_epi16(odd, weights.low_odd)));
            high = _mm256_add_epi32(high, _mm256_add_epi32(_mm256_madd_epi16(even, weights.high_even),
                                                           _mm256_madd_epi16(odd, weights.high_odd)));
        }
        __m256i value() const {
            return _mm256_srai_epi32(_mm256_add_epi32(low, _mm256_slli_epi32(high, 16)), kPrecisionBits);
        }
        __m256i low, high;
    };

    static __m256i load(const std::uint8_t* source) {
        return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source));
    }

    static void pack_weights(const std::int32_t weights[4], std::uint32_t* words) {
        words[0] = words[1] = words[2] = words[3] = 0;
        for (int tap = 0; tap < 4; ++tap) {
            const auto low = static_cast<std::int16_t>(weights[tap] & 0xffff);
            const auto high = static_cast<std::int16_t>((weights[tap] - low) >> 16);
            const int shift = 16 * (tap / 2);
            words[tap % 2] |= static_cast<std::uint32_t>(static_cast<std::uint16_t>(low)) << shift;
            words[2 + tap % 2] |= static_cast<std::uint32_t>(static_cast<std::uint16_t>(high)) << shift;
        }
    }

    static void turn(const std::uint8_t* const* rows, std::int64_t at, std::int64_t, std::uint8_t* strip) {
        const __m256i planar =
            _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 3, 6, 9, 1, 4, 7, 10, 2, 5, 8, 11, -1, -1, -1, -1));
        __m256i pair[4];  // rows i and i + 4
        for (int i = 0; i < 4; ++i) {
            const __m128i upper = _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[i] + at));
            const __m128i lower = _mm_loadu_si128(reinterpret_cast<const __m128i*>(rows[i + 4] + at));
            pair[i] = _mm256_shuffle_epi8(_mm256_inserti128_si256(_mm256_castsi128_si256(upper), lower, 1), planar);
        }
        const __m256i low01 = _mm256_unpacklo_epi32(pair[0], pair[1]);
        const __m256i low23 = _mm256_unpacklo_epi32(pair[2], pair[3]);
        const __m256i high01 = _mm256_unpackhi_epi32(pair[0], pair[1]);
        const __m256i high23 = _mm256_unpackhi_epi32(pair[2], pair[3]);
        const auto store = [&](int channel, __m256i value) {
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(strip + channel * 32), value);
        };
        store(0, _mm256_unpacklo_epi64(low01, low23));
        store(1, _mm256_unpackhi_epi64(low01, low23));
        store(2, _mm256_unpacklo_epi64(high01, high23));
    }

    static void store_groups(const __m256i columns[4], std::uint8_t* const* groups, std::ptrdiff_t at) {
        const __m256i bytes =
            _mm256_packus_epi16(_mm256_packs_epi32(columns[0], columns[1]), _mm256_packs_epi32(columns[2], columns[3]));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(groups[0] + at), _mm256_castsi256_si128(bytes));
        _mm_storeu_si128(reinterpret_cast<__m128i*>(groups[1] + at), _mm256_extracti128_si256(bytes, 1));
    }

    static __m256i clip(__m256i value) {
        return _mm256_min_epi32(_mm256_max_epi32(value, _mm256_setzero_si256()), _mm256_set1_epi32(255));
    }

    static __m256 multiply(__m256 value, float inverse, float rest) {
        return _mm256_fmadd_ps(value, _mm256_set1_ps(inverse), _mm256_mul_ps(value, _mm256_set1_ps(rest)));
    }

    static __m256 multiplied(__m256i value, int channel, const Scaling& scaling) {
        const __m256 unit = multiply(_mm256_cvtepi32_ps(value), kUnit, kUnitRest);
        return multiply(_mm256_sub_ps(unit, _mm256_set1_ps(scaling.mean[channel])), scaling.inverse_std[channel],
                        scaling.inverse_rest[channel]);
    }

    static __m256 divided(__m256i value, int channel, const Scaling& scaling) {
        const __m256 unit = _mm256_div_ps(_mm256_cvtepi32_ps(value), _mm256_set1_ps(255.0f));
        return _mm256_div_ps(_mm256_sub_ps(unit, _mm256_set1_ps(scaling.mean[channel])),
                             _mm256_set1_ps(scaling.std[channel]));
    }

    static void write_bytes(const __m256i rgb[kChannels], std::uint8_t* out, int count) {
        const __m256i packed =
            _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 2, 4, 5, 6, 8, 9, 10, 12, 13, 14, -1, -1, -1, -1));
        const __m256i pixels = _mm256_shuffle_epi8(
            _mm256_or_si256(rgb[0], _mm256_or_si256(_mm256_slli_epi32(rgb[1], 8), _mm256_slli_epi32(rgb[2], 16))),
            packed);
        alignas(32) std::uint8_t bytes[32];
        _mm256_store_si256(reinterpret_cast<__m256i*>(bytes), pixels);
        const int first = count < 4 ? count : 4;
        __builtin_memcpy(out, bytes, static_cast<std::size_t>(first * kChannels));
        __builtin_memcpy(out + first * kChannels, bytes + 16, static_cast<std::size_t>((count - first) * kChannels));
    }

    static void write_floats(__m256 values, float* out, int count) {
        if (count == kLanes) {
            _mm256_storeu_ps(out, values);
        } else {
            const __m256i lane = _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7);
            _mm256_maskstore_ps(out, _mm256_cmpgt_epi32(_mm256_set1_epi32(count), lane), values);
        }
    }

    static void stream_floats(__m256 values, float* out, int count) {
        if (count == kLanes) {
            _mm256_stream_ps(out, values);
        } else {
            write_floats(values, out, count);
        }
    }

    static void settle() { _mm_sfence(); }

    static void write_halves(__m256 values, std::uint16_t* out, int count) {
        alignas(16) std::uint16_t halves[8];
        _mm_store_si128(reinterpret_cast<__m128i*>(halves),
                        _mm256_cvtps_ph(values, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC));
        __builtin_memcpy(out, halves, static_cast<std::size_t>(count) * sizeof halves[0]);
    }
};

#include "picture/kernels_template.h"

}  // namespace

const Kernels* avx2_kernels() { return &kKernels; }

}  // namespace rar

RAR_TARGET_END

#else

namespace rar {
const Kernels* avx2_kernels() { return nullptr; }
}  // namespace rar

#endif
