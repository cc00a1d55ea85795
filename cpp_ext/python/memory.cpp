// The Python face of the memory's search: checks arrays, borrows their memory, releases the GIL around the work.
#include "python/memory.h"

#include <pybind11/numpy.h>
#include <pybind11/stl.h>

#include <cmath>
#include <cstdint>
#include <cstdlib>
#include <limits>
#include <memory>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/shared_pool.h"
#include "dispatch.h"
#include "search/exact_search.h"
#include "search/graph.h"
#include "search/graph_search.h"

namespace py = pybind11;

namespace {

constexpr int kMostThreads = 1024;

// A graph and the memory it lies in, which stays exported as long.
struct MappedGraph {
    explicit MappedGraph(const py::buffer& file) : memory(file.request()), graph(bytes(), size()) {}

    const std::uint8_t* bytes() const {
        if (memory.ndim != 1 || memory.itemsize != 1 || (memory.shape[0] > 1 && memory.strides[0] != 1)) {
            throw py::value_error("the file is not given as contiguous bytes");
        }
        return static_cast<const std::uint8_t*>(memory.ptr);
    }
    std::size_t size() const { return static_cast<std::size_t>(memory.size); }

    py::buffer_info memory;
    rar::Graph graph;
};

const char* name_of(rar::Scalar scalar) {
    static constexpr const char* kNames[rar::kScalars] = {"f32", "f16", "i8"};
    return kNames[static_cast<int>(scalar)];
}

// The instruction set that RAR_SIMD asks for. Read under the GIL, as os.environ is written.
const rar::Distances& distances() {
    const char* const level = std::getenv("RAR_SIMD");
    return *rar::distances_of(level == nullptr ? "" : level);
}

rar::ThreadPool& pool_of(int threads) {
    if (threads < 1 || threads > kMostThreads) {
        throw py::value_error("threads is not 1 to " + std::to_string(kMostThreads));
    }
    return rar::shared_pool(threads);
}

template <class Number>
void check_array(const py::array& array, const char* name, const char* type, py::ssize_t dimensions) {
    if (!array.dtype().equal(py::dtype::of<Number>()) || array.ndim() != dimensions ||
        (array.flags() & py::array::c_style) == 0 ||
        reinterpret_cast<std::uintptr_t>(array.data()) % alignof(Number) != 0) {
        throw py::value_error(std::string(name) + " is not " + type + " of " + std::to_string(dimensions) +
                              " dimensions, contiguous and aligned");
    }
}

const float* check_queries(const py::array& queries, std::int64_t dim) {
    check_array<float>(queries, "queries", "float32", 2);
    if (queries.shape(1) != dim) {
        throw py::value_error("queries have " + std::to_string(queries.shape(1)) + " dimensions, not " +
                              std::to_string(dim));
    }
    const auto* const values = static_cast<const float*>(queries.data());
    for (py::ssize_t i = 0; i < queries.size(); ++i) {
        if (!std::isfinite(values[i])) {
            throw py::value_error("query " + std::to_string(i / dim) + " holds NaN or infinity");
        }
    }
    return values;
}

rar::EntryFilter filter_of(const py::array& labels, const std::optional<py::array>& allowed) {
    check_array<std::int32_t>(labels, "labels", "int32", 1);
    if (labels.size() > std::numeric_limits<std::int32_t>::max()) throw py::value_error("more labels than 2^31 - 1");
    if (allowed) check_array<std::uint8_t>(*allowed, "allowed", "uint8", 1);
    return {static_cast<const std::int32_t*>(labels.data()), labels.size(),
            allowed ? static_cast<const std::uint8_t*>(allowed->data()) : nullptr, allowed ? allowed->size() : 0};
}

rar::VectorView view_of(const py::array& vectors) {
    const bool half = vectors.dtype().equal(py::dtype("e"));
    if ((!half && !vectors.dtype().equal(py::dtype::of<float>())) || vectors.ndim() != 2 ||
        (vectors.flags() & py::array::c_style) == 0 || vectors.shape(1) < 1) {
        throw py::value_error("vectors are not float16 or float32 of 2 dimensions, contiguous");
    }
    return {static_cast<const std::uint8_t*>(vectors.data()), half ? rar::Scalar::kF16 : rar::Scalar::kF32,
            vectors.shape(0), vectors.shape(1)};
}

// Entries and distances (or dot products) of `queries` queries.
struct Answer {
    Answer(std::int64_t queries, std::int64_t count)
        : entries({queries, positive(count)}), distances({queries, count}) {}

    static std::int64_t positive(std::int64_t count) {
        if (count < 1) throw py::value_error("count is below 1");
        return count;
    }
    rar::SearchTarget target() { return {entries.mutable_data(), distances.mutable_data(), entries.shape(1)}; }
    py::tuple tuple() && { return py::make_tuple(std::move(entries), std::move(distances)); }

