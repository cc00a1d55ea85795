// The kinds of numbers a vector may be stored as.
#pragma once

#include <cstdint>

namespace rar {

enum class Scalar { kF32, kF16, kI8 };
constexpr int kScalars = 3;

// One for each kind that is widened to float32, to choose a function by.
struct F32 {
    static constexpr std::int64_t kBytes = 4;
};
struct F16 {
    static constexpr std::int64_t kBytes = 2;
};
struct I8 {
    static constexpr std::int64_t kBytes = 1;
};

// Of a vector of `dim` scalars.
constexpr std::int64_t bytes_of(Scalar scalar, std::int64_t dim) {
    switch (scalar) {
        case Scalar::kF32:
            return dim * F32::kBytes;
        case Scalar::kF16:
            return dim * F16::kBytes;
        case Scalar::kI8:
            return dim * I8::kBytes;
    }
    return 0;
}

}  // namespace rar
