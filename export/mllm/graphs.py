"""The three fp32 graphs of a multimodal LLM."""

from __future__ import annotations

from pathlib import Path

import torch

from ..graphs import trace
from .decoder import attention
from .model import Mllm


def export_graph(mllm: Mllm, name: str, path: Path) -> None:
    """Writes one of `GRAPHS` at fp32, with the inputs and outputs that the runtime relies on.

    Raises:
        ExportError: PyTorch cannot export it.
    """
    if name == "vision":
        example = torch.zeros(2, *mllm.vision_shape)
        trace.export_onnx(
            mllm.vision, [example], path, inputs=[mllm.vision_input], outputs=["image_embeds"], dynamic=[(0,)]
        )
    elif name == "embed":
        ids = torch.zeros(2, 3, dtype=torch.int64)
        trace.export_onnx(mllm.embed, [ids], path, inputs=["input_ids"], outputs=["inputs_embeds"], dynamic=[(0, 1)])
    else:
        decoder, form = mllm.decoder, mllm.form
        last = decoder.position_dims > 1
        # Each kind of layer is traced outside of the decoder's own `forward` too.
        with attention(decoder.language):
            trace.export_onnx(
                decoder,
                decoder.example(),
                path,
                inputs=[
                    "inputs_embeds",
                    "attention_mask",
                    "position_ids",
                    "logit_positions",
                    *form.names("past_key_values"),
                ],
                outputs=["logits", *form.names("present")],
                dynamic=[(0, 1), (0, 2, 3), (1, 2) if last else (0, 1), (0, 1), [(0, 2)] * (2 * decoder.layers)],
            )
