// Any file at all, read as an index: no sanitizer may complain, whatever is found is an entry there is, and every
// number of threads finds the same. With libFuzzer (make fuzz CXX=clang++) or with fuzz_driver.cpp (make fuzz).
#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <stdexcept>
#include <vector>

#include "base/shared_pool.h"
#include "check.h"
#include "dispatch.h"
#include "graph_file.h"
#include "search/graph.h"
#include "search/graph_search.h"

namespace {

// Hands out numbers: the input's bytes, then ones made of them.
class Source {
public:
    Source(const std::uint8_t* data, std::size_t size) : data_(data), size_(size) {
        for (std::size_t i = 0; i < size; ++i) state_ = state_ * 31 + data[i];
    }
    std::uint32_t below(std::uint32_t limit) {
        state_ = state_ * 1664525u + 1013904223u;
        std::uint32_t value = state_ >> 8;
        if (position_ < size_) value = value << 8 | data_[position_++];
        return value % limit;
    }

private:
    const std::uint8_t* data_;
    std::size_t size_;
    std::size_t position_ = 0;
    std::uint32_t state_ = 1;
};

// A file with links, keys and levels that mostly make sense.
std::vector<std::uint8_t> file(Source& source) {
    GraphFile graph;
    graph.scalar = static_cast<rar::Scalar>(source.below(rar::kScalars));
    graph.dim = 1 + source.below(source.below(4) == 0 ? 300 : 20);
    graph.connectivity = 1 + source.below(6);
    graph.levels.resize(source.below(source.below(4) == 0 ? 200 : 12));
    const auto count = static_cast<std::uint32_t>(graph.levels.size());
    for (std::uint16_t& level : graph.levels) {
        while (level < 4 && source.below(4) == 0) ++level;
    }
    if (count != 0) {
        graph.entry = static_cast<std::uint64_t>(std::max_element(graph.levels.begin(), graph.levels.end()) -
                                                 graph.levels.begin());
    }
    const bool wild = source.below(8) == 0;  // any bits, NaN and infinity among them
    const auto row_bytes = static_cast<std::size_t>(rar::bytes_of(graph.scalar, static_cast<std::int64_t>(graph.dim)));
    graph.row = [&](std::uint32_t, std::uint8_t* row) {
        for (std::size_t i = 0; i < row_bytes; ++i) row[i] = static_cast<std::uint8_t>(source.below(wild ? 256 : 60));
    };
    graph.key = [&](std::uint32_t slot) {
        return source.below(50) == 0 ? std::uint64_t{source.below(300)} : std::uint64_t{slot};
    };
    graph.links = [&](std::uint32_t, int level) {
        const auto room = static_cast<std::uint32_t>(graph.connectivity) * (level == 0 ? 2 : 1);
        std::vector<std::uint32_t> linked(source.below(room + 1));
        for (std::uint32_t& other : linked) {
            do {
                other = source.below(count);
            } while (graph.levels[other] < level && source.below(20) != 0);
        }
        return linked;
    };
    return graph.bytes();
}

void alter(std::vector<std::uint8_t>& bytes, Source& source) {
    for (std::uint32_t left = source.below(4); left > 0 && !bytes.empty(); --left) {
        const std::size_t place = source.below(static_cast<std::uint32_t>(bytes.size()));
        bytes[place] = source.below(2) == 0 ? static_cast<std::uint8_t>(source.below(256))
                                            : static_cast<std::uint8_t>(bytes[place] ^ 1 << source.below(8));
    }
    if (source.below(16) == 0) bytes.resize(source.below(static_cast<std::uint32_t>(bytes.size() + 20)));
}

void read(const std::uint8_t* data, std::size_t size, Source& source) {
    const rar::Graph graph(data, size);
    try {
        graph.check(graph.size());
    } catch (const std::invalid_argument&) {
    }
    const std::int64_t query_count = 3;
    const std::int64_t count = 1 + source.below(12);
    std::vector<float> queries(static_cast<std::size_t>(query_count * graph.dim()));
    for (float& value : queries) value = static_cast<float>(source.below(100)) - 50.0f;
    std::vector<std::int32_t> labels(static_cast<std::size_t>(graph.size()));
    for (std::int32_t& label : labels) label = static_cast<std::int32_t>(source.below(4)) - 1;
    const std::uint8_t allowed[3] = {1, static_cast<std::uint8_t>(source.below(2)), 0};
    const rar::EntryFilter filter(labels.data(), graph.size(), source.below(2) == 0 ? allowed : nullptr, 3);
    const std::vector<const rar::Graph*> shards(1 + source.below(2), &graph);
    const rar::GraphWalk::Limits limits{1 + source.below(30), source.below(4), 1 + source.below(200)};
    for (const std::string& level : rar::simd_levels()) {
        std::vector<std::int64_t> entries[2];
        std::vector<float> distances[2];
        for (const int threads : {1, 2}) {
            std::vector<std::int64_t>& own = entries[threads - 1];
            own.resize(static_cast<std::size_t>(query_count * count));
            distances[threads - 1].resize(own.size());
            rar::search_graphs(shards, *rar::distances_of(level), queries.data(), query_count, limits, filter,
                               {own.data(), distances[threads - 1].data(), count}, rar::shared_pool(threads));
        }
        CHECK(entries[0] == entries[1] && distances[0] == distances[1]);
        for (std::size_t i = 0; i < entries[0].size(); ++i) {
            CHECK(entries[0][i] >= -1 && entries[0][i] < graph.size());
            CHECK(entries[0][i] == -1 || filter.label(entries[0][i]) >= 0);
            CHECK(!std::isnan(distances[0][i]));
            CHECK(i % static_cast<std::size_t>(count) == 0 || distances[0][i - 1] <= distances[0][i]);
        }
    }
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const std::uint8_t* data, std::size_t size) {
    Source source(data, size);
    std::vector<std::uint8_t> bytes = file(source);
    alter(bytes, source);
    // Exactly the file, at any address: any read beyond it is seen.
    const std::size_t shift = source.below(4);
    const auto memory = std::make_unique<std::uint8_t[]>(shift + bytes.size());
    std::copy(bytes.begin(), bytes.end(), memory.get() + shift);
    try {
        read(memory.get() + shift, bytes.size(), source);
    } catch (const std::invalid_argument&) {
    }
    return 0;
}
