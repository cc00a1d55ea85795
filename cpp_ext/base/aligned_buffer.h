// Scratch memory at a cache line's start, not cleared.
#pragma once

#include <cstddef>
#include <cstdint>
#include <utility>

namespace rar {

// Each thread keeps some of what it frees for its next buffers: fresh pages from the system cost as much as the
// work that is done in them.
class AlignedBuffer {
public:
    explicit AlignedBuffer(std::size_t size);
    ~AlignedBuffer();
    AlignedBuffer(AlignedBuffer&& other) noexcept
        : data_(std::exchange(other.data_, nullptr)), capacity_(other.capacity_) {}
    AlignedBuffer& operator=(AlignedBuffer&& other) noexcept {
        std::swap(data_, other.data_);
        std::swap(capacity_, other.capacity_);
        return *this;
    }

    std::uint8_t* data() const { return data_; }

private:
    std::uint8_t* data_;
    std::size_t capacity_;
};

}  // namespace rar
