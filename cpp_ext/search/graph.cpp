#include "search/graph.h"

#include <algorithm>
#include <cstring>
#include <stdexcept>
#include <string>

namespace rar {
namespace {

constexpr std::uint64_t kHeadBytes = 64;
constexpr std::uint64_t kNodeHeadBytes = sizeof(std::uint64_t) + sizeof(std::int16_t);
constexpr std::uint64_t kMostDimensions = 1 << 16;
constexpr std::uint64_t kMostConnectivity = 1 << 12;
constexpr std::uint16_t kHighestLevel = 15;
constexpr int kVersion = 2;

// usearch's names of kinds.
constexpr std::uint8_t kL2sq = 'e';
constexpr std::uint8_t kKindU64 = 14;
constexpr std::uint8_t kKindU32 = 15;

[[noreturn]] void refuse(const std::string& reason) { throw std::invalid_argument(reason); }

template <class Number>
Number read(const std::uint8_t* source) {
    Number value;
    std::memcpy(&value, source, sizeof value);
    return value;
}

// Takes the file's parts one by one.
class Reader {
public:
    Reader(const std::uint8_t* data, std::size_t size) : at_(data), left_(size) {}

    std::uint64_t left() const { return left_; }

    const std::uint8_t* take(std::uint64_t bytes, const char* part) {
        if (bytes > left_) refuse(std::string("the file ends within its ") + part + "; it is truncated or no index");
        const std::uint8_t* const taken = at_;
        at_ += bytes;
        left_ -= bytes;
        return taken;
    }

