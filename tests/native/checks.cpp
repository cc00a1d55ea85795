// What cannot be reached from Python, under the sanitizers: the thread pool, the geometry and the weights.
#include <sys/wait.h>
#include <unistd.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <memory>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include "base/thread_pool.h"
#include "check.h"
#include "checks_memory.h"
#include "dispatch.h"
#include "picture/axis.h"
#include "picture/geometry.h"
#include "picture/normalize.h"
#include "picture/packed_axis.h"
#include "picture/raster.h"
#include "picture/resample.h"
#include "picture/wanted.h"

namespace {

void pool_runs_every_task_once() {
    for (const int threads : {1, 2, 5}) {
        rar::ThreadPool pool(threads);
        for (const std::size_t count : {0u, 1u, 2u, 1000u}) {
            std::vector<std::atomic<int>> runs(count);
            pool.run(count, [&](std::size_t i) { ++runs[i]; });
            for (const auto& n : runs) CHECK(n == 1);
        }
    }
}

void pool_hands_on_an_exception_and_works_on() {
    rar::ThreadPool pool(4);
    for (int round = 0; round < 50; ++round) {
        bool caught = false;
        try {
            pool.run(100, [](std::size_t i) {
                if (i == 37) throw std::runtime_error("task");
            });
        } catch (const std::runtime_error&) {
            caught = true;
        }
        CHECK(caught);
    }
    std::atomic<int> runs{0};
    pool.run(100, [&](std::size_t) { ++runs; });
    CHECK(runs == 100);
}

void pool_serves_many_callers_at_once() {
    rar::ThreadPool pool(3);
    std::atomic<int> runs{0};
    std::vector<std::thread> callers;
    for (int caller = 0; caller < 6; ++caller) {
        callers.emplace_back([&] {
            for (int round = 0; round < 100; ++round) pool.run(7, [&](std::size_t) { ++runs; });
        });
    }
    for (std::thread& caller : callers) caller.join();
    CHECK(runs == 6 * 100 * 7);
}

// ThreadSanitizer ends a child that starts threads.
#ifndef RAR_NO_FORK
void pool_of_a_forked_child_works_and_ends() {
    auto used = std::make_unique<rar::ThreadPool>(4);
    auto inherited = std::make_unique<rar::ThreadPool>(4);
    for (rar::ThreadPool* pool : {used.get(), inherited.get()}) pool->run(100, [](std::size_t) {});
    const pid_t child = fork();
    if (child == 0) {
        alarm(60);  // instead of waiting for ever
        std::atomic<int> runs{0};
        used->run(100, [&](std::size_t) { ++runs; });
        used.reset();
        inherited.reset();
        _exit(runs == 100 ? 0 : 1);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child);
    CHECK(status == 0);
}
#else
void pool_of_a_forked_child_works_and_ends() {}
#endif

void crop_follows_torchvision() {
    // Resize(224) of 1920x1080 gives 398x224; CenterCrop takes round(87.0) = 87 off the left.
    const rar::Placement wide = rar::place(1920, 1080, 224, 224, rar::Fit::kCrop);
    CHECK(wide.x.out == 398 && wide.x.first == 87 && wide.x.count == 224 && wide.y.out == 224);
    // Halves go to the even neighbour: 0.5 to 0, 1.5 to 2.
    CHECK(rar::place(225, 224, 224, 224, rar::Fit::kCrop).x.first == 0);
    CHECK(rar::place(227, 224, 224, 224, rar::Fit::kCrop).x.first == 2);
    const rar::Placement small = rar::place(100, 100, 224, 50, rar::Fit::kCrop);
    CHECK(small.x.offset == 87 && small.x.count == 50);
}

void extreme_sides_stay_in_range() {
    for (const std::int64_t width : {std::int64_t{1}, std::int64_t{3}, rar::kMaxSide}) {
        for (const std::int64_t height : {std::int64_t{1}, std::int64_t{7}, rar::kMaxSide}) {
            for (const rar::Fit fit : {rar::Fit::kCrop, rar::Fit::kSquash, rar::Fit::kPad}) {
                const rar::Placement placement = rar::place(width, height, 8192, 8192, fit);
                for (const rar::Span& span : {placement.x, placement.y}) {
                    CHECK(span.out >= 1 && span.count >= 1 && span.first >= 0 && span.offset >= 0);
                    CHECK(span.first + span.count <= span.out && span.offset + span.count <= 8192);
                }
            }
        }
    }
}

// The digits of the byte and word forms hold weights below two; these are the greatest there are.
void weights_stay_below_two_and_sum_to_one() {
    for (const rar::Filter filter : {rar::Filter::kBox, rar::Filter::kBilinear, rar::Filter::kHamming,
                                     rar::Filter::kBicubic, rar::Filter::kLanczos}) {
        for (std::int64_t in = 1; in <= 120; ++in) {
            for (const std::int64_t out : {1, 2, 3, 7, 64, 65, 224, 1000}) {
                const rar::Axis axis = rar::resize_axis(in, out, 0, out, filter);
                CHECK(axis.source_first >= 0 && axis.source_last <= in);
                for (std::int64_t i = 0; i < axis.size(); ++i) {
                    std::int64_t sum = 0;
                    for (std::int64_t j = axis.offsets[i]; j < axis.offsets[i + 1]; ++j) {
                        CHECK(std::abs(axis.weights[j]) < 2 << rar::kPrecisionBits);
                        sum += axis.weights[j];
                    }
                    const std::int64_t taps = axis.offsets[i + 1] - axis.offsets[i];
                    CHECK(std::abs(sum - (1 << rar::kPrecisionBits)) <= taps);
                    CHECK(axis.starts[i] >= 0 && axis.starts[i] + taps <= in);
                }
            }
        }
    }
}

// Black beside white, which the filters with negative lobes carry beyond both ends, in every pass and kind of result.
void every_level_resizes_as_the_scalar_code() {
    const std::int64_t width = 61, height = 203;
    const rar::Raster picture(width, height);
    for (std::int64_t y = 0; y < height; ++y) {
        for (std::int64_t x = 0; x < width * rar::kChannels; ++x) {
            const std::int64_t noise = (x * 7919 + y * 104729) % 1021;
            picture.row(y)[x] = static_cast<std::uint8_t>(noise % 3 == 0 ? noise : noise % 2 * 255);
        }
    }
    const rar::Normalizer normalizer({0.48145466, 0.4578275, 0.40821073}, {0.26862954, 0.26130258, 0.27577711});
    const rar::Normalizer divided({0.0, 0.5, 1.0}, {1.0, 1.0 / 3, 1e-40});
    CHECK(!divided.scaling.inverse_is_exact);
    for (const rar::Filter filter : {rar::Filter::kBox, rar::Filter::kBilinear, rar::Filter::kHamming,
                                     rar::Filter::kBicubic, rar::Filter::kLanczos}) {
        for (const auto& [out_width, out_height] : {std::pair<std::int64_t, std::int64_t>{37, 50}, {90, 7}, {3, 230}}) {
            for (const rar::PixelType type :
                 {rar::PixelType::kUint8, rar::PixelType::kFloat32, rar::PixelType::kFloat16}) {
                for (const rar::Normalizer* const scale : {&normalizer, &divided}) {
                    const auto resized = [&](const rar::Kernels* kernels) {
                        std::vector<std::uint8_t> out(static_cast<std::size_t>(out_width * out_height * 3 * 4));
                        const rar::Canvas canvas{out.data(), out_width, out_height, type, scale};
                        rar::resample(kernels, picture.view(), nullptr,
                                      {rar::resize_axis(width, out_width, 0, out_width, filter), kernels},
                                      {rar::resize_axis(height, out_height, 0, out_height, filter), kernels},
                                      rar::pass_order(width, height, out_width, out_height), 0, out_height, canvas, 0,
                                      0);
                        return out;
                    };
                    const std::vector<std::uint8_t> reference = resized(nullptr);
                    for (const std::string& level : rar::simd_levels()) {
                        CHECK(resized(rar::kernels_of(level)) == reference);
                    }
                }
            }
        }
    }
}

void packed_groups_cover_the_taps() {
    for (const std::string& level : rar::simd_levels()) {
        const rar::Kernels* kernels = rar::kernels_of(level);
        if (kernels == nullptr) continue;
        const rar::Axis axis = rar::resize_axis(1000, 300, 31, 77, rar::Filter::kLanczos);
        const rar::PackedAxis packed(axis, *kernels);
        CHECK(packed.padded_size() == 80);
        for (std::int64_t i = 0; i < packed.padded_size(); ++i) {
            const std::int64_t end = (packed.first_group(i) + packed.groups(i)) * kernels->taps;
            CHECK(end < axis.source_last - axis.source_first + kernels->taps);
            CHECK((packed.groups(i) == 0) == (i >= packed.size()));
        }
    }
}

void wanted_parts_come_in_runs() {
    rar::Wanted wanted(100, 50);
    const auto runs = [&](std::int64_t y, std::int64_t left, std::int64_t right) {
        std::vector<std::pair<std::int64_t, std::int64_t>> found;
        wanted.runs(y, left, right, [&](std::int64_t first, std::int64_t last) { found.emplace_back(first, last); });
        return found;
    };
    for (std::int64_t y = 0; y < 50; ++y) CHECK(runs(y, 0, 100).empty());
    wanted.add({40, 20, 45, 21});
    wanted.add({60, 20, 60, 40});      // empty
    wanted.add({-9, -9, 0, 50});       // outside
    wanted.add({90, 49, 1000, 1000});  // partly outside
    CHECK(runs(0, 0, 100).empty());
    const auto one = runs(20, 0, 100);
    CHECK(one.size() == 1 && one[0].first <= 40 && one[0].second >= 45);
    CHECK(runs(20, 41, 43) == (std::vector<std::pair<std::int64_t, std::int64_t>>{{41, 43}}));
    const auto corner = runs(49, 0, 100);
    CHECK(corner.size() == 1 && corner[0].first <= 90 && corner[0].second == 100);
    wanted.add({-5, -5, 500, 500});
    for (std::int64_t y = 0; y < 50; ++y) {
        CHECK(runs(y, 3, 97) == (std::vector<std::pair<std::int64_t, std::int64_t>>{{3, 97}}));
    }
}

void usual_inverses_are_exact() {
    CHECK(rar::Normalizer({0.48145466, 0.4578275, 0.40821073}, {0.26862954, 0.26130258, 0.27577711})
              .scaling.inverse_is_exact);
    CHECK(rar::Normalizer({0.485, 0.456, 0.406}, {0.229, 0.224, 0.225}).scaling.inverse_is_exact);
    CHECK(rar::Normalizer({0.5, 0.5, 0.5}, {0.5, 0.5, 0.5}).scaling.inverse_is_exact);
}

void halves_round_to_even_and_overflow_to_infinity() {
    const auto half = [](double value) { return rar::Normalizer({0, 0, 0}, {1.0 / value, 1, 1}).half_table[0][255]; };
    CHECK(half(1.0) == 0x3c00);
    CHECK(half(65504.0) == 0x7bff);
    CHECK(half(65536.0) == 0x7c00);
    CHECK(half(1.0 / (1 << 24)) == 0x0001);
    CHECK(half(1.0 / (1 << 26)) == 0x0000);
    CHECK(half(2049.0) == 0x6800);  // a tie: 2048 or 2050
    CHECK(half(2051.0) == 0x6802);  // a tie: 2050 or 2052
}

void bad_settings_throw() {
    const auto throws = [](const auto& make) {
        try {
            make();
        } catch (const std::invalid_argument&) {
            return true;
        }
        return false;
    };
    CHECK(throws([] { rar::parse_filter("nearest"); }));
    CHECK(throws([] { rar::parse_fit(""); }));
    CHECK(throws([] { rar::kernels_of("mmx"); }));
    CHECK(throws([] { rar::Normalizer({0, 0, 0}, {1, 0, 1}); }));
    CHECK(throws([] { rar::Normalizer({std::numeric_limits<double>::quiet_NaN(), 0, 0}, {1, 1, 1}); }));
}

}  // namespace

// The arguments, if there are any, are the levels that there must be.
int main(int argc, char** argv) {
    const std::vector<std::string> levels = rar::simd_levels();
    for (const std::string& level : levels) std::printf("%s ", level.c_str());
    std::fflush(stdout);
    CHECK(argc == 1 || levels == std::vector<std::string>(argv + 1, argv + argc));
    pool_runs_every_task_once();
    pool_hands_on_an_exception_and_works_on();
    pool_serves_many_callers_at_once();
    pool_of_a_forked_child_works_and_ends();
    crop_follows_torchvision();
    extreme_sides_stay_in_range();
    weights_stay_below_two_and_sum_to_one();
    every_level_resizes_as_the_scalar_code();
    packed_groups_cover_the_taps();
    wanted_parts_come_in_runs();
    usual_inverses_are_exact();
    halves_round_to_even_and_overflow_to_infinity();
    bad_settings_throw();
    check_memory();
    std::puts("– all checks passed");
    return 0;
}
