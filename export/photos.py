"""Real photos that ship inside Python packages: what exports are calibrated on and compared with offline."""

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


def package_photos() -> list[Path]:
    """Paths of the photos that the installed scikit-image and scikit-learn ship, sorted by name.

    Raises:
        ExportError: Neither package is installed.
    """
    found = []
    for package, names in _PHOTOS.items():
        spec = importlib.util.find_spec(package)  # finds the folder without importing the package
        for folder in (spec.submodule_search_locations or []) if spec else []:
            found += [path for name in names if (path := Path(folder) / name).is_file()]
    if not found:
        raise ExportError(
            "no photos to compare with; install scikit-image (extra `export`) or name a folder with --images"
        )
    return sorted(found, key=lambda path: path.name)


if __name__ == "__main__":  # for `make demo`: the photos that show one thing a person would name
    shown = ("astronaut", "chelsea", "china", "coffee", "flower", "motorcycle_left", "rocket")
    print(*(path for path in package_photos() if path.stem in shown))
