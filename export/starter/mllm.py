"""The default MLLM, from parts that install as Python packages: EfficientNet's features, a projector, SmolLM2-135M.

The picture tower is the retrieval encoder itself. The projector turns its second output, the last feature map in 3 x 3
parts, into four tokens. So a picture passes the backbone once for retrieval and for ranking.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from rar.runtime.errors import ExportError
from rar.runtime.rank.mllm.prompt import Mode

from ..mllm.decoder import Decoder
from ..mllm.model import Mllm, Piece
from ..mllm.template import plain_tokenizer
from .encoder import CHANNELS
from .packages import language_file

# The prompt it is trained with: short, because each of its tokens costs time.
MODES: Mapping[Mode, Mapping[str, str]] = {
    "likelihood": {"instruction": "", "question": "What is it?", "answer": ""},
}

PARTS = 9  # of the encoder's `image_features`
_TOKENS, _HEADS, _WIDTH, _DROPOUT = 4, 8, 128, 0.4
# An exemplar, as short as a prompt.
_EXEMPLAR: Sequence[Piece] = ({"slot": "name"}, ": ", {"slot": "image"}, "\n")
# A token that SmolLM2 reserves for source files; it stands for the picture in the reference's ids.
_PICTURE = "<filename>"


class Projector(torch.nn.Module):
    """Maps features to picture tokens: each head pools the parts with its own weights, an MLP makes the tokens.

    float32 [N, 9, 1280] -> float32 [N, 4, 576].
    """

    def __init__(self, dim: int, scale: float) -> None:
        super().__init__()
        self.before = torch.nn.LayerNorm(CHANNELS)
        self.weigh = torch.nn.Linear(CHANNELS, _HEADS)
        self.narrow = torch.nn.Linear(CHANNELS, _WIDTH)
        self.widen = torch.nn.Linear(_HEADS * _WIDTH, _TOKENS * dim)
        self.after = torch.nn.LayerNorm(dim)
        # Tokens start with the length of the language model's own embeddings.
        self.scale = torch.nn.Parameter(torch.tensor(float(scale)))
        self.drop = torch.nn.Dropout(_DROPOUT)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        """See the class."""
        parts = self.drop(self.before(features))
        pooled = self.weigh(parts).softmax(1).transpose(1, 2) @ self.narrow(parts)
        tokens = self.widen(self.drop(torch.nn.functional.gelu(pooled.flatten(1))))
        embeddings: torch.Tensor = self.after(tokens.unflatten(1, (_TOKENS, -1))) * self.scale
        return embeddings


def load_mllm(folder: Path | None = None) -> Mllm:
    """The starter's MLLM as PyTorch modules, with an untrained projector (`packages.ADAPTER` holds the trained one).

    Args:
        folder: The language model and its tokenizer in the transformers layout; None reads the package's GGUF, which
            takes tens of seconds.

    Raises:
        ExportError: A package is missing.
    """
    model, tokenizer = _language_model(folder)
    dim = model.config.hidden_size
    torch.manual_seed(0)
    projector = Projector(dim, float(model.get_input_embeddings().weight.detach().std())).eval()
    begin, end, picture = (tokenizer.convert_tokens_to_ids(t) for t in ("<|im_start|>", "<|im_end|>", _PICTURE))

    def reference_inputs(ids: torch.Tensor, features: torch.Tensor) -> Mapping[str, Any]:
        embeds = model.get_input_embeddings()(ids)
        places = (ids == picture).unsqueeze(-1)
        return {
            "inputs_embeds": embeds.masked_scatter(places, projector(features)),
            "attention_mask": torch.ones_like(ids),
        }

    # SmolLM2's chat without its default system message, which only lengthens each prompt.
    before: list[Piece] = [{"ids": [begin]}, "user\n", {"slot": "instruction"}]
    behind: list[Piece] = [{"slot": "image"}, "\n", {"slot": "question"}, {"ids": [end]}, "\n", {"ids": [begin]}]
    behind.append("assistant\n")
    return Mllm(
        architecture="starter",
        source="starter: EfficientNet-Lite2's features, a projector and SmolLM2-135M-Instruct",
        vision=projector,
        vision_shape=(PARTS, CHANNELS),
        vision_input="image_features",
        embed=model.get_input_embeddings(),
        decoder=Decoder(model.model, model.lm_head),
        tokenizer=plain_tokenizer(tokenizer),
        template=[*before, *behind],
        exemplars={"template": [*before, {"slot": "exemplars"}, *behind], "each": list(_EXEMPLAR)},
        stop_ids=[end],
        image_token=picture,
        image_tokens=_TOKENS,
        context=model.config.max_position_embeddings,
        reference=model,
        reference_inputs=reference_inputs,
    )


def _language_model(saved: Path | None) -> tuple[Any, Any]:
    import transformers

    if saved is not None:
        model = transformers.AutoModelForCausalLM.from_pretrained(saved, dtype=torch.float32)
        return model.eval(), transformers.AutoTokenizer.from_pretrained(saved)
    folder, name = language_file().parent, language_file().name
    log = transformers.utils.logging
    level = log.get_verbosity()
    log.set_verbosity_error()  # advice on tokenizers, which does not apply to GGUF
    try:
        # The bar of the conversion shows whether or not there is a terminal.
        with contextlib.redirect_stderr(io.StringIO()):
            tokenizer = transformers.AutoTokenizer.from_pretrained(folder, gguf_file=name)
            model = transformers.AutoModelForCausalLM.from_pretrained(folder, gguf_file=name, dtype=torch.float32)
    except ImportError as error:
        raise ExportError(f"{error}; install the `starter` extra") from error
    finally:
        log.set_verbosity(level)
    return model.eval(), tokenizer
