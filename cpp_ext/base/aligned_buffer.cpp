#include "base/aligned_buffer.h"

#include <algorithm>
#include <new>
#include <vector>

namespace rar {
namespace {

constexpr std::size_t kLine = 64;
constexpr std::size_t kKeptBytes = 32 << 20;  // a thread
constexpr std::size_t kKeptBlocks = 16;

struct Block {
    std::uint8_t* data;
    std::size_t capacity;
};

void release(const Block& block) { ::operator delete(block.data, std::align_val_t{kLine}); }

// What a thread has freed, oldest first.
class Kept {
public:
    Kept() { blocks_.reserve(kKeptBlocks + 1); }
    ~Kept() {
        for (const Block& block : blocks_) release(block);
    }
    Kept(const Kept&) = delete;
    Kept& operator=(const Kept&) = delete;

    // The smallest block that fits without wasting more than it holds, or nothing.
    Block take(std::size_t size) {
        auto best = blocks_.end();
        for (auto block = blocks_.begin(); block != blocks_.end(); ++block) {
            if (block->capacity < size || block->capacity / 2 > size) continue;
            if (best == blocks_.end() || block->capacity < best->capacity) best = block;
        }
        if (best == blocks_.end()) return {nullptr, 0};
        const Block found = *best;
        blocks_.erase(best);
        bytes_ -= found.capacity;
        return found;
    }

    void put(const Block& block) noexcept {
        blocks_.push_back(block);
        bytes_ += block.capacity;
        while (blocks_.size() > kKeptBlocks || bytes_ > kKeptBytes) {
            bytes_ -= blocks_.front().capacity;
            release(blocks_.front());
            blocks_.erase(blocks_.begin());
        }
    }

private:
    std::vector<Block> blocks_;
    std::size_t bytes_ = 0;
};

Kept& kept() {
    thread_local Kept blocks;
    return blocks;
}

}  // namespace

AlignedBuffer::AlignedBuffer(std::size_t size) {
    const Block block = kept().take(size);
    data_ = block.data;
    capacity_ = block.capacity;
    if (data_ == nullptr) {
        capacity_ = std::max(size, kLine);
        data_ = static_cast<std::uint8_t*>(::operator new(capacity_, std::align_val_t{kLine}));
    }
}

AlignedBuffer::~AlignedBuffer() {
    if (data_ != nullptr) kept().put({data_, capacity_});
}

}  // namespace rar
