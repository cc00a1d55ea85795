// One model's picture preparation: geometry, resampling and normalisation over a pool of threads.
#pragma once

#include <array>
#include <cstdint>
#include <vector>

#include "axis.h"
#include "geometry.h"
#include "image_view.h"
#include "normalize.h"
#include "thread_pool.h"

namespace rar {

struct Settings {
    std::int64_t size;
    std::int64_t shortest_edge;
    Filter filter;
    Fit fit;
    std::array<std::uint8_t, kChannels> fill;
};

class Preprocessor {
public:
    Preprocessor(const Settings& settings, const Normalizer& normalizer, int threads);

    std::int64_t size() const { return settings_.size; }

    // Prepares each picture into its own size x size planes of `out`, float32 [n, 3, size, size].
    // Touches nothing of Python's; may run from many threads at once.
    void run(const std::vector<ImageView>& images, float* out);

private:
    void prepare(const ImageView& image, const Planes& planes) const;

    const Settings settings_;
    const Normalizer normalizer_;
    ThreadPool pool_;
};

}  // namespace rar
