"""The starter's two towers as PyTorch modules: what its stored graphs are made from (`store`).

Pictures: EfficientNet-Lite2 (ImageNet top-1 77 %). Texts: all-MiniLM-L6-v2. They are joined without training. A
picture's embedding is the backbone's penultimate features, concatenated with the text vector of the classifier's
prediction (the convex combination of class-name vectors of ConSE, arXiv 1312.5650). A text's embedding is its sentence
vector, with zeros for the features. So cosines between pictures compare features, and cosines between picture and text
compare meaning.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
from PIL import Image

from rar.runtime.errors import ExportError

from ..encoder.model import TEMPLATES, DualEncoder
from .classes import imagenet_classes
from .encoder import (
    CHANNELS,
    MEAN,
    OUTPUTS,
    SHORTEST_EDGE,
    SIZE,
    SOURCE,
    STD,
    TEXT_LENGTH,
    preprocess,
    text_tokenizer,
)  # fmt: skip
from .packages import STORED, picture_weights, text_folder

if TYPE_CHECKING:
    import torch

# Multiplies the logits before the softmax: ConSE's average favours names that lie between the likely ones.
# 2 gives 88.2 % of the ImageNet samples' names, 1 gives 86.3 %, the classifier itself 88.7 %.
_SHARPEN = 2.0
# The text part's share of a picture's squared length. Between pictures it only blurs the features (Grocery 1-NN
# 64.0 at 0, 62.7 at 0.1, 58.9 at 0.5), and for texts any share gives the same order. So it is small.
_TEXT_SHARE = 0.01


def load() -> DualEncoder:
    """The starter's two towers as PyTorch modules, with the stored vectors of the classifier's names.

    Raises:
        ExportError: A package is missing.
    """
    import torch

    text, tokenize = _text_tower()
    return DualEncoder(
        source=SOURCE,
        visual=picture_tower(torch.from_numpy(np.load(STORED / "names.npy", allow_pickle=False))),
        text=text,
        preprocess=preprocess(),
        tokenizer=text_tokenizer(),
        clean="none",
        reference_preprocess=reference_preprocess,
        reference_tokenize=tokenize,
        visual_outputs=OUTPUTS,
    )


def name_vectors() -> npt.NDArray[np.float32]:
    """The sentence vectors of the classifier's names: float32 [1000, 384]."""
    import torch

    text, tokenize = _text_tower()
    names, _ = imagenet_classes()
    prompts = [TEMPLATES[0].replace("{}", name) for name in names]
    with torch.inference_mode():
        vectors = [text.sentence(torch.from_numpy(tokenize(prompts[i : i + 100]))) for i in range(0, len(prompts), 100)]
    return np.asarray(torch.cat(vectors).numpy())


def _text_tower() -> tuple[Any, Callable[[Sequence[str]], npt.NDArray[np.int64]]]:
    """MiniLM as a module, and its own tokenizer."""
    import torch
    import transformers

    language = transformers.AutoModel.from_pretrained(text_folder()).eval()
    fast = transformers.AutoTokenizer.from_pretrained(text_folder())

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

    def tokenize(texts: Sequence[str]) -> npt.NDArray[np.int64]:
        encoded = fast(list(texts), padding=True, truncation=True, max_length=TEXT_LENGTH, return_tensors="np")
        return np.asarray(encoded["input_ids"], np.int64)

    return Text().eval(), tokenize


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
            # 3 x 3 equal parts, which the MLLM sees; their mean is the classifier's own pooling.
            parts = torch.nn.functional.avg_pool2d(self.network.extract_features(pixels), 3).flatten(2).transpose(1, 2)
            pooled = parts.mean(1)
            likely = torch.softmax(_SHARPEN * self.network._fc(pooled), -1)
            seen = torch.nn.functional.normalize(pooled, dim=-1) * (1 - _TEXT_SHARE) ** 0.5
            meant = torch.nn.functional.normalize(likely @ self.names, dim=-1) * _TEXT_SHARE**0.5
            return torch.cat([seen, meant], -1), parts

    return Visual().eval()


def backbone() -> Any:
    """EfficientNet-Lite2 with its ImageNet weights, in eval mode."""
    import torch

    try:
        from efficientnet_lite_pytorch import EfficientNet
    except ImportError as error:
        raise ExportError("efficientnet-lite-pytorch is not installed; install the `dev` extra") from error
    network = EfficientNet.from_name("efficientnet-lite2")
    network.load_state_dict(torch.load(picture_weights(), map_location="cpu", weights_only=True))
    return network.eval()


def reference_preprocess(image: Image.Image) -> npt.NDArray[np.float32]:
    """The classifier's evaluation transform, written with torchvision."""
    from torchvision import transforms

    steps = transforms.Compose(
        [
            transforms.Resize(SHORTEST_EDGE, transforms.InterpolationMode.BICUBIC),
            transforms.CenterCrop(SIZE),
            transforms.ToTensor(),
            transforms.Normalize((MEAN,) * 3, (STD,) * 3),
        ]
    )
    return np.asarray(steps(image).numpy())
