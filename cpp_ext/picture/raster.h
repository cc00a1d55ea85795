// A uint8 RGB picture of our own, rows packed.
#pragma once

#include <cstddef>
#include <cstdint>

#include "base/aligned_buffer.h"
#include "picture/image_view.h"
#include "picture/normalize.h"

namespace rar {

class Raster {
public:
    Raster(std::int64_t width, std::int64_t height)
        : width_(width), height_(height), pixels_(static_cast<std::size_t>(width * height * kChannels)) {}

    std::uint8_t* row(std::int64_t y) const { return pixels_.data() + y * width_ * kChannels; }
    ImageView view() const { return {pixels_.data(), width_, height_, width_ * kChannels}; }
    Canvas canvas(const Wanted* wanted = nullptr) const {
        return {pixels_.data(), width_, height_, PixelType::kUint8, nullptr, wanted};
    }

private:
    std::int64_t width_;
    std::int64_t height_;
    AlignedBuffer pixels_;
};

}  // namespace rar
