// AVX2 with FMA and F16C: 8 float32 a vector. What is left of a row is taken with a load that ends at the row's end.
#include "search/distance.h"

#if defined(__x86_64__)
#include <immintrin.h>

#include <cstddef>

#include "base/target.h"

RAR_TARGET_BEGIN("avx2,fma,f16c")

namespace rar {
namespace {

struct Isa {
    using Vector = __m256;
    static constexpr std::int64_t kLanes = 8;
    static constexpr int kTileQueries = 2;

    static __m128i bytes16(const std::uint8_t* source) {
        return _mm_loadu_si128(reinterpret_cast<const __m128i*>(source));
    }
    static __m256 load(F32, const std::uint8_t* source) {
        return _mm256_castsi256_ps(_mm256_loadu_si256(reinterpret_cast<const __m256i*>(source)));
    }
    static __m256 load(F16, const std::uint8_t* source) { return _mm256_cvtph_ps(bytes16(source)); }
    static __m256 load(I8, const std::uint8_t* source) {
        const __m128i bytes = _mm_loadl_epi64(reinterpret_cast<const __m128i*>(source));
        return _mm256_cvtepi32_ps(_mm256_cvtepi8_epi32(bytes));
    }

    struct Tail {
        explicit Tail(std::int64_t dim)
            : dim(dim),
              there(_mm256_castsi256_ps(_mm256_cmpgt_epi32(_mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7),
                                                           _mm256_set1_epi32(static_cast<int>(7 - dim % kLanes))))) {}
        template <class Kind>
        __m256 load(Kind, const std::uint8_t* source) const {
            if (dim > kLanes) return _mm256_and_ps(Isa::load(Kind{}, source + (dim - kLanes) * Kind::kBytes), there);
            std::uint8_t copy[kLanes * F32::kBytes] = {};
            __builtin_memcpy(copy, source, static_cast<std::size_t>(dim * Kind::kBytes));
            return Isa::load(Kind{}, copy);
        }
        std::int64_t dim;
        __m256 there;
    };

    static __m256 zero() { return _mm256_setzero_ps(); }
    static __m256 subtract(__m256 a, __m256 b) { return _mm256_sub_ps(a, b); }
    static __m256 multiply_add(__m256 a, __m256 b, __m256 sum) { return _mm256_fmadd_ps(a, b, sum); }

    static void store_sums(const __m256 values[4], float* out) {
        const __m256 sums = _mm256_hadd_ps(_mm256_hadd_ps(values[0], values[1]), _mm256_hadd_ps(values[2], values[3]));
        _mm_storeu_ps(out, _mm_add_ps(_mm256_castps256_ps128(sums), _mm256_extractf128_ps(sums, 1)));
    }
};

#include "search/distance_template.h"

}  // namespace

const Distances* avx2_distances() { return &kDistances; }

}  // namespace rar

RAR_TARGET_END

#else

namespace rar {
const Distances* avx2_distances() { return nullptr; }
}  // namespace rar

#endif
