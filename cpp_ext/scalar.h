// The kinds of numbers a vector may be stored as.
#pragma once

#include <cstdint>

namespace rar {

enum class Scalar { kF32, kF16, kBf16, kI8, kB1 };
constexpr int kScalars = 5;

// One for each kind that is widened to float32, to choose a function by.
struct F32 {
    static constexpr std::int64_t kBytes = 4;
};
struct F16 {
    static constexpr std::int64_t kBytes = 2;
};
struct Bf16 {
    static constexpr std::int64_t kBytes = 2;
};
struct I8 {
    static constexpr std::int64_t kBytes = 1;
};

// Of a vector of `dim` scalars; bits are packed, the last byte filled up.
constexpr std::int64_t bytes_of(Scalar scalar, std::int64_t dim) {
    switch (scalar) {
        case Scalar::kF32:
            return dim * F32::kBytes;
        case Scalar::kF16:
        case Scalar::kBf16:
            return dim * F16::kBytes;
        case Scalar::kI8:
            return dim * I8::kBytes;
        case Scalar::kB1:
            return (dim + 7) / 8;
    }
    return 0;
}

}  // namespace rar