    py::array_t<std::int64_t> entries;
    py::array_t<float> distances;
};

// Returns 0 for no cap.
std::int64_t checked_cap(const std::optional<std::int64_t>& cap) {
    if (cap && *cap < 1) throw py::value_error("cap is below 1");
    return cap.value_or(0);
}

py::tuple search(const std::vector<std::shared_ptr<MappedGraph>>& mapped, const py::array& queries, std::int64_t count,
                 std::int64_t ef, const py::array& labels, const std::optional<py::array>& allowed, int threads,
                 const std::optional<std::int64_t>& cap, const std::optional<std::int64_t>& most) {
    if (mapped.empty()) throw py::value_error("there is no graph to search");
    std::vector<const rar::Graph*> graphs;
    for (const std::shared_ptr<MappedGraph>& one : mapped) {
        if (!one) throw py::value_error("a graph is None");
        graphs.push_back(&one->graph);
        if (graphs.back()->dim() != graphs[0]->dim() || graphs.back()->scalar() != graphs[0]->scalar()) {
            throw py::value_error("the graphs differ in dimension or dtype");
        }
    }
    if (ef < 1) throw py::value_error("ef is below 1");
    const rar::GraphWalk::Limits limits{ef, checked_cap(cap),
                                        most.value_or(std::numeric_limits<std::int64_t>::max())};
    if (limits.most < 1) throw py::value_error("most is below 1");
    const float* const values = check_queries(queries, graphs[0]->dim());
    const rar::EntryFilter filter = filter_of(labels, allowed);
    const rar::Distances& kernels = distances();
    rar::ThreadPool& pool = pool_of(threads);
    Answer answer(queries.shape(0), count);
    const rar::SearchTarget target = answer.target();
    {
        const py::gil_scoped_release release;
        rar::search_graphs(graphs, kernels, values, queries.shape(0), limits, filter, target, pool);
    }
    return std::move(answer).tuple();
}

py::array_t<float> score(const py::array& vectors, const py::array& queries, const py::array& ids, int threads) {
    const rar::VectorView view = view_of(vectors);
    const float* const values = check_queries(queries, view.dim);
    check_array<std::int64_t>(ids, "ids", "int64", 2);
    if (ids.shape(0) != queries.shape(0)) throw py::value_error("not as many rows of ids as queries");
    const auto* const wanted = static_cast<const std::int64_t*>(ids.data());
    const rar::Distances& kernels = distances();
    rar::ThreadPool& pool = pool_of(threads);
    py::array_t<float> out({ids.shape(0), ids.shape(1)});
    float* const target = out.mutable_data();
    {
        const py::gil_scoped_release release;
        rar::score_vectors(view, kernels, values, queries.shape(0), wanted, ids.shape(1), target, pool);
    }
    return out;
}

py::tuple nearest(const py::array& vectors, const py::array& queries, std::int64_t count, const py::array& labels,
                  const std::optional<py::array>& allowed, int threads, const std::optional<std::int64_t>& cap) {
    const rar::VectorView view = view_of(vectors);
    const float* const values = check_queries(queries, view.dim);
    const rar::EntryFilter filter = filter_of(labels, allowed);
    if (labels.size() != view.count) throw py::value_error("not as many labels as vectors");
    const std::int64_t of_a_class = checked_cap(cap);
    const rar::Distances& kernels = distances();
    rar::ThreadPool& pool = pool_of(threads);
    Answer answer(queries.shape(0), count);
    const rar::SearchTarget target = answer.target();
    {
        const py::gil_scoped_release release;
        rar::nearest_vectors(view, kernels, values, queries.shape(0), filter, of_a_class, target, pool);
    }
    return std::move(answer).tuple();
}

}  // namespace

void bind_memory(py::module_& module) {
    py::class_<MappedGraph, std::shared_ptr<MappedGraph>>(module, "Graph")
        .def(py::init<const py::buffer&>(), py::arg("file"))
        .def_property_readonly("size", [](const MappedGraph& self) { return self.graph.size(); })
        .def_property_readonly("dim", [](const MappedGraph& self) { return self.graph.dim(); })
        .def_property_readonly("dtype", [](const MappedGraph& self) { return name_of(self.graph.scalar()); })
        .def(
            "check",
            [](const MappedGraph& self, std::int64_t entries) {
                if (entries < 0) throw py::value_error("entries is below 0");
                const py::gil_scoped_release release;
                self.graph.check(entries);
            },
            py::arg("entries"));
    module.def("search", &search, py::arg("graphs"), py::arg("queries"), py::arg("count"), py::arg("ef"),
               py::arg("labels"), py::arg("allowed"), py::arg("threads") = 1, py::arg("cap") = py::none(),
               py::arg("most") = py::none());
    module.def("score", &score, py::arg("vectors"), py::arg("queries"), py::arg("ids"), py::arg("threads") = 1);
    module.def("nearest", &nearest, py::arg("vectors"), py::arg("queries"), py::arg("count"), py::arg("labels"),
               py::arg("allowed"), py::arg("threads") = 1, py::arg("cap") = py::none());
}
