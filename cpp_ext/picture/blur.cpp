#include "picture/blur.h"

#include <cstddef>
#include <cstring>
#include <stdexcept>

#include "picture/box_pass.h"

namespace rar {

BlurMethod parse_method(const std::string& name) {
    if (name == "gaussian") return BlurMethod::kGaussian;
    if (name == "pillow") return BlurMethod::kPillow;
    throw std::invalid_argument("blur must be gaussian or pillow, not '" + name + "'");
}

void blur(const Kernels* kernels, const ImageView& image, const Rect& part, double sigma, BlurMethod method,
          const Canvas& target, std::int64_t left, std::int64_t top) {
    if (sigma > 0 && method == BlurMethod::kGaussian) {
        gaussian_blur(kernels, image, part, sigma, target, left, top);
    } else if (sigma > 0) {
        pillow_blur(image, part, sigma, kernels == nullptr ? box_pass : kernels->box_pass, target, left, top);
    } else {
        for (std::int64_t y = 0; y < part.height(); ++y) {
            std::memcpy(target.at(left, top + y).channel[0], image.row(part.y0 + y) + part.x0 * kChannels,
                        static_cast<std::size_t>(part.width() * kChannels));
        }
    }
}

}  // namespace rar
