// The Python face: checks arrays, borrows their memory, releases the GIL around the work.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <array>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "base/instruction_sets.h"
#include "dispatch.h"
#include "picture/preprocessor.h"
#include "python/memory.h"

namespace py = pybind11;

namespace {

using rar::kChannels;

// An array's memory as a picture. The array must outlive the view; the caller's list holds it.
rar::ImageView view_of(const py::array& array, std::size_t index) {
    const std::string name = "picture " + std::to_string(index);
    if (!array.dtype().equal(py::dtype::of<std::uint8_t>())) throw py::value_error(name + " is not uint8");
    if (array.ndim() != 3 || array.shape(2) != kChannels) throw py::value_error(name + " is not [height, width, 3]");
    const std::int64_t height = array.shape(0);
    const std::int64_t width = array.shape(1);
    if (height < 1 || width < 1) throw py::value_error(name + " holds no pixel");
    if (height > rar::kMaxSide || width > rar::kMaxSide) {
        throw py::value_error(name + " has a side over " + std::to_string(rar::kMaxSide) + " pixels");
    }
    if (array.strides(2) != 1 || (array.strides(1) != kChannels && width > 1)) {
        throw py::value_error(name + " does not have the pixels of a row packed");
    }
    return {static_cast<const std::uint8_t*>(array.data()), width, height, array.strides(0)};
}

// float32 or float16 planes for `count` pictures, in the array's own memory.
rar::PixelType check_output(const py::array& out, std::size_t count, std::int64_t size) {
    const bool half = out.dtype().equal(py::dtype("e"));
    if (!half && !out.dtype().equal(py::dtype::of<float>())) throw py::value_error("out is not float32 or float16");
    if (out.ndim() != 4 || out.shape(0) != static_cast<py::ssize_t>(count) || out.shape(1) != kChannels ||
        out.shape(2) != size || out.shape(3) != size) {
        throw py::value_error("out has the wrong shape");
    }
    if ((out.flags() & py::array::c_style) == 0 || !out.writeable()) {
        throw py::value_error("out is not C-contiguous and writeable");
    }
    return half ? rar::PixelType::kFloat16 : rar::PixelType::kFloat32;
}

void run(rar::Preprocessor& preprocessor, const std::vector<py::array>& images, py::array& out) {
    const rar::PixelType type = check_output(out, images.size(), preprocessor.size());
    auto* const target = static_cast<std::uint8_t*>(out.mutable_data());
    std::vector<rar::ImageView> views;
    views.reserve(images.size());
    for (std::size_t i = 0; i < images.size(); ++i) views.push_back(view_of(images[i], i));
    const py::gil_scoped_release release;
    preprocessor.run(views, target, type);
}

rar::Rect rect_of(const std::array<std::int64_t, 4>& edges) { return {edges[0], edges[1], edges[2], edges[3]}; }

bool holds(const rar::Rect& outer, const rar::Rect& inner) {
    return inner.x0 >= outer.x0 && inner.y0 >= outer.y0 && inner.x1 <= outer.x1 && inner.y1 <= outer.y1 &&
           inner.width() > 0 && inner.height() > 0;
}

using Edges = std::array<std::int64_t, 4>;

void run_regions(rar::Preprocessor& preprocessor, const py::array& image, const std::vector<Edges>& boxes,
                 const std::vector<Edges>& around, const std::vector<double>& sigmas,
                 const std::optional<std::string>& method, const std::string& fit, py::array& out) {
    const rar::PixelType type = check_output(out, boxes.size(), preprocessor.size());
    auto* const target = static_cast<std::uint8_t*>(out.mutable_data());
    const rar::ImageView frame = view_of(image, 0);
    std::optional<rar::BlurMethod> blur_method;
    if (method) blur_method = rar::parse_method(*method);
    const rar::Fit region_fit = rar::parse_fit(fit);
    if (around.size() != boxes.size() || sigmas.size() != boxes.size()) {
        throw py::value_error("not as many boxes as rectangles around them or deviations");
    }
    std::vector<rar::Region> regions;
    for (std::size_t i = 0; i < boxes.size(); ++i) {
        const std::string name = "region " + std::to_string(i);
        const rar::Region region{rect_of(boxes[i]), rect_of(around[i]), sigmas[i]};
        if (!holds({0, 0, frame.width, frame.height}, region.around)) {
            throw py::value_error(name + " leaves the picture");
        }
        if (!holds(region.around, region.box)) {
            throw py::value_error(name + " has an impossible rectangle around it");
        }
        if (!(sigmas[i] >= 0 && sigmas[i] <= rar::kMaxSigma)) {
            throw py::value_error(name + " has a deviation out of range");
        }
        regions.push_back(region);
    }
    const py::gil_scoped_release release;
    preprocessor.run_regions(frame, regions, blur_method, region_fit, target, type);
}

}  // namespace

PYBIND11_MODULE(_native, module, py::mod_gil_not_used()) {
    module.doc() =
        "The picture preparation and the memory's search of rar.runtime in C++; use rar.runtime.Preprocess and Memory.";
    module.attr("MAX_SIDE") = rar::kMaxSide;
    module.attr("MAX_SIGMA") = rar::kMaxSigma;
    module.def("simd_levels", &rar::simd_levels);
    module.def("instruction_sets", &rar::instruction_sets);
    py::class_<rar::Preprocessor>(module, "Preprocessor")
        .def(py::init([](std::int64_t size, std::int64_t shortest_edge, const std::array<double, kChannels>& mean,
                         const std::array<double, kChannels>& std, const std::string& filter, const std::string& fit,
                         const std::array<std::uint8_t, kChannels>& fill, int threads, const std::string& simd) {
                 const rar::Settings settings{size, shortest_edge, rar::parse_filter(filter), rar::parse_fit(fit),
                                              fill};
                 return std::make_unique<rar::Preprocessor>(settings, rar::Normalizer(mean, std), rar::kernels_of(simd),
                                                            threads);
             }),
             py::kw_only(), py::arg("size"), py::arg("shortest_edge"), py::arg("mean"), py::arg("std"),
             py::arg("filter"), py::arg("fit"), py::arg("fill"), py::arg("threads"), py::arg("simd"))
        .def("run", &run, py::arg("images"), py::arg("out"))
        .def("run_regions", &run_regions, py::kw_only(), py::arg("image"), py::arg("boxes"), py::arg("around"),
             py::arg("sigmas"), py::arg("method"), py::arg("fit"), py::arg("out"));
    bind_memory(module);
}
