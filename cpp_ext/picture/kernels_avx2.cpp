// AVX2 with FMA and F16C (Haswell, Zen and later): 8 rows a strip, two taps a group.
//
// A weight is two signed 16-bit halves, w = low + 2^16 high, each multiplied with pixels widened to 16 bits and
// summed in pairs: exact, because a pair cannot overflow 32 bits and the total is needed modulo 2^32 only. Strips
// and row groups hold pixels that are widened already: once for all the results that they are part of.
#include "picture/kernels.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <limits>

#include "base/target.h"
#include "picture/axis.h"

RAR_TARGET_BEGIN("avx2,fma,f16c")

namespace rar {
namespace {

#include "picture/box_pass_template.h"

struct Isa {
    using Vector = __m256i;
    static constexpr const char* kName = "avx2";
    static constexpr int kLanes = 8;
    static constexpr int kTaps = 2;
    static constexpr int kWords = 2;
    static constexpr int kTurnPixels = 4;
    static constexpr int kTurnReads = 16;  // of which 12 are used

    struct Weights {
        explicit Weights(const std::uint32_t* words)
            : low(_mm256_set1_epi32(static_cast<int>(words[0]))),
              high(_mm256_set1_epi32(static_cast<int>(words[1]))) {}
        __m256i low, high;
    };

    struct Sum {
        Sum() : low(_mm256_set1_epi32(1 << (kPrecisionBits - 1))), high(_mm256_setzero_si256()) {}
        // Around the intrinsics GCC 12 loads the data twice and copies all the sums in every turn of the loop.
        void add(__m256i data, const Weights& weights) {
            asm("" : "+x"(data));
            asm("vpaddd %1, %0, %0" : "+x"(low) : "x"(_mm256_madd_epi16(data, weights.low)));
            asm("vpaddd %1, %0, %0" : "+x"(high) : "x"(_mm256_madd_epi16(data, weights.high)));
        }
        __m256i value() const {
            return _mm256_srai_epi32(_mm256_add_epi32(low, _mm256_slli_epi32(high, 16)), kPrecisionBits);
        }
        __m256i low, high;
    };

    static __m256i load(const std::uint8_t* source) {
        return _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source));
    }

