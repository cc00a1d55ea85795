// Scratch memory at a cache line's start, not cleared.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>
#include <utility>

namespace rar {

class AlignedBuffer {
public:
    explicit AlignedBuffer(std::size_t size)
        : data_(static_cast<std::uint8_t*>(::operator new(size, std::align_val_t{kLine}))) {}
    ~AlignedBuffer() { ::operator delete(data_, std::align_val_t{kLine}); }
    AlignedBuffer(AlignedBuffer&& other) noexcept : data_(std::exchange(other.data_, nullptr)) {}
    AlignedBuffer& operator=(AlignedBuffer&&) = delete;

    std::uint8_t* data() const { return data_; }

private:
    static constexpr std::size_t kLine = 64;

    std::uint8_t* data_;
};

}  // namespace rar
