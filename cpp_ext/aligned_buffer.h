// Scratch memory at a cache line's start, not cleared.
#pragma once

#include <cstddef>
#include <cstdint>
#include <new>

namespace rar {

class AlignedBuffer {
public:
    explicit AlignedBuffer(std::size_t size)
        : data_(static_cast<std::uint8_t*>(::operator new(size, std::align_val_t{kLine}))) {}
    ~AlignedBuffer() { ::operator delete(data_, std::align_val_t{kLine}); }
    AlignedBuffer(const AlignedBuffer&) = delete;
    AlignedBuffer& operator=(const AlignedBuffer&) = delete;

    std::uint8_t* data() const { return data_; }

private:
    static constexpr std::size_t kLine = 64;

    std::uint8_t* data_;
};

}  // namespace rar
