// The Python face: checks arrays, borrows their memory, releases the GIL around the work.
#include <pybind11/numpy.h>
#include <pybind11/pybind11.h>
#include <pybind11/stl.h>

#include <stdexcept>
#include <string>

#include "preprocessor.h"

namespace py = pybind11;

namespace {

using rar::kChannels;

// An array's memory as a picture. The array must outlive the view; the caller's list holds it.
rar::ImageView view_of(const py::array& array, std::size_t index) {
    const std::string name = "picture " + std::to_string(index);
    if (!array.dtype().is(py::dtype::of<std::uint8_t>())) throw py::value_error(name + " is not uint8");
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

void run(rar::Preprocessor& preprocessor, const std::vector<py::array>& images,
         py::array_t<float, py::array::c_style>& out) {
    const std::int64_t size = preprocessor.size();
    if (out.ndim() != 4 || out.shape(0) != static_cast<py::ssize_t>(images.size()) || out.shape(1) != kChannels ||
        out.shape(2) != size || out.shape(3) != size) {
        throw py::value_error("out has the wrong shape");
    }
    float* const target = out.mutable_data();  // throws where the array is read-only
    std::vector<rar::ImageView> views;
    views.reserve(images.size());
    for (std::size_t i = 0; i < images.size(); ++i) views.push_back(view_of(images[i], i));
    const py::gil_scoped_release release;
    preprocessor.run(views, target);
}

}  // namespace

PYBIND11_MODULE(_native, module, py::mod_gil_not_used()) {
    module.doc() = "The picture preparation of rar.runtime in C++; use rar.runtime.Preprocess.";
    module.attr("MAX_SIDE") = rar::kMaxSide;
    py::class_<rar::Preprocessor>(module, "Preprocessor")
        .def(py::init([](std::int64_t size, std::int64_t shortest_edge, const std::array<double, kChannels>& mean,
                         const std::array<double, kChannels>& std, const std::string& filter, const std::string& fit,
                         const std::array<std::uint8_t, kChannels>& fill, int threads) {
                 const rar::Settings settings{size, shortest_edge, rar::parse_filter(filter), rar::parse_fit(fit),
                                              fill};
                 return std::make_unique<rar::Preprocessor>(settings, rar::Normalizer(mean, std), threads);
             }),
             py::kw_only(), py::arg("size"), py::arg("shortest_edge"), py::arg("mean"), py::arg("std"),
             py::arg("filter"), py::arg("fit"), py::arg("fill"), py::arg("threads"))
        .def("run", &run, py::arg("images"), py::arg("out").noconvert());
}
