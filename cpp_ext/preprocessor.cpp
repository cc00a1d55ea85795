#include "preprocessor.h"

#include "resample.h"

namespace rar {

Preprocessor::Preprocessor(const Settings& settings, const Normalizer& normalizer, int threads)
    : settings_(settings), normalizer_(normalizer), pool_(threads) {}

void Preprocessor::run(const std::vector<ImageView>& images, float* out) {
    const std::int64_t planes = kChannels * settings_.size * settings_.size;
    pool_.run(images.size(), [&](std::size_t i) {
        prepare(images[i], {out + static_cast<std::int64_t>(i) * planes, settings_.size});
    });
}

void Preprocessor::prepare(const ImageView& image, const Planes& planes) const {
    const Placement placement =
        place(image.width, image.height, settings_.size, settings_.shortest_edge, settings_.fit);
    const Axis x = resize_axis(placement.x.in, placement.x.out, placement.x.first, placement.x.count, settings_.filter);
    const Axis y = resize_axis(placement.y.in, placement.y.out, placement.y.first, placement.y.count, settings_.filter);
    const Order order = pass_order(image.width, image.height, placement.x.out, placement.y.out);
    const std::vector<std::uint8_t> pixels = resample_scalar(image, x, y, order);
    write_planes(pixels.data(), x.size(), y.size(), placement.x.offset, placement.y.offset, settings_.fill,
                 normalizer_, planes);
}

}  // namespace rar
