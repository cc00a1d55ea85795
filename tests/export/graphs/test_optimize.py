"""Traced graphs are simplified to what PyTorch's own exporter makes of them."""

from __future__ import annotations

import warnings

import onnx_ir
import onnxscript.optimizer
import torch

from rar.export.graphs.optimize import optimize


class Layers(torch.nn.Module):
    """What decoders consist of: a norm, rotary positions, products, a shape that is computed, what has no effect."""

    def __init__(self) -> None:
        super().__init__()
        self.norm, self.linear = torch.nn.RMSNorm(8), torch.nn.Linear(8, 8)
        self.patches = torch.nn.Conv1d(8, 8, 1)

    def forward(self, x: torch.Tensor, positions: torch.Tensor) -> torch.Tensor:
        angles = positions[..., None].float() * torch.tensor([1.0, 0.5, 0.25, 0.125])
        turn = torch.cat([angles, angles], -1)
        for _ in range(3):
            y = self.norm(x)
            y = y * turn.cos() + torch.cat([-y[..., 4:], y[..., :4]], -1) * turn.sin()
            y = self.linear(y).reshape(*y.shape[:2], 2, 4).transpose(1, 2).transpose(1, 2)
            x = x + self.patches(y.reshape(x.shape).mT).mT * 1 + 0
        return x.to(torch.float32).squeeze(-1)


def test_the_graph_is_the_same_as_of_all_rules() -> None:
    both = torch.export.Dim.DYNAMIC
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        program = torch.onnx.export(
            Layers().eval(),
            (torch.zeros(2, 5, 8), torch.zeros(2, 5, dtype=torch.int64)),
            dynamo=True,
            opset_version=20,
            dynamic_shapes=({0: both, 1: both}, {0: both, 1: both}),
            verbose=False,
            optimize=False,
        )
    assert program is not None
    ours, all_rules = (onnx_ir.from_proto(program.model_proto) for _ in range(2))
    before = len(list(ours.graph))
    optimize(ours)
    onnxscript.optimizer.optimize(all_rules)
    assert onnx_ir.to_proto(ours) == onnx_ir.to_proto(all_rules)
    assert len(list(ours.graph)) < before
