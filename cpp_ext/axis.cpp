#include "axis.h"

#include <algorithm>
#include <cmath>
#include <stdexcept>

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
    const Kernel kernel = kernel_of(filter);
    const double scale = static_cast<double>(in) / static_cast<double>(out);
    const double stretch = std::max(scale, 1.0);  // when shrinking, the filter grows with the step: antialiasing
    const double support = kernel.support * stretch;
    const double inverse = 1.0 / stretch;

    Axis axis;
    axis.starts.reserve(static_cast<std::size_t>(count));
    axis.offsets.reserve(static_cast<std::size_t>(count) + 1);
    axis.offsets.push_back(0);
    axis.source_first = in;
    if (in == out) {  // Pillow leaves out a pass that would change nothing
        for (std::int64_t i = first; i < first + count; ++i) {
            axis.starts.push_back(static_cast<std::int32_t>(i));
            axis.weights.push_back(1 << kPrecisionBits);
            axis.offsets.push_back(i - first + 1);
        }
        axis.source_first = first;
        axis.source_last = first + count;
        return axis;
    }
    std::vector<double> window;
    for (std::int64_t i = first; i < first + count; ++i) {
        const double center = (static_cast<double>(i) + 0.5) * scale;
        const auto begin = std::max<std::int64_t>(static_cast<std::int64_t>(center - support + 0.5), 0);
        const auto end = std::min<std::int64_t>(static_cast<std::int64_t>(center + support + 0.5), in);
        window.clear();
        double total = 0.0;
        for (std::int64_t x = 0; x < end - begin; ++x) {
            const double weight = kernel.weight((static_cast<double>(x + begin) - center + 0.5) * inverse);
            window.push_back(weight);
            total += weight;
        }
        for (const double weight : window) axis.weights.push_back(to_fixed(total != 0.0 ? weight / total : weight));
        axis.starts.push_back(static_cast<std::int32_t>(begin));
        axis.offsets.push_back(static_cast<std::int64_t>(axis.weights.size()));
        axis.source_first = std::min(axis.source_first, begin);
        axis.source_last = std::max(axis.source_last, end);
    }
    return axis;
}

}  // namespace rar
