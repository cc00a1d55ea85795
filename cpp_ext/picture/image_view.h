// A borrowed uint8 RGB picture: pixels packed within a row, rows at any distance, up or down.
#pragma once

#include <cstddef>
#include <cstdint>

namespace rar {

constexpr int kChannels = 3;

// Longest side a picture may have: the weights of one axis then stay below 40 MB, and every product of a side
// with an output size below 2^53, where doubles are still exact.
constexpr std::int64_t kMaxSide = std::int64_t{1} << 20;

struct ImageView {
    const std::uint8_t* data = nullptr;
    std::int64_t width = 0;
    std::int64_t height = 0;
    std::ptrdiff_t row_stride = 0;  // in bytes; negative in a picture that is stored bottom up

    const std::uint8_t* row(std::int64_t y) const { return data + y * row_stride; }
};

}  // namespace rar
