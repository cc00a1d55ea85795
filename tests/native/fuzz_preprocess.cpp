// Any bytes at all, read as a picture, settings and regions: no sanitizer may complain, and every instruction set
// must give the scalar result. With libFuzzer (make fuzz CXX=clang++) or with fuzz_driver.cpp (make fuzz).
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <optional>
#include <vector>

#include "dispatch.h"
#include "picture/preprocessor.h"

namespace {

// Hands out the input's bytes, then zeros.
class Bytes {
public:
    Bytes(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {}

    std::uint8_t byte() { return position_ < size_ ? data_[position_++] : std::uint8_t{0}; }
    std::int64_t below(std::int64_t limit) { return (byte() << 8 | byte()) % limit; }

private:
    const std::uint8_t* data_;
    std::size_t size_;
    std::size_t position_ = 0;
};

// Mostly small, now and then long and thin.
std::int64_t side(Bytes& bytes) {
    const std::int64_t kind = bytes.below(8);
    return 1 + bytes.below(kind == 0 ? 3 : kind == 1 ? 2500 : 90);
}

rar::Rect rect_inside(Bytes& bytes, const rar::Rect& outer) {
    const std::int64_t x = bytes.below(outer.width());
    const std::int64_t y = bytes.below(outer.height());
    return {outer.x0 + x, outer.y0 + y, outer.x0 + x + 1 + bytes.below(outer.width() - x),
            outer.y0 + y + 1 + bytes.below(outer.height() - y)};
}

struct Picture {
    std::vector<std::uint8_t> memory;  // exactly the pixels: any read beyond them is seen
    rar::ImageView view;
};

Picture picture(Bytes& bytes) {
    std::int64_t width = side(bytes);
    std::int64_t height = side(bytes);
    if (width * height > 200000) height = 1 + 200000 / width;
    const std::int64_t gap = bytes.below(4);  // a view into wider rows
    const std::int64_t stride = width * rar::kChannels + gap;
    Picture result;
    result.memory.resize(static_cast<std::size_t>(stride * (height - 1) + width * rar::kChannels));
    std::uint32_t state = 1u + static_cast<std::uint32_t>(bytes.below(65536));
    for (std::uint8_t& value : result.memory) {
        state = state * 1664525u + 1013904223u;
        const auto noise = static_cast<std::uint8_t>(state >> 24);
        value = state & 0x800000u ? noise : static_cast<std::uint8_t>(noise < 128 ? 0 : 255);
    }
    const bool bottom_up = bytes.below(2) == 1;
    result.view = {result.memory.data() + (bottom_up ? stride * (height - 1) : 0), width, height,
                   bottom_up ? -stride : stride};
    return result;
}

std::vector<rar::Region> regions(Bytes& bytes, const rar::ImageView& frame) {
    const rar::Rect whole{0, 0, frame.width, frame.height};
    std::vector<rar::Region> result;
    for (std::int64_t count = bytes.below(4); count > 0; --count) {
        rar::Region region{rect_inside(bytes, whole), {}, 0.0};
        region.around = region.box;
        region.around.x0 -= bytes.below(60);
        region.around.y0 -= bytes.below(60);
        region.around.x1 += bytes.below(60);
        region.around.y1 += bytes.below(60);
        region.around = rar::intersection(region.around, whole);
        region.sigma = static_cast<double>(bytes.below(4) == 0 ? bytes.below(10000) : bytes.below(300)) / 16.0;
        result.push_back(region);
    }
    return result;
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    Bytes bytes(data, size);
    const Picture source = picture(bytes);
    const std::int64_t out = 1 + bytes.below(70);
    const rar::Settings settings{out,
                                 1 + bytes.below(90),
                                 static_cast<rar::Filter>(bytes.below(5)),
                                 static_cast<rar::Fit>(bytes.below(3)),
                                 {1, 2, bytes.byte()}};
    const rar::Normalizer normalizer({0.1, 0.5, 0.9}, {0.2, 0.3, bytes.below(8) == 0 ? 1e-40 : 0.4});
    const int threads = 1 + static_cast<int>(bytes.below(3));
    const rar::PixelType type = bytes.below(3) == 0 ? rar::PixelType::kFloat16 : rar::PixelType::kFloat32;
    const std::size_t item = type == rar::PixelType::kFloat16 ? 2 : 4;
    const std::int64_t chosen = bytes.below(3);
    std::optional<rar::BlurMethod> method;
    if (chosen > 0) method = static_cast<rar::BlurMethod>(chosen - 1);
    const std::vector<rar::Region> boxes = regions(bytes, source.view);
    const std::vector<rar::ImageView> images(1 + static_cast<std::size_t>(bytes.below(2)), source.view);
    const std::size_t planes = static_cast<std::size_t>(rar::kChannels * out * out) * item;

    std::vector<std::uint8_t> reference;
    for (const std::string& level : rar::simd_levels()) {
        rar::Preprocessor preprocessor(settings, normalizer, rar::kernels_of(level), threads);
        const auto result = std::make_unique<std::uint8_t[]>(planes * (images.size() + boxes.size()));
        preprocessor.run(images, result.get(), type);
        preprocessor.run_regions(source.view, boxes, method, settings.fit, result.get() + planes * images.size(), type);
        if (reference.empty()) {
            reference.assign(result.get(), result.get() + planes * (images.size() + boxes.size()));
        } else if (std::memcmp(reference.data(), result.get(), reference.size()) != 0) {
            std::fprintf(stderr, "%s differs from scalar\n", level.c_str());
            std::abort();
        }
    }
    return 0;
}
