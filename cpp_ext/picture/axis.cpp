#include "picture/axis.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <stdexcept>
#include <utility>

namespace rar {
namespace {

constexpr double kPi = 3.14159265358979323846;

double box(double x) { return x > -0.5 && x <= 0.5 ? 1.0 : 0.0; }

double bilinear(double x) {
    x = std::fabs(x);
    return x < 1.0 ? 1.0 - x : 0.0;
}

double hamming(double x) {
    x = std::fabs(x);
    if (x == 0.0) return 1.0;
    if (x >= 1.0) return 0.0;
    x *= kPi;
    return std::sin(x) / x * (0.54f + 0.46f * std::cos(x));  // Pillow's constants are floats
}

double bicubic(double x) {
    constexpr double a = -0.5;
    x = std::fabs(x);
    if (x < 1.0) return ((a + 2.0) * x - (a + 3.0)) * x * x + 1;
    if (x < 2.0) return (((x - 5) * x + 8) * x - 4) * a;
    return 0.0;
}

double sinc(double x) {
    if (x == 0.0) return 1.0;
    x *= kPi;
    return std::sin(x) / x;
}

double lanczos(double x) { return -3.0 <= x && x < 3.0 ? sinc(x) * sinc(x / 3) : 0.0; }

struct Kernel {
    double (*weight)(double);
    double support;
};

Kernel kernel_of(Filter filter) {
    switch (filter) {
        case Filter::kBox:
            return {box, 0.5};
        case Filter::kBilinear:
            return {bilinear, 1.0};
        case Filter::kHamming:
            return {hamming, 1.0};
        case Filter::kBicubic:
            return {bicubic, 2.0};
        case Filter::kLanczos:
            return {lanczos, 3.0};
    }
    throw std::invalid_argument("unknown filter");
}

std::int32_t to_fixed(double weight) {
    return static_cast<std::int32_t>((weight < 0 ? -0.5 : 0.5) + weight * (1 << kPrecisionBits));
}

// Scaled to a sum of one.
std::vector<std::int32_t> to_fixed(const std::vector<double>& weights) {
    double total = 0.0;
    for (const double weight : weights) total += weight;
    std::vector<std::int32_t> result;
    result.reserve(weights.size());
    for (const double weight : weights) result.push_back(to_fixed(total != 0.0 ? weight / total : weight));
    return result;
}

// Collects an axis, output pixel by output pixel.
class AxisBuilder {
public:
    explicit AxisBuilder(std::int64_t count) {
        axis_.starts.reserve(static_cast<std::size_t>(count));
        axis_.offsets.reserve(static_cast<std::size_t>(count) + 1);
        axis_.offsets.push_back(0);
    }

    // Weights of source pixels from `begin` on.
    void add(std::int64_t begin, const std::vector<std::int32_t>& weights) {
        axis_.weights.insert(axis_.weights.end(), weights.begin(), weights.end());
        const std::int64_t end = begin + static_cast<std::int64_t>(weights.size());
        axis_.source_first = axis_.starts.empty() ? begin : std::min(axis_.source_first, begin);
        axis_.source_last = std::max(axis_.source_last, end);
        axis_.starts.push_back(static_cast<std::int32_t>(begin));
        axis_.offsets.push_back(static_cast<std::int64_t>(axis_.weights.size()));
    }

    Axis take() { return std::move(axis_); }

private:
    Axis axis_;
};

}  // namespace

Filter parse_filter(const std::string& name) {
    if (name == "box") return Filter::kBox;
    if (name == "bilinear") return Filter::kBilinear;
    if (name == "hamming") return Filter::kHamming;
    if (name == "bicubic") return Filter::kBicubic;
    if (name == "lanczos") return Filter::kLanczos;
    throw std::invalid_argument("filter must be box, bilinear, hamming, bicubic or lanczos, not '" + name + "'");
}

Axis resize_axis(std::int64_t in, std::int64_t out, std::int64_t first, std::int64_t count, Filter filter) {
    AxisBuilder builder(count);
    if (in == out) {  // Pillow leaves out a pass that would change nothing
        for (std::int64_t i = first; i < first + count; ++i) builder.add(i, {1 << kPrecisionBits});
        return builder.take();
    }
    const Kernel kernel = kernel_of(filter);
    const double scale = static_cast<double>(in) / static_cast<double>(out);
    const double stretch = std::max(scale, 1.0);  // when shrinking, the filter grows with the step: antialiasing
    const double support = kernel.support * stretch;
    const double inverse = 1.0 / stretch;
    std::vector<double> weights;
    for (std::int64_t i = first; i < first + count; ++i) {
        const double center = (static_cast<double>(i) + 0.5) * scale;
        const auto begin = std::max<std::int64_t>(static_cast<std::int64_t>(center - support + 0.5), 0);
        const auto end = std::min<std::int64_t>(static_cast<std::int64_t>(center + support + 0.5), in);
        weights.clear();
        for (std::int64_t x = begin; x < end; ++x) {
            weights.push_back(kernel.weight((static_cast<double>(x) - center + 0.5) * inverse));
        }
        builder.add(begin, to_fixed(weights));
    }
    return builder.take();
}

Axis sampling_axis(std::int64_t in, std::int64_t first, std::int64_t step, std::int64_t count) {
    AxisBuilder builder(count);
    std::vector<double> weights;
    for (std::int64_t i = first; i < first + count; ++i) {
        const std::int64_t middle = i * step + step / 2;
        const std::int64_t from = std::clamp<std::int64_t>(middle - step + 1, 0, in - 1);
        const std::int64_t to = std::clamp<std::int64_t>(middle + step - 1, 0, in - 1);
        weights.assign(static_cast<std::size_t>(to - from + 1), 0.0);
        for (std::int64_t x = middle - step + 1; x < middle + step; ++x) {
            weights[static_cast<std::size_t>(std::clamp(x, from, to) - from)] +=
                static_cast<double>(step - std::abs(x - middle));
        }
        builder.add(from, to_fixed(weights));
    }
    return builder.take();
}

Axis gaussian_axis(std::int64_t first, std::int64_t count, std::int64_t step, std::int64_t reach, double sigma,
                   double support) {
    struct Window {
        std::int64_t begin;  // in samples from the pixel's own
        std::vector<std::int32_t> weights;
    };
    std::vector<Window> windows;  // by the pixel's place in its sample
    for (std::int64_t phase = 0; phase < step; ++phase) {
        Window window{reach, {}};
        std::vector<double> weights;
        for (std::int64_t sample = -reach; sample <= reach; ++sample) {
            const double middle = static_cast<double>(sample * step) + 0.5 * static_cast<double>(step - 1);
            const double distance = middle - static_cast<double>(phase);
            if (std::fabs(distance) > support) continue;
            window.begin = std::min(window.begin, sample);
            weights.push_back(std::exp(-0.5 * (distance / sigma) * (distance / sigma)));
        }
        window.weights = to_fixed(weights);
        windows.push_back(std::move(window));
    }
    AxisBuilder builder(count);
    for (std::int64_t i = first; i < first + count; ++i) {
        const Window& window = windows[static_cast<std::size_t>(i % step)];
        builder.add(i / step - first / step + reach + window.begin, window.weights);
    }
    return builder.take();
}

}  // namespace rar
