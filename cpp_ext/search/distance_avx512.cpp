// AVX-512: 16 float32 a vector, the last of a row under a mask.
#include "search/distance.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include "base/target.h"

#if !defined(__clang__)
// GCC 12 sees its own _mm512_undefined_epi32() as a mistake of the caller (GCC bug 105593).
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

RAR_TARGET_BEGIN("avx512f,avx512bw,avx512dq,avx512vl,avx2,fma,f16c")

namespace rar {
namespace {

struct Isa {
    using Vector = __m512;
    static constexpr std::int64_t kLanes = 16;
    static constexpr int kTileQueries = 4;

    static __m512 widen(F16, __m256i halves) { return _mm512_cvtph_ps(halves); }
    static __m512 widen(I8, __m128i bytes) { return _mm512_cvtepi32_ps(_mm512_cvtepi8_epi32(bytes)); }

    static __m512 load(F32, const std::uint8_t* source) { return _mm512_loadu_ps(source); }
    static __m512 load(I8, const std::uint8_t* source) {
        return widen(I8{}, _mm_loadu_si128(reinterpret_cast<const __m128i*>(source)));
    }
    static __m512 load(F16, const std::uint8_t* source) {
        return widen(F16{}, _mm256_loadu_si256(reinterpret_cast<const __m256i*>(source)));
    }

    struct Tail {
        explicit Tail(std::int64_t dim)
            : first(dim - dim % kLanes), there(static_cast<__mmask16>((1u << (dim % kLanes)) - 1)) {}
        __m512 load(F32, const std::uint8_t* source) const {
            return _mm512_maskz_loadu_ps(there, source + first * F32::kBytes);
        }
        __m512 load(I8, const std::uint8_t* source) const {
            return widen(I8{}, _mm_maskz_loadu_epi8(there, source + first * I8::kBytes));
        }
        __m512 load(F16, const std::uint8_t* source) const {
            return widen(F16{}, _mm256_maskz_loadu_epi16(there, source + first * F16::kBytes));
        }
        std::int64_t first;
        __mmask16 there;
    };

    static __m512 zero() { return _mm512_setzero_ps(); }
    static __m512 subtract(__m512 a, __m512 b) { return _mm512_sub_ps(a, b); }
    static __m512 multiply_add(__m512 a, __m512 b, __m512 sum) { return _mm512_fmadd_ps(a, b, sum); }

    static __m256 halved(__m512 value) {
        return _mm256_add_ps(_mm512_castps512_ps256(value), _mm512_extractf32x8_ps(value, 1));
    }
    static void store_sums(const __m512 values[4], float* out) {
        const __m256 left = _mm256_hadd_ps(halved(values[0]), halved(values[1]));
        const __m256 right = _mm256_hadd_ps(halved(values[2]), halved(values[3]));
        const __m256 sums = _mm256_hadd_ps(left, right);
        _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1)));
    }
};

#include "search/distance_template.h"

}  // namespace

const Distances* avx512_distances() { return &kDistances; }

}  // namespace rar

RAR_TARGET_END

#else

namespace rar {
const Distances* avx512_distances() { return nullptr; }
}  // namespace rar

#endif
