// Without any instruction set: the reference.
#include <cstring>

#include "search/distance.h"

namespace rar {
namespace {

template <class Number>
Number read(const std::uint8_t* source) {
    Number value;
    std::memcpy(&value, source, sizeof value);
    return value;
}

float widened(std::uint32_t bits) {
    float value;
    std::memcpy(&value, &bits, sizeof value);
    return value;
}

float load(F32, const std::uint8_t* source) { return read<float>(source); }

float load(F16, const std::uint8_t* source) {
    const std::uint32_t half = read<std::uint16_t>(source);
    const std::uint32_t sign = (half & 0x8000u) << 16;
    const std::uint32_t rest = (half & 0x7fffu) << 13;
    if (rest >= 0x7c00u << 13) return widened(sign | 0x7f800000u | rest);  // infinity or NaN
    // The exponents' origins differ by 112; scaling makes whole numbers of the halves below normal, too.
    return widened(sign | 0x3f800000u) * (widened(rest) * 0x1p112f);
}

float load(I8, const std::uint8_t* source) { return static_cast<float>(read<std::int8_t>(source)); }

template <class Kind>
void squared(const void* query, std::int64_t dim, const std::uint8_t* const* rows, std::int64_t count, float* out) {
    const auto* const wanted = static_cast<const std::uint8_t*>(query);
    for (std::int64_t i = 0; i < count; ++i) {
        float sum = 0;
        for (std::int64_t d = 0; d < dim; ++d) {
            const float difference = load(F32{}, wanted + d * F32::kBytes) - load(Kind{}, rows[i] + d * Kind::kBytes);
            sum += difference * difference;
        }
        out[i] = sum;
    }
}

template <class Kind>
void dots(const float* queries, std::int64_t query_count, std::int64_t dim, const std::uint8_t* const* rows,
          std::int64_t count, float* out) {
    for (std::int64_t q = 0; q < query_count; ++q) {
        for (std::int64_t i = 0; i < count; ++i) {
            float sum = 0;
            for (std::int64_t d = 0; d < dim; ++d)
                sum += queries[q * dim + d] * load(Kind{}, rows[i] + d * Kind::kBytes);
            out[q * count + i] = sum;
        }
    }
}

const Distances kDistances{{squared<F32>, squared<F16>, squared<I8>}, dots<F32>, dots<F16>};

}  // namespace

const Distances* scalar_distances() { return &kDistances; }

}  // namespace rar
