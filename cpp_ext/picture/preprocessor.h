// One model's picture preparation: geometry, resampling and normalisation over a pool of threads.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <optional>
#include <vector>

#include "base/thread_pool.h"
#include "picture/axis.h"
#include "picture/axis_cache.h"
#include "picture/geometry.h"
#include "picture/image_view.h"
#include "picture/kernels.h"
#include "picture/normalize.h"
#include "picture/regions.h"
#include "picture/resample.h"

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
    // Null kernels are the scalar reference.
    Preprocessor(const Settings& settings, const Normalizer& normalizer, const Kernels* kernels, int threads);

    std::int64_t size() const { return settings_.size; }

    // Prepares each picture into its own planes of `out`, [n, 3, size, size] of `type`, not kUint8.
    // Touches nothing of Python's; may run from many threads at once.
    void run(const std::vector<ImageView>& images, std::uint8_t* out, PixelType type);

    // The same for regions of one frame, which take their own fit. Without a method nothing is blurred.
    void run_regions(const ImageView& frame, const std::vector<Region>& regions,
                     const std::optional<BlurMethod>& method, Fit fit, std::uint8_t* out, PixelType type);

private:
    struct Plan {
        Placement placement;
        Order order;
        std::shared_ptr<const AxisPlan> x;
        std::shared_ptr<const AxisPlan> y;
    };
    struct Band;

    Plan plan_for(const ImageView& image, Fit fit);
    // The place of result `index` of `count`.
    Canvas canvas(std::uint8_t* out, PixelType type, std::size_t index, std::size_t count) const;
    std::vector<Band> bands(const std::vector<ImageView>& images) const;
    std::vector<std::shared_ptr<const SharedBlur>> blur_shared(const ImageView& frame,
                                                               const std::vector<Region>& regions, BlurMethod method);
    void prepare(const ImageView& image, const Overlay* overlay, Fit fit, std::int64_t first, std::int64_t last,
                 const Canvas& canvas);

    const Settings settings_;
    const Normalizer normalizer_;
    const Kernels* const kernels_;
    AxisCache axes_;
    ThreadPool pool_;
};

}  // namespace rar
