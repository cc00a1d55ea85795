#include <algorithm>
#include <cmath>

#include "picture/blur.h"
#include "picture/raster.h"
#include "picture/resample.h"

namespace rar {
namespace {

constexpr double kSupport = 4.0;  // deviations; what lies beyond weighs under 1e-4

// A wide Gaussian is taken over samples that lie apart. At this many a deviation, and with samples that overlap,
// the result differs by under a fifth of a level.
constexpr double kSamplesPerSigma = 1.5;

// Odd, so that samples stand on pixels and their weights of k / step^2 leave no ties, which would all round up.
std::int64_t sample_step(double sigma) {
    const auto widest = static_cast<std::int64_t>(sigma / kSamplesPerSigma);
    return std::max<std::int64_t>(1, widest - (widest + 1) % 2);
}

// One direction of the blur: samples first, then a Gaussian over them, from which the samples' own variance is
// taken off. Samples lie at fixed places in the picture, so that any part of it comes out the same whether it is
// blurred alone or with others.
struct Direction {
    Direction(std::int64_t in, std::int64_t first, std::int64_t count, double sigma, const Kernels* kernels)
        : step(sample_step(sigma)),
          reach(static_cast<std::int64_t>(std::ceil(kSupport * sigma / static_cast<double>(step))) + 1),
          samples((first + count - 1) / step - first / step + 1 + 2 * reach),
          sampling(sampling_axis(in, first / step - reach, step, samples), kernels),
          gaussian(gaussian_axis(first, count, step, reach, remaining(sigma), kSupport * sigma), kernels) {}

    double remaining(double sigma) const {
        const auto width = static_cast<double>(step);
        return std::sqrt(sigma * sigma - (width * width - 1.0) / 6.0);
    }

    std::int64_t step;
    std::int64_t reach;  // samples on either side
    std::int64_t samples;
    AxisPlan sampling;
    AxisPlan gaussian;
};

}  // namespace

void gaussian_blur(const Kernels* kernels, const ImageView& image, const Rect& part, double sigma, const Canvas& target,
                   std::int64_t left, std::int64_t top) {
    const Direction x(image.width, part.x0, part.width(), sigma, kernels);
    const Direction y(image.height, part.y0, part.height(), sigma, kernels);
    const Raster samples(x.samples, y.samples);
    resample(kernels, image, nullptr, x.sampling, y.sampling, Order::kHorizontalFirst, 0, y.samples, samples.canvas(),
             0, 0);
    resample(kernels, samples.view(), nullptr, x.gaussian, y.gaussian, Order::kHorizontalFirst, 0, part.height(),
             target, left, top);
}

}  // namespace rar
