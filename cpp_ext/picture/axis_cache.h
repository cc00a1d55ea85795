// The weights of resizes, kept for the next picture of the same size.
#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <map>
#include <memory>
#include <mutex>
#include <tuple>
#include <utility>

#include "picture/axis.h"
#include "picture/kernels.h"
#include "picture/resample.h"

namespace rar {

// The plans used last, within a budget. Weights take longer to compute than a small picture takes to resize.
class AxisCache {
public:
    AxisCache(const Kernels* kernels, Filter filter) : kernels_(kernels), filter_(filter) {}

    std::shared_ptr<const AxisPlan> get(std::int64_t in, std::int64_t out, std::int64_t first, std::int64_t count);

private:
    using Key = std::tuple<std::int64_t, std::int64_t, std::int64_t, std::int64_t>;
    using Entry = std::pair<Key, std::shared_ptr<const AxisPlan>>;

    const Kernels* const kernels_;
    const Filter filter_;
    std::mutex mutex_;
    std::list<Entry> entries_;  // the one used last in front
    std::size_t bytes_ = 0;
    std::map<Key, std::list<Entry>::iterator> index_;
};

}  // namespace rar