    template <class Number>
    Number number(const char* part) {
        return read<Number>(take(sizeof(Number), part));
    }

private:
    const std::uint8_t* at_;
    std::uint64_t left_;
};

Scalar scalar_of(std::uint8_t kind) {
    switch (kind) {
        case 11:
            return Scalar::kF32;
        case 12:
            return Scalar::kF16;
        case 23:
            return Scalar::kI8;
        default:
            refuse("vectors of usearch's scalar kind " + std::to_string(kind) + " are not read here");
    }
}

struct Head {
    explicit Head(const std::uint8_t* bytes) {
        if (std::memcmp(bytes, "usearch", 7) != 0) refuse("no usearch index: its mark is missing after the vectors");
        version = read<std::uint16_t>(bytes + 7);
        metric = bytes[13];
        scalar = bytes[14];
        key = bytes[15];
        slot = bytes[16];
        present = read<std::uint64_t>(bytes + 17);
        deleted = read<std::uint64_t>(bytes + 25);
        dimensions = read<std::uint64_t>(bytes + 33);
    }
    std::uint16_t version;
    std::uint8_t metric, scalar, key, slot;
    std::uint64_t present, deleted, dimensions;
};

}  // namespace

Graph::Graph(const std::uint8_t* data, std::size_t size) {
    Reader reader(data, size);
    const std::uint64_t row_count = reader.number<std::uint32_t>("vectors");
    row_bytes_ = reader.number<std::uint32_t>("vectors");
    rows_ = reader.take(row_count * row_bytes_, "vectors");

    const Head head(reader.take(kHeadBytes, "head"));
    if (head.version != kVersion) {
        refuse("written by usearch " + std::to_string(head.version) + ", but the format of usearch " +
               std::to_string(kVersion) + " is read here");
    }
    if (head.key != kKindU64 || head.slot != kKindU32)
        refuse("its keys or slots are of another kind than usearch's own");
    scalar_ = scalar_of(head.scalar);
    if (head.metric != kL2sq) refuse("its metric is not squared L2");
    if (head.dimensions < 1 || head.dimensions > kMostDimensions) {
        refuse("vectors of " + std::to_string(head.dimensions) + " dimensions are not read here");
    }
    dim_ = static_cast<std::int64_t>(head.dimensions);
    if (row_bytes_ != static_cast<std::uint64_t>(bytes_of(scalar_, dim_))) {
        refuse("its vectors do not have the dimensions that its head tells");
    }
    if (head.deleted != 0) refuse("it holds removed entries; build it again without them");

    const auto count = reader.number<std::uint64_t>("shape");
    const auto connectivity = reader.number<std::uint64_t>("shape");
    const auto connectivity_base = reader.number<std::uint64_t>("shape");
    const auto levels = reader.number<std::uint64_t>("shape");
    const auto entry = reader.number<std::uint64_t>("shape");
    if (count != row_count || count != head.present) refuse("its parts differ in the number of entries");
    if (connectivity > kMostConnectivity || connectivity_base > kMostConnectivity) {
        refuse("its connectivity is out of range");
    }
    size_ = static_cast<std::int64_t>(count);
    connectivity_ = connectivity;
    connectivity_base_ = connectivity_base;
    upper_bytes_ = sizeof(std::uint32_t) * (1 + connectivity);
    base_bytes_ = kNodeHeadBytes + sizeof(std::uint32_t) * (1 + connectivity_base);

    const std::uint8_t* const stored = reader.take(count * sizeof(std::uint16_t), "levels");
    const std::uint64_t blocks = (count + kBlock - 1) / kBlock;
    blocks_.reset(new Block[blocks]);
    std::uint64_t before = 0;
    std::uint16_t highest = 0;  // levels below 0 are too high
    for (std::uint64_t i = 0; i < blocks; ++i) {
        Block& block = blocks_[i];
        block = {0, before};
        for (std::uint64_t slot = i * kBlock; slot < count && slot < (i + 1) * kBlock; ++slot) {
            const auto level = read<std::uint16_t>(stored + slot * sizeof(std::uint16_t));
            highest = std::max(highest, level);
            block.levels |= static_cast<std::uint64_t>(level & kHighestLevel) << (slot % kBlock * 4);
        }
        before += sum_of_nibbles(block.levels);
    }
    if (highest > kHighestLevel) refuse("its levels are out of range");
    nodes_ = reader.take(count * base_bytes_ + before * upper_bytes_, "nodes");
    if (reader.left() != 0) refuse("it does not end where its last node does");
    if (count != 0) {
        if (entry >= count) refuse("its entry slot is out of range");
        entry_slot_ = static_cast<std::uint32_t>(entry);
        levels_ = highest;
        if (levels != static_cast<std::uint64_t>(highest) || level(entry_slot_) != highest) {
            refuse("its entry slot is not on the highest level");
        }
    }
}

std::uint64_t Graph::key(std::uint32_t slot) const { return read<std::uint64_t>(node(slot)); }

void Graph::prefetch_node(std::uint32_t slot) const {
    const std::uint8_t* const first = node(slot);
    for (std::uint64_t at = 0; at < base_bytes_; at += 64) __builtin_prefetch(first + at);
    __builtin_prefetch(first + base_bytes_ - 1);
}

std::size_t Graph::links(std::uint32_t slot, int level, std::uint32_t* linked) const {
    const std::uint64_t offset =
        level == 0 ? kNodeHeadBytes : base_bytes_ + static_cast<std::uint64_t>(level - 1) * upper_bytes_;
    const std::uint8_t* const list = node(slot) + offset;
    const std::size_t count = read<std::uint32_t>(list);
    if (count > (level == 0 ? connectivity_base_ : connectivity_)) {
        refuse("slot " + std::to_string(slot) + " has more links than there is room for");
    }
    std::memcpy(linked, list + sizeof(std::uint32_t), count * sizeof(std::uint32_t));
    std::uint32_t farthest = 0;
    for (std::size_t i = 0; i < count; ++i) farthest = std::max(farthest, linked[i]);
    if (farthest >= size_) refuse("slot " + std::to_string(slot) + " is linked with a slot that is not there");
    return count;
}

}  // namespace rar
