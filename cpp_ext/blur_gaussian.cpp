#include <algorithm>
#include <cmath>

#include "blur.h"
#include "resample.h"

namespace rar {
namespace {

constexpr double kSupport = 4.0;  // deviations; what lies beyond weighs under 1e-4

// Samples of a wide Gaussian may lie apart: at three a deviation the error is far below one level.
constexpr double kSamplesPerSigma = 3.0;

// One direction of the blur: means of `step` pixels first, then a Gaussian over them, from which the means' own
// variance is taken off. The means lie at multiples of `step` in the picture, so that any part of it comes out
// the same whether it is blurred alone or with others.
struct Direction {
    Direction(std::int64_t in, std::int64_t first, std::int64_t count, double sigma, const Kernels* kernels)
        : step(std::max<std::int64_t>(1, static_cast<std::int64_t>(sigma / kSamplesPerSigma))),
          reach(static_cast<std::int64_t>(std::ceil(kSupport * sigma / static_cast<double>(step))) + 1),
          samples((first + count - 1) / step - first / step + 1 + 2 * reach),
          means(mean_axis(in, (first / step - reach) * step, step, samples), kernels),
          gaussian(gaussian_axis(first, count, step, reach, remaining(sigma), kSupport * sigma), kernels) {}

    double remaining(double sigma) const {
        const auto width = static_cast<double>(step);
        return std::sqrt(sigma * sigma - (width * width - 1.0) / 12.0);
    }

    std::int64_t step;
    std::int64_t reach;  // samples on either side
    std::int64_t samples;
    AxisPlan means;
    AxisPlan gaussian;
};

}  // namespace

Raster gaussian_blur(const Kernels* kernels, const ImageView& image, const Rect& part, double sigma) {
    const Direction x(image.width, part.x0, part.width(), sigma, kernels);
    const Direction y(image.height, part.y0, part.height(), sigma, kernels);
    const Raster means(x.samples, y.samples);
    resample(kernels, image, x.means, y.means, Order::kHorizontalFirst, 0, y.samples, means.canvas(), 0, 0);
    Raster result(part.width(), part.height());
    resample(kernels, means.view(), x.gaussian, y.gaussian, Order::kHorizontalFirst, 0, part.height(),
             result.canvas(), 0, 0);
    return result;
}

}  // namespace rar
