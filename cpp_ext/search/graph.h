// An HNSW graph (arXiv 1603.09320) in the file that usearch 2 saves, read where it lies.
//
// The file's parts, little-endian and unaligned:
//     rows     uint32 count, uint32 bytes a row, then the vectors by slot
//     head     64 bytes: "usearch", version (3 uint16), kinds of metric, scalar, key and slot (a byte each),
//              present, deleted, dimensions (uint64 each), multi (a byte)
//     shape    size, connectivity, connectivity of level 0, highest level, entry slot (uint64 each)
//     levels   int16 a slot
//     nodes    a slot after the other: uint64 key, int16 level, for each level from 0 up a uint32 count and room for
//              as many uint32 slots as the level's connectivity
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>

#include "search/scalar.h"

namespace rar {

// The bytes may come from anybody: opening checks the parts' extents and the levels, following a link checks it, and
// both throw std::invalid_argument. So an altered file gives other answers, but nothing outside it is ever read.
class Graph {
public:
    // Reads head, shape and levels. The bytes must outlive the graph.
    Graph(const std::uint8_t* data, std::size_t size);

    std::int64_t size() const { return size_; }
    std::int64_t dim() const { return dim_; }
    Scalar scalar() const { return scalar_; }
    std::uint32_t entry_slot() const { return entry_slot_; }  // of a graph that is not empty
    int levels() const { return levels_; }                    // above level 0
    std::size_t most_links() const { return connectivity_base_ > connectivity_ ? connectivity_base_ : connectivity_; }

    // For slots below size().
    int level(std::uint32_t slot) const {
        return static_cast<int>(blocks_[slot / kBlock].levels >> (slot % kBlock * 4) & 15);
    }
    const std::uint8_t* row(std::uint32_t slot) const { return rows_ + slot * row_bytes_; }
    const std::uint8_t* node(std::uint32_t slot) const {
        const Block& block = blocks_[slot / kBlock];
        const std::uint64_t before = block.levels & ((std::uint64_t{1} << (slot % kBlock * 4)) - 1);
        return nodes_ + slot * base_bytes_ + (block.before + sum_of_nibbles(before)) * upper_bytes_;
    }
    std::uint64_t key(std::uint32_t slot) const;
    // Asks for what links() of level 0 and key() read.
    void prefetch_node(std::uint32_t slot) const;

    // Copies the slots that `slot` is linked with on a level it has, at most most_links(); returns their number.
    std::size_t links(std::uint32_t slot, int level, std::uint32_t* linked) const;

    // Follows every link there is: the nodes' levels are those of the levels' part, links stay on levels that the
    // linked nodes have, keys are unique and below `entries`. Throws std::invalid_argument for the first misfit.
    void check(std::int64_t entries) const;

private:
    std::int64_t size_ = 0;
    std::int64_t dim_ = 0;
    Scalar scalar_ = Scalar::kF32;
    std::uint32_t entry_slot_ = 0;
    int levels_ = 0;
    std::size_t connectivity_ = 0;
    std::size_t connectivity_base_ = 0;
    const std::uint8_t* rows_ = nullptr;
    const std::uint8_t* nodes_ = nullptr;
    std::uint64_t row_bytes_ = 0;
    std::uint64_t base_bytes_ = 0;   // of a node on level 0 only
    std::uint64_t upper_bytes_ = 0;  // for each level more

    // Where the nodes begin, in a byte an entry: the levels above 0 that `kBlock` slots have, four bits each, and that
    // all slots before them have together.
    static constexpr std::uint32_t kBlock = 16;
    struct Block {
        std::uint64_t levels;
        std::uint64_t before;
    };
    static std::uint64_t sum_of_nibbles(std::uint64_t nibbles) {
        constexpr std::uint64_t kEven = 0x0f0f0f0f0f0f0f0f;
        return ((nibbles & kEven) + (nibbles >> 4 & kEven)) * 0x0101010101010101 >> 56;
    }
    std::unique_ptr<Block[]> blocks_;
};

}  // namespace rar
