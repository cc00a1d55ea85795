"""A tiny model that sees by an encoder's features, as the starter does, and an encoder that gives them."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from tiny_mllm import LLAMA, byte_level

from rar.export.mllm.decoder import Decoder
from rar.export.mllm.model import Mllm
from rar.export.pictures.labelled import LabelledImage, read_images
from rar.runtime import Bundle
from rar.runtime.encoder.clip import Clip

DIM, TOKENS = int(LLAMA["hidden_size"]), 4


@pytest.fixture(scope="session")
def clip(tiny_bundle: Path) -> Clip:
    return Clip(Bundle.open(tiny_bundle), "cpu", 1)


@pytest.fixture(scope="session")
def pictures(labelled_folder: Path) -> list[LabelledImage]:
    """Four classes of three pictures."""
    return read_images(labelled_folder)


@pytest.fixture(scope="session")
def features_bundle(
    tiny_bundle: Path, replace_file: Callable[..., Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """The tiny encoder with its embedding as a second output. Shared: copy before writing."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    own = Path(shutil.copytree(tiny_bundle, tmp_path_factory.mktemp("features") / "bundle"))
    visual = onnx.load(str(own / "clip" / "visual.onnx"), load_external_data=False)
    visual.graph.initializer.append(numpy_helper.from_array(torch.tensor([1]).numpy(), "rar_axes"))
    visual.graph.node.append(helper.make_node("Unsqueeze", ["image_embeds", "rar_axes"], ["image_features"]))
    visual.graph.output.append(helper.make_tensor_value_info("image_features", TensorProto.FLOAT, ["N", 1, 32]))
    replace_file(own, "clip", "visual.onnx", visual.SerializeToString())
    return own


class Projector(torch.nn.Module):
    """float32 [N, 1, 32] -> float32 [N, 4, 64], with dropout, as the starter's has."""

    def __init__(self) -> None:
        super().__init__()
        self.drop, self.widen = torch.nn.Dropout(0.2), torch.nn.Linear(32, TOKENS * DIM)

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        found: torch.Tensor = self.widen(self.drop(features)).unflatten(2, (TOKENS, DIM)).flatten(1, 2)
        return found


@pytest.fixture(scope="session")
def make_seeing() -> Callable[[], Mllm]:
    """A new model of the same weights at each call: a fine-tuning changes it."""
    import transformers

    tokenizer = byte_level(["<|im_start|>", "<|im_end|>", "<image>"])

    def make() -> Mllm:
        torch.manual_seed(0)
        size = tokenizer.get_vocab_size()
        model = transformers.LlamaForCausalLM(transformers.LlamaConfig(**LLAMA, vocab_size=size)).eval()
        projector = Projector().eval()

        def reference_inputs(ids: torch.Tensor, features: torch.Tensor) -> dict[str, Any]:
            embeds = model.get_input_embeddings()(ids)
            embeds = embeds.masked_scatter((ids == 2).unsqueeze(-1), projector(features))
            return {"inputs_embeds": embeds, "attention_mask": torch.ones_like(ids)}

        return Mllm(
            architecture="seeing",
            source="a test's",
            vision=projector,
            vision_shape=(1, 32),
            vision_input="image_features",
            embed=model.get_input_embeddings(),
            decoder=Decoder(model.model, model.lm_head),
            tokenizer=tokenizer,
            template=[
                {"ids": [0]},
                "user\n",
                {"slot": "instruction"},
                {"slot": "image"},
                {"slot": "question"},
                {"ids": [1]},
                "\nassistant\n",
            ],
            exemplars={
                "template": [
                    {"ids": [0]},
                    "user\n",
                    {"slot": "instruction"},
                    {"slot": "exemplars"},
                    {"slot": "image"},
                    {"slot": "question"},
                    {"ids": [1]},
                    "\nassistant\n",
                ],
                "each": [{"slot": "name"}, {"slot": "image"}],
            },
            stop_ids=[1],
            image_token=2,
            image_tokens=TOKENS,
            context=512,
            reference=model,
            reference_inputs=reference_inputs,
        )

    return make