    static void pack_weights(const std::int32_t* weights, std::uint32_t* words) {
        words[0] = words[1] = 0;
        for (int tap = 0; tap < kTaps; ++tap) {
            const auto low = static_cast<std::int16_t>(weights[tap] & 0xffff);
            const auto high = static_cast<std::int16_t>((weights[tap] - low) >> 16);
            words[0] |= static_cast<std::uint32_t>(static_cast<std::uint16_t>(low)) << (16 * tap);
            words[1] |= static_cast<std::uint32_t>(static_cast<std::uint16_t>(high)) << (16 * tap);
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
        // Of the four bytes of each lane, the first two and the last two as words.
        const __m256i first = _mm256_broadcastsi128_si256(
            _mm_setr_epi8(0, -1, 1, -1, 4, -1, 5, -1, 8, -1, 9, -1, 12, -1, 13, -1));
        const __m256i second = _mm256_broadcastsi128_si256(
            _mm_setr_epi8(2, -1, 3, -1, 6, -1, 7, -1, 10, -1, 11, -1, 14, -1, 15, -1));
        const auto store = [&](int channel, __m256i value) {
            auto* const group = reinterpret_cast<__m256i*>(strip) + channel;
            _mm256_storeu_si256(group, _mm256_shuffle_epi8(value, first));
            _mm256_storeu_si256(group + kChannels, _mm256_shuffle_epi8(value, second));
        };
        store(0, _mm256_unpacklo_epi64(low01, low23));
        store(1, _mm256_unpackhi_epi64(low01, low23));
        store(2, _mm256_unpacklo_epi64(high01, high23));
    }

    static void store_groups(const __m256i columns[4], std::uint8_t* const* groups, std::ptrdiff_t at) {
        const __m256i most = _mm256_set1_epi16(255);
        const auto words = [&](__m256i a, __m256i b) {
            return _mm256_castsi256_ps(_mm256_min_epu16(_mm256_packus_epi32(a, b), most));
        };
        const __m256 first = words(columns[0], columns[1]);
        const __m256 second = words(columns[2], columns[3]);
        // Rows 0, 1 and 4, 5 of the four columns, then rows 2, 3 and 6, 7.
        const __m256i even = _mm256_castps_si256(_mm256_shuffle_ps(first, second, 0x88));
        const __m256i odd = _mm256_castps_si256(_mm256_shuffle_ps(first, second, 0xdd));
        const auto store = [&](int group, __m128i value) {
            _mm_storeu_si128(reinterpret_cast<__m128i*>(groups[group] + at), value);
        };
        store(0, _mm256_castsi256_si128(even));
        store(1, _mm256_castsi256_si128(odd));
        store(2, _mm256_extracti128_si256(even, 1));
        store(3, _mm256_extracti128_si256(odd, 1));
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

    // As box_pass_lines, with sums of 16 bits: whole and outer weights then multiply them in one instruction.
    static void box_pass(const std::uint8_t* in, std::uint8_t* out, std::int64_t count, const BoxWeights& weights) {
        constexpr std::int64_t kWidest = (std::numeric_limits<std::int16_t>::max() / 255 - 1) / 2;
        if (weights.radius > kWidest) return box_pass_lines(in, out, count, weights);
        for (int line = 0; line < kLines; line += kBlock) box_pass_words(in + line, out + line, count, weights);
    }

    // 32 bytes widened to 16 bits: 0 … 7 and 16 … 23 in `low`, the others in `high`.
    struct Wide {
        explicit Wide(__m256i bytes)
            : low(_mm256_unpacklo_epi8(bytes, _mm256_setzero_si256())),
              high(_mm256_unpackhi_epi8(bytes, _mm256_setzero_si256())) {}
        __m256i low, high;
    };

    static void box_pass_words(const std::uint8_t* in, std::uint8_t* out, std::int64_t count,
                               const BoxWeights& weights) {
        const std::int64_t last = count - 1;
        const std::int64_t radius = weights.radius;
        const auto at = [&](std::int64_t position) {
            return Wide(load(in + (position < 0 ? 0 : position > last ? last : position) * kLines));
        };
        const std::int64_t inside = radius < last ? radius : last;
        const __m256i left_half = _mm256_set1_epi16(static_cast<std::int16_t>(radius + 1));
        const __m256i beyond = _mm256_set1_epi16(static_cast<std::int16_t>(radius - inside));
        const Wide first = at(0);
        const Wide end = at(last);
        __m256i low = _mm256_add_epi16(_mm256_mullo_epi16(first.low, left_half), _mm256_mullo_epi16(end.low, beyond));
        __m256i high =
            _mm256_add_epi16(_mm256_mullo_epi16(first.high, left_half), _mm256_mullo_epi16(end.high, beyond));
        for (std::int64_t position = 0; position < inside; ++position) {
            const Wide one = at(position);
            low = _mm256_add_epi16(low, one.low);
            high = _mm256_add_epi16(high, one.high);
        }
        // A pair of a sum and its ends, times both weights: their lower and their upper halves, as those of a resize.
        const std::int32_t pair[kTaps] = {static_cast<std::int32_t>(weights.inner),
                                          static_cast<std::int32_t>(weights.outer)};
        std::uint32_t words[kWords];
        pack_weights(pair, words);
        const Weights both(words);
        const __m256i half = _mm256_set1_epi32(1 << 23);
        const auto weighed = [&](__m256i pairs) {
            const __m256i whole = _mm256_add_epi32(_mm256_madd_epi16(pairs, both.low),
                                                   _mm256_slli_epi32(_mm256_madd_epi16(pairs, both.high), 16));
            return _mm256_srli_epi32(_mm256_add_epi32(whole, half), 24);
        };
        const auto result = [&](__m256i sums, __m256i ends) {
            return _mm256_packus_epi32(weighed(_mm256_unpacklo_epi16(sums, ends)),
                                       weighed(_mm256_unpackhi_epi16(sums, ends)));
        };
        Wide entering = at(radius);
        for (std::int64_t position = 0; position < count; ++position) {
            const Wide leaving = at(position - radius - 1);
            const Wide next = at(position + radius + 1);
            low = _mm256_sub_epi16(_mm256_add_epi16(low, entering.low), leaving.low);
            high = _mm256_sub_epi16(_mm256_add_epi16(high, entering.high), leaving.high);
            const __m256i bytes = _mm256_packus_epi16(result(low, _mm256_add_epi16(leaving.low, next.low)),
                                                      result(high, _mm256_add_epi16(leaving.high, next.high)));
            _mm256_storeu_si256(reinterpret_cast<__m256i*>(out + position * kLines), bytes);
            entering = next;
        }
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

    // Streaming stores of half a cache line took twice the time of ordinary ones, and of whole lines 1.5 times (Zen 3).
    static void stream_floats(__m256 values, float* out, int count) { write_floats(values, out, count); }
    static void settle() {}

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
