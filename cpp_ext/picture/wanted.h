// The parts of a picture that somebody will read, so that no work goes into the rest.
#pragma once

#include <cstdint>
#include <vector>

#include "picture/rect.h"

namespace rar {

class Wanted {
public:
    // None of a picture of this size.
    Wanted(std::int64_t width, std::int64_t height);

    // Adds what lies in the picture of `part`, rounded up to whole tiles.
    void add(const Rect& part);

    // Calls visit(first, last) for each run of wanted columns among [left, right) of row y.
    template <class Visit>
    void runs(std::int64_t y, std::int64_t left, std::int64_t right, const Visit& visit) const {
        const std::uint8_t* tiles = row(y);
        for (std::int64_t x = left; x < right;) {
            const bool wanted = tiles[x / kTileWidth] != 0;
            const std::int64_t first = x;
            do {
                x = (x / kTileWidth + 1) * kTileWidth;
            } while (x < right && (tiles[x / kTileWidth] != 0) == wanted);
            if (wanted) visit(first, x < right ? x : right);
        }
    }

private:
    static constexpr std::int64_t kTileWidth = 16;
    static constexpr std::int64_t kTileHeight = 8;

    const std::uint8_t* row(std::int64_t y) const { return tiles_.data() + y / kTileHeight * columns_; }

    Rect whole_;
    std::int64_t columns_;
    std::vector<std::uint8_t> tiles_;
};

}  // namespace rar
