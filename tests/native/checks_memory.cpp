// The memory's search under the sanitizers: each instruction set on rows that end where their memory does, and what
// the walk is made of.
#include "checks_memory.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <limits>
#include <memory>
#include <random>
#include <stdexcept>
#include <string>
#include <vector>

#include "base/shared_pool.h"
#include "check.h"
#include "dispatch.h"
#include "graph_file.h"
#include "search/exact_search.h"
#include "search/graph.h"
#include "search/graph_search.h"
#include "search/order.h"
#include "search/query_form.h"
#include "search/visited_set.h"

namespace {

using Row = std::unique_ptr<std::uint8_t[]>;

// Small whole numbers in every kind of scalar: sums of their products are exact in any order.
void fill(rar::Scalar scalar, std::int64_t dim, std::mt19937& chance, std::uint8_t* row) {
    for (std::int64_t d = 0; d < rar::bytes_of(scalar, dim); ++d) row[d] = static_cast<std::uint8_t>(chance());
    if (scalar == rar::Scalar::kI8) return;
    for (std::int64_t d = 0; d < dim; ++d) {
        const auto value = static_cast<float>(chance() % 4);
        constexpr std::uint16_t kHalves[4] = {0x0000, 0x3c00, 0x4000, 0x4200};
        const std::uint16_t half = kHalves[static_cast<int>(value)];
        const std::int64_t bytes = rar::bytes_of(scalar, 1);
        const void* const source =
            scalar == rar::Scalar::kF32 ? static_cast<const void*>(&value) : static_cast<const void*>(&half);
        std::memcpy(row + d * bytes, source, static_cast<std::size_t>(bytes));
    }
}

void every_level_measures_as_the_scalar_code() {
    std::mt19937 chance(1);
    for (int kind = 0; kind < rar::kScalars; ++kind) {
        const auto scalar = static_cast<rar::Scalar>(kind);
        for (std::int64_t dim = 1; dim <= 140; ++dim) {
            const auto bytes = static_cast<std::size_t>(rar::bytes_of(scalar, dim));
            std::vector<Row> memory;
            std::vector<const std::uint8_t*> rows;
            for (int i = 0; i < 7; ++i) {
                const std::size_t shift = chance() % 4;
                memory.push_back(std::make_unique<std::uint8_t[]>(shift + bytes));
                fill(scalar, dim, chance, memory.back().get() + shift);
                rows.push_back(memory.back().get() + shift);
            }
            const std::int64_t query_count = 5;
            std::vector<float> queries(static_cast<std::size_t>(dim * query_count));
            for (float& value : queries) value = static_cast<float>(chance() % 9) - 4.0f;
            const auto measured = [&](const rar::Distances& distances) {
                std::vector<float> out(rows.size());
                const rar::QueryForm form(distances, scalar, queries.data(), dim);
                distances.compare[kind](form.data(), dim, rows.data(), static_cast<std::int64_t>(rows.size()),
                                        out.data());
                return out;
            };
            const auto multiplied = [&](const rar::Distances& distances) {
                std::vector<float> out(rows.size() * static_cast<std::size_t>(query_count));
                (scalar == rar::Scalar::kF16 ? distances.dots_f16 : distances.dots_f32)(
                    queries.data(), query_count, dim, rows.data(), static_cast<std::int64_t>(rows.size()), out.data());
                return out;
            };
            const bool dots = scalar == rar::Scalar::kF16 || scalar == rar::Scalar::kF32;
            for (const std::string& level : rar::simd_levels()) {
                CHECK(measured(*rar::distances_of(level)) == measured(*rar::scalar_distances()));
                CHECK(!dots || multiplied(*rar::distances_of(level)) == multiplied(*rar::scalar_distances()));
            }
        }
    }
}

// Queries between the steps of an int8 index, as they come out of a reduction, some far beyond its range.
void int8_distances_hold_their_bound() {
    std::mt19937 chance(3);
    for (std::int64_t dim = 1; dim <= 140; ++dim) {
        for (const double spread : {1e-15, 0.01, 1.0, 40.0, 1e4, 1e15}) {
            std::normal_distribution<double> normal(0.0, spread);
            std::vector<float> query(static_cast<std::size_t>(dim));
            for (float& value : query) value = static_cast<float>(normal(chance));
            std::vector<Row> memory;
            std::vector<const std::uint8_t*> rows;
            for (int i = 0; i < 6; ++i) {
                memory.push_back(std::make_unique<std::uint8_t[]>(static_cast<std::size_t>(dim)));
                for (std::int64_t d = 0; d < dim; ++d) {
                    const auto near =
                        std::lround(std::min(127.0f, std::max(-128.0f, query[static_cast<std::size_t>(d)])));
                    const long value = i < 3 ? near : static_cast<long>(chance() % 256) - 128;
                    memory.back()[static_cast<std::size_t>(d)] = static_cast<std::uint8_t>(value);
                }
                rows.push_back(memory.back().get());
            }
            double largest = 0;
            for (const float value : query) largest = std::max(largest, std::abs(static_cast<double>(value)));
            for (const std::string& level : rar::simd_levels()) {
                const rar::Distances& distances = *rar::distances_of(level);
                const rar::QueryForm form(distances, rar::Scalar::kI8, query.data(), dim);
                std::vector<float> out(rows.size());
                distances.compare[static_cast<int>(rar::Scalar::kI8)](
                    form.data(), dim, rows.data(), static_cast<std::int64_t>(rows.size()), out.data());
                for (std::size_t i = 0; i < rows.size(); ++i) {
                    double truth = 0;
                    for (std::int64_t d = 0; d < dim; ++d) {
                        const auto at = static_cast<std::size_t>(d);
                        const double difference =
                            query[at] - static_cast<double>(static_cast<std::int8_t>(rows[i][at]));
                        truth += difference * difference;
                    }
                    const double rounding = static_cast<double>(dim + 8) * 0x1p-24 * truth;
                    const double fixed = 0x1p-29 * largest * std::sqrt(static_cast<double>(dim) * truth);
                    CHECK(std::abs(static_cast<double>(out[i]) - truth) <= std::max(rounding, fixed + 0x1p-24 * truth));
                }
            }
        }
    }
}

void halves_are_widened_alike() {
    for (std::uint32_t bits = 0; bits < 0x10000; ++bits) {
        const std::uint8_t row[2] = {static_cast<std::uint8_t>(bits), static_cast<std::uint8_t>(bits >> 8)};
        const std::uint8_t* const rows[1] = {row};
        const float one = 1.0f;
        float reference = 0;
        rar::scalar_distances()->dots_f16(&one, 1, 1, rows, 1, &reference);
        const int exponent = static_cast<int>(bits >> 10 & 31);
        const double mantissa = static_cast<double>(bits & 0x3ff);
        const double size = exponent == 0 ? std::ldexp(mantissa, -24) : std::ldexp(1024 + mantissa, exponent - 25);
        if (exponent != 31) CHECK(static_cast<double>(reference) == ((bits & 0x8000) != 0 ? -size : size));
        for (const std::string& level : rar::simd_levels()) {
            float value = 0;
            rar::distances_of(level)->dots_f16(&one, 1, 1, rows, 1, &value);
            CHECK(value == reference || (std::isnan(value) && std::isnan(reference)));
        }
    }
}

void ranks_order_as_their_distances() {
    const float infinity = std::numeric_limits<float>::infinity();
    const std::vector<float> ascending{-infinity, -3.5f, -1e-40f, 0.0f, 1e-40f, 2.0f, 3e38f, infinity};
    for (std::size_t i = 0; i < ascending.size(); ++i) {
        CHECK(rar::distance_of(rar::ranked(ascending[i], 7)) == ascending[i]);
        CHECK(rar::number_of(rar::ranked(ascending[i], 0xffffffff)) == 0xffffffff);
        for (std::size_t j = i + 1; j < ascending.size(); ++j) {
            CHECK(rar::ranked(ascending[i], 9) < rar::ranked(ascending[j], 1));
        }
    }
    CHECK(rar::ranked(1.0f, 3) < rar::ranked(1.0f, 4));
    for (const float sign : {1.0f, -1.0f}) {
        CHECK(rar::ranked(std::copysign(std::numeric_limits<float>::quiet_NaN(), sign), 5) == rar::ranked(infinity, 5));
    }
}

void nearest_keeps_the_least() {
    std::mt19937 chance(2);
    for (const std::size_t limit : {std::size_t{1}, std::size_t{10}, std::size_t{500}}) {
        rar::Nearest nearest;
        nearest.reset(limit);
        std::vector<rar::Ranked> all;
        for (int i = 0; i < 300; ++i) {
            all.push_back(chance() % 100);
            nearest.add(all.back(), 0);
        }
        std::sort(all.begin(), all.end());
        all.resize(std::min(limit, all.size()));
        CHECK(nearest.sorted() == all);
    }
    for (const std::size_t limit : {std::size_t{1}, std::size_t{10}, std::size_t{500}}) {
        for (const std::size_t cap : {std::size_t{1}, std::size_t{3}, std::size_t{1000}}) {
            rar::Nearest nearest;
            nearest.reset(limit, cap);
            std::vector<rar::Ranked> all;
            for (int i = 0; i < 300; ++i) {
                all.push_back(chance() % 100 * 8 + chance() % 8);  // the class in the lowest digit
                nearest.add(all.back(), static_cast<std::int32_t>(all.back() % 8));
            }
            std::sort(all.begin(), all.end());
            std::vector<rar::Ranked> expected;
            std::size_t taken[8] = {};
            for (const rar::Ranked one : all) {
                if (expected.size() < limit && taken[one % 8]++ < cap) expected.push_back(one);
            }
            CHECK(nearest.sorted() == expected);
        }
    }
}

void visited_slots_are_told_once() {
    rar::VisitedSet visited;
    for (const std::int64_t size : {std::int64_t{1}, std::int64_t{64}, std::int64_t{1000}, std::int64_t{65}}) {
        visited.reset(size);
        std::vector<std::uint32_t> all(static_cast<std::size_t>(size));
        for (std::size_t i = 0; i < all.size(); ++i) all[i] = static_cast<std::uint32_t>(i);
        visited.insert(all.data(), all.size() / 2);
        CHECK(visited.count() == all.size() / 2);
        const std::size_t before = visited.count();
        visited.insert(all.data(), all.size());
        visited.insert(all.data(), all.size());
        CHECK(visited.count() == all.size());
        CHECK(std::equal(all.begin() + static_cast<std::ptrdiff_t>(before), all.end(), visited.slots(before)));
    }
}

// A ring of points on a line: slot i at i, linked with its neighbours.
GraphFile ring(std::uint32_t count) {
    GraphFile file;
    file.levels.assign(count, 0);
    file.row = [](std::uint32_t slot, std::uint8_t* row) {
        const auto value = static_cast<float>(slot);
        std::memcpy(row, &value, sizeof value);
    };
    file.key = [](std::uint32_t slot) { return std::uint64_t{slot}; };
    file.links = [count](std::uint32_t slot, int) {
        return std::vector<std::uint32_t>{(slot + 1) % count, (slot + count - 1) % count};
    };
    return file;
}

std::vector<std::int64_t> search(const std::vector<std::uint8_t>& bytes, float query, std::int64_t count,
                                 const std::vector<std::int32_t>& labels) {
    const rar::Graph graph(bytes.data(), bytes.size());
    std::vector<std::int64_t> entries(static_cast<std::size_t>(count));
    std::vector<float> distances(entries.size());
    const rar::EntryFilter filter(labels.data(), static_cast<std::int64_t>(labels.size()), nullptr, 0);
    rar::search_graphs({&graph}, *rar::scalar_distances(), &query, 1, {1, 0, 1 << 20}, filter,
                       {entries.data(), distances.data(), count}, rar::shared_pool(1));
    return entries;
}

// Links of the level-0 lists reach any slot; those above must stay on their level.
void walks_pass_what_does_not_count() {
    const std::vector<std::uint8_t> bytes = ring(50).bytes();
    std::vector<std::int32_t> labels(50, 0);
    CHECK(search(bytes, 30.1f, 3, labels) == (std::vector<std::int64_t>{30, 31, 29}));
    for (std::size_t entry = 5; entry < 50; ++entry) labels[entry] = -1;
    CHECK(search(bytes, 30.1f, 3, labels) == (std::vector<std::int64_t>{4, 3, 2}));
    labels.assign(50, -1);
    labels[17] = 2;
    CHECK(search(bytes, 30.1f, 3, labels) == (std::vector<std::int64_t>{17, -1, -1}));
}

void links_that_lead_nowhere_throw() {
    const auto refused = [](const GraphFile& file) {
        const std::vector<std::uint8_t> bytes = file.bytes();
        const std::vector<std::int32_t> labels(file.levels.size(), 0);
        bool checked = false;
        try {
            rar::Graph(bytes.data(), bytes.size()).check(static_cast<std::int64_t>(file.levels.size()));
        } catch (const std::invalid_argument&) {
            checked = true;
        }
        CHECK(checked);
        try {
            search(bytes, 3.0f, 2, labels);
        } catch (const std::invalid_argument&) {
            return true;
        }
        return false;
    };
    GraphFile beyond = ring(9);
    beyond.links = [](std::uint32_t, int) { return std::vector<std::uint32_t>{1, 9}; };
    CHECK(refused(beyond));
    GraphFile unlevelled = ring(9);
    unlevelled.levels[0] = 2;
    unlevelled.links = [](std::uint32_t, int) { return std::vector<std::uint32_t>{4}; };  // which is on level 0
    CHECK(refused(unlevelled));
    GraphFile unknown = ring(9);
    unknown.key = [](std::uint32_t slot) { return std::uint64_t{slot} + (slot == 3 ? 6 : 0); };
    CHECK(refused(unknown));
    GraphFile twice = ring(9);
    twice.key = [](std::uint32_t slot) { return std::uint64_t{slot == 8 ? 7u : slot}; };
    CHECK(!refused(twice));  // seen by check() only
}

// The end of an array's last row is the end of its memory.
void exact_search_stays_inside_the_vectors() {
    for (const std::string& level : rar::simd_levels()) {
        for (const std::int64_t dim : {1, 3, 9, 17, 31, 100}) {
            const std::int64_t count = 1100;
            const auto memory = std::make_unique<std::uint8_t[]>(static_cast<std::size_t>(count * dim * 2));
            const rar::VectorView view{memory.get(), rar::Scalar::kF16, count, dim};
            const std::vector<float> queries(static_cast<std::size_t>(9 * dim), 1.0f);
            const std::vector<std::int32_t> labels(static_cast<std::size_t>(count), 0);
            const rar::EntryFilter filter(labels.data(), count, nullptr, 0);
            std::vector<std::int64_t> entries(9 * 4);
            std::vector<float> products(entries.size());
            rar::nearest_vectors(view, *rar::distances_of(level), queries.data(), 9, filter, 0,
                                 {entries.data(), products.data(), 4}, rar::shared_pool(3));
            for (std::size_t i = 0; i < entries.size(); ++i) {  // all alike: the lowest entries
                CHECK(entries[i] == static_cast<std::int64_t>(i % 4) && products[i] == 0);
            }
            const std::vector<std::int64_t> ids(9 * 70, count - 1);
            std::vector<float> scores(ids.size(), 1.0f);
            rar::score_vectors(view, *rar::distances_of(level), queries.data(), 9, ids.data(), 70, scores.data(),
                               rar::shared_pool(2));
            CHECK(scores == std::vector<float>(ids.size(), 0.0f));
        }
    }
}

}  // namespace

void check_memory() {
    every_level_measures_as_the_scalar_code();
    int8_distances_hold_their_bound();
    halves_are_widened_alike();
    ranks_order_as_their_distances();
    nearest_keeps_the_least();
    visited_slots_are_told_once();
    walks_pass_what_does_not_count();
    links_that_lead_nowhere_throw();
    exact_search_stays_inside_the_vectors();
}
