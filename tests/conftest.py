"""Fixtures of all tests: a tiny real encoder, real photos, and memories built from them."""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Generator, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import settings
from PIL import Image

# Nothing is fetched: a folder that is not there would be asked for at a model hub, again and again.
os.environ["HF_HUB_OFFLINE"] = "1"

pytest_plugins = ["light", "no_skips", "tiny_grain", "tiny_mllm"]

# No deadline: the machine may be shared. Derandomised: a run can be repeated.
settings.register_profile("rar", deadline=None, derandomize=True, max_examples=50)
settings.load_profile("rar")
# A shell's background job ignores Ctrl-C, and so would the processes that tests start and interrupt.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """What a test printed may hold bytes of a path that are not UTF-8, which no other process can be sent."""
    report = yield
    report.sections = [(name, text.encode(errors="backslashreplace").decode()) for name, text in report.sections]
    return report


@pytest.hookimpl(tryfirst=True)  # xdist reads the marks in its own
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """One process has all tests of a folder: they share what is dear to make."""
    for item in items:
        item.add_marker(pytest.mark.xdist_group(str(item.path.parent)))


def made_once(name: str, make: Callable[[Path], object], factory: pytest.TempPathFactory) -> Path:
    """A folder that the first process to ask for it makes, and all others take as it is."""
    run = factory.getbasetemp()
    run = run.parent if "PYTEST_XDIST_WORKER" in os.environ else run
    out = run / name / "bundle"
    with (run / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not out.exists():
            make(out)
    return out


DESCRIPTIONS = {
    "cat": ["a furry animal with whiskers", "an animal with pointed ears"],
    "coffee": ["a cup of hot brown drink", "a white cup on a saucer", "a spoon beside a cup"],
    "rocket": ["a tall vehicle on a launch pad"],
}
# Class -> the photo that its pictures are cut from. "grass" stays without descriptions.
CLASS_PHOTOS = {"cat": "chelsea.png", "coffee": "coffee.png", "grass": "grass.png", "rocket": "rocket.jpg"}


@pytest.fixture(scope="session")
def photos() -> list[Path]:
    """Real photos that scikit-image and scikit-learn ship."""
    from rar.export.pictures.photos import package_photos

    return package_photos()


@pytest.fixture(scope="session")
def tiny_openclip(pytorch: None, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """An open_clip model configuration and a checkpoint of seeded random weights."""
    import open_clip
    import torch

    folder = tmp_path_factory.mktemp("openclip")
    config, checkpoint = folder / "rar-tiny.json", folder / "rar-tiny.pt"
    config.write_text(
        json.dumps(
            {
                "embed_dim": 32,
                "vision_cfg": {"image_size": 32, "layers": 2, "width": 64, "head_width": 32, "patch_size": 8},
                "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
            }
        )
    )
    open_clip.add_model_config(config)
    torch.manual_seed(0)
    torch.save(open_clip.create_model(config.stem).state_dict(), checkpoint)
    return config, checkpoint


@pytest.fixture(scope="session")
def openclip_bundle(tiny_openclip: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with the encoder `tiny_openclip` and no memory. Shared: copy it before writing."""
    from rar.export.cli import main

    config, checkpoint = tiny_openclip
    out = tmp_path_factory.mktemp("openclip-bundle") / "bundle"
    assert main(["clip", str(out), "--model", str(config), "--pretrained", str(checkpoint)]) == 0
    return out


@pytest.fixture(scope="session")
def tiny_bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle with an encoder and no memory, made without PyTorch. Shared: copy it before writing."""
    from tiny_clip import write_tiny

    out = tmp_path_factory.mktemp("tiny") / "bundle"
    write_tiny(out)
    return out


@pytest.fixture(scope="session")
def starter(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The starter bundle, as shipped: int8, a memory of the 1,000 ImageNet names. Shared: copy before writing.

    It is made as where PyTorch and what comes with it are not installed.
    """
    absent = ("torch", "torchvision", "transformers", "open_clip", "timm", "peft", "accelerate", "onnxscript", "scipy")

    def make(out: Path) -> None:
        code = (
            f"import sys; sys.modules.update(dict.fromkeys({absent!r})); "
            "from rar.export.cli import main; sys.exit(main(['starter', sys.argv[1]]))"
        )
        subprocess.run([sys.executable, "-c", code, str(out)], check=True)

    return made_once("starter", make, tmp_path_factory)


@pytest.fixture(scope="session")
def grocery_bundle(starter: Path, grocery: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The starter with the Grocery train set in its memory, at 64 dimensions. Shared: copy before writing."""
    from rar.export.cli import main

    def make(out: Path) -> None:
        images = str(grocery / "train.csv")
        assert main(["memory", str(starter), "--images", images, "--dim", "64", "--out", str(out)]) == 0

    return made_once("grocery", make, tmp_path_factory)


@pytest.fixture(scope="session")
def labelled_folder(photos: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A sub-folder a class, each with three pictures cut from one photo: JPEG, JPEG and PNG."""
    by_name = {path.name: path for path in photos}
    folder = tmp_path_factory.mktemp("labelled")
    for label, name in CLASS_PHOTOS.items():
        (folder / label).mkdir()
        with Image.open(by_name[name]) as photo:
            rgb = photo.convert("RGB")
        for i, suffix in enumerate(("jpg", "jpg", "png")):
            left, top = (rgb.width - 200) * i // 2, (rgb.height - 160) * i // 2
            rgb.crop((left, top, left + 200, top + 160)).resize((100, 80)).save(folder / label / f"{i}.{suffix}")
    return folder


def add_pictures(encoder: Path, pictures: Path, out: Path) -> Path:
    """A copy of a bundle, with a memory of `labelled_folder` and `DESCRIPTIONS` that ranks by WCA."""
    from rar.export.memory.build import MemorySource, build_memory
    from rar.export.pictures.labelled import read_images
    from rar.runtime import Bundle

    shutil.copytree(encoder, out)
    source = MemorySource(images=read_images(pictures), descriptions=DESCRIPTIONS)
    build_memory(Bundle.open(out), source, dim="8", text_weight=0.0, rank="wca", provider="cpu")
    return out


@pytest.fixture(scope="session")
def pictures_bundle(tiny_bundle: Path, labelled_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Pictures of four classes, three of them with descriptions; ranks by WCA. Shared: copy before writing."""
    return add_pictures(tiny_bundle, labelled_folder, tmp_path_factory.mktemp("pictures") / "bundle")


@pytest.fixture(scope="session")
def openclip_pictures(openclip_bundle: Path, labelled_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As `pictures_bundle`, with an encoder that PyTorch has too."""
    return add_pictures(openclip_bundle, labelled_folder, tmp_path_factory.mktemp("openclip-pictures") / "bundle")


@pytest.fixture(scope="session")
def names_bundle(tiny_bundle: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Class names only. Shared: copy before writing."""
    from rar.export.memory.build import MemorySource, build_memory
    from rar.runtime import Bundle

    out = tmp_path_factory.mktemp("names") / "bundle"
    shutil.copytree(tiny_bundle, out)
    build_memory(Bundle.open(out), MemorySource(classes=sorted(CLASS_PHOTOS)), dim="none", provider="cpu")
    return out


@pytest.fixture(scope="session")
def class_pictures(labelled_folder: Path) -> list[Path]:
    """The twelve pictures of `labelled_folder`, sorted by class."""
    return sorted(path for path in labelled_folder.rglob("*") if path.is_file())


@pytest.fixture
def writable(tmp_path: Path) -> Callable[[Path], Path]:
    """Copies a shared bundle to a folder of this test's own."""

    def copy(bundle: Path) -> Path:
        return Path(shutil.copytree(bundle, tmp_path / "own"))

    return copy


@pytest.fixture(scope="session")
def edit_manifest() -> Callable[[Path, Callable[[dict[str, Any]], None]], None]:
    """Rewrites a bundle's manifest by a function of it."""

    def edit(bundle: Path, change: Callable[[dict[str, Any]], None]) -> None:
        path = bundle / "bundle.json"
        manifest = json.loads(path.read_text(encoding="utf-8"))
        change(manifest)
        path.write_text(json.dumps(manifest), encoding="utf-8")

    return edit


@pytest.fixture(scope="session")
def replace_file(edit_manifest: Callable[..., None]) -> Callable[[Path, str, str, bytes], Path]:
    """Replaces a component's file and its size and hash in the manifest, as a forger would."""

    def replace(bundle: Path, component: str, name: str, content: bytes) -> Path:
        written: list[Path] = []

        def record(manifest: dict[str, Any]) -> None:
            entry = manifest["components"][component]["files"][name]
            entry.update(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
            written.append(bundle / entry["path"])

        edit_manifest(bundle, record)
        written[0].unlink()  # a new file: the old one may be mapped
        written[0].write_bytes(content)
        return written[0]

    return replace


@pytest.fixture(scope="session")
def noise() -> Callable[..., np.ndarray[Any, np.dtype[np.uint8]]]:
    """Seeded uint8 RGB noise [height, width, 3]."""

    def make(height: int, width: int, seed: int = 0) -> np.ndarray[Any, np.dtype[np.uint8]]:
        return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)

    return make


@pytest.fixture(scope="session")
def no_gpu() -> None:
    """Skips a test that is about machines without a GPU where there is one."""
    from rar.runtime import ProviderError
    from rar.runtime.session.cuda.gpu import find_gpu

    try:
        found = find_gpu()
    except ProviderError:
        return
    pytest.skip(f"this is about machines without a GPU, and here is a {found.name}")


@pytest.fixture(scope="session")
def data_root() -> Path:
    """Where the development data lie."""
    root = Path(os.environ.get("RAR_DATA") or Path(__file__).resolve().parents[1] / ".." / "shared").resolve()
    if not root.is_dir():
        pytest.skip(f"no development data at {root}; set RAR_DATA")
    return root


@pytest.fixture(scope="session")
def grocery(data_root: Path) -> Path:
    """The Grocery Store data set."""
    if not (data_root / "grocery" / "train.csv").is_file():
        pytest.skip(f"no grocery data set in {data_root}; set RAR_DATA")
    return data_root / "grocery"


@pytest.fixture(scope="session")
def imagenet_samples(data_root: Path) -> Path:
    """600 photos of ImageNet's classes."""
    if not (data_root / "imagenet-samples" / "labels.csv").is_file():
        pytest.skip(f"no imagenet-samples in {data_root}; set RAR_DATA")
    return data_root / "imagenet-samples"


@pytest.fixture(autouse=True)
def _no_leftovers(tmp_path: Path) -> Iterator[None]:
    """After each test: no staging folder or temporary file has been left beside what it wrote."""
    yield
    left = [
        path
        for path in tmp_path.rglob(".*")
        if path.name.startswith((".memory-", ".clip-", ".mllm-", ".engines-", ".bundle.json."))
    ]
    assert not left
