"""Real photos that ship inside Python packages: exports use them offline for calibration and comparison."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from rar.runtime.errors import ExportError

# Names under the packages' own folders; drawings, masks and test charts are left out.
_PHOTOS = {
    "skimage": [
        f"data/{name}"
        for name in (
            "astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png", "coins.png", "grass.png",
            "gravel.png", "hubble_deep_field.jpg", "ihc.png", "moon.png", "motorcycle_left.png", "retina.jpg",
            "rocket.jpg",
        )
    ],
    "sklearn": ["datasets/images/china.jpg", "datasets/images/flower.jpg"],
}  # fmt: skip
# A default export is calibrated on neither of them.
_CHECKED = ("chelsea.png", "coffee.png")


def package_photos() -> list[Path]:
    """Paths of the photos that the installed scikit-image and scikit-learn ship, sorted by name.

    Raises:
        ExportError: Neither package is installed.
    """
    photos = []
    for package, names in _PHOTOS.items():
        spec = importlib.util.find_spec(package)  # finds the folder without importing the package
        for folder in (spec.submodule_search_locations or []) if spec else []:
            photos += [path for name in names if (path := Path(folder) / name).is_file()]
    if not photos:
        raise ExportError(
            "no photos to compare with; install scikit-image (extra `export`) or name a folder with --images"
        )
    return sorted(photos, key=lambda path: path.name)


def checked_photos() -> list[Path]:
    """Two photos that are stored in bundles to check graphs: in the public domain (CC0), with many shapes and colours.

    Raises:
        ExportError: See `package_photos`.
    """
    photos = package_photos()
    return [path for path in photos if path.name in _CHECKED] or photos[:2]


if __name__ == "__main__":  # for `make demo`: photos of one thing that a person would name
    shown = ("astronaut", "chelsea", "china", "coffee", "flower", "motorcycle_left", "rocket")
    print(*(path for path in package_photos() if path.stem in shown))
