// Gaussian blur of a part of a picture, as if the whole had been blurred: edges go on with their last pixel.
#pragma once

#include <string>

#include "picture/image_view.h"
#include "picture/kernels.h"
#include "picture/normalize.h"
#include "picture/rect.h"

namespace rar {

enum class BlurMethod {
    kGaussian,  // a true Gaussian, cut off at four deviations; within two levels of the real-valued one
    kPillow,    // PIL.ImageFilter.GaussianBlur(sigma), three box filters each way, bit for bit
};

// Throws std::invalid_argument for an unknown name.
BlurMethod parse_method(const std::string& name);

// The largest deviation either method takes.
constexpr double kMaxSigma = 10000.0;

// Writes `part`, which lies in the picture and holds a pixel, to (left, top) of `target`, which is uint8.
// 0 <= sigma <= kMaxSigma; zero is a plain copy.
void blur(const Kernels* kernels, const ImageView& image, const Rect& part, double sigma, BlurMethod method,
          const Canvas& target, std::int64_t left, std::int64_t top);

// The two methods, for sigma > 0.
void gaussian_blur(const Kernels* kernels, const ImageView& image, const Rect& part, double sigma, const Canvas& target,
                   std::int64_t left, std::int64_t top);
void pillow_blur(const ImageView& image, const Rect& part, double sigma, BoxPass pass, const Canvas& target,
                 std::int64_t left, std::int64_t top);

}  // namespace rar
