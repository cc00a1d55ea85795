"""Simplifies a traced graph as PyTorch's exporter would, without the step that takes most of its time.

`torch.onnx.export` leaves this to `onnxscript.optimizer`, which does the same in the same order for opsets below 23.
One of its rules makes one split of two slices. It compares every node of the graph with every other: in a decoder of 30
layers that was half of the export. Slices that go to the end of a dimension, as all of ours, it never takes.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import onnx_ir as ir

_ROUNDS = 2


def optimize(model: ir.Model) -> None:
    """Folds constants, rewrites and removes nodes, and gives every value a name of its own; in place.

    Args:
        model: What `torch.onnx.export(..., optimize=False)` made.
    """
    import onnx_ir.passes.common as passes
    from onnxscript import optimizer, rewriter
    from onnxscript.rewriter.rules.common import slice_split_rule

    rules = [rule for rule in rewriter._DEFAULT_REWRITE_RULES if rule is not slice_split_rule]
    unused: tuple[Any, ...] = (
        passes.RemoveUnusedNodesPass(),
        passes.RemoveUnusedFunctionsPass(),  # type: ignore[no-untyped-call]
        passes.RemoveUnusedOpsetsPass(),
    )
    passes.InlinePass()(model)
    for _ in range(_ROUNDS):
        changed = bool(optimizer.fold_constants(model, onnx_shape_inference=True).modified)
        changed |= rewriter.RewritePass(rules)(model).modified
        for removal in unused:
            changed |= removal(model).modified
        if not changed:
            break
    for change in (
        passes.RemoveUnusedNodesPass(),
        passes.LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0),
        passes.LiftSubgraphInitializersToMainGraphPass(),
        passes.DeduplicateInitializersPass(),
        passes.CommonSubexpressionEliminationPass(),
        passes.OutputFixPass(),
        passes.NameFixPass(),
    ):
        change(model)
