"""Traces the layers of a deep model once a kind, not once each.

PyTorch's exporter takes each layer of a transformer by itself, though they differ in their weights alone: thirty layers
cost thirty times the seconds of one. Here a layer is one node while the model is traced. Each kind of layer is traced
by itself, and its nodes take the place of every layer of that kind, with the layer's own weights.

Two layers are of one kind if their modules have the same types, settings and shapes of weights, and if they are called
with the same settings and inputs of the same shapes. An export compares its graphs with the model afterwards.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import MethodType
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch.utils import _pytree as trees

from .optimize import optimize
from .past import Past

if TYPE_CHECKING:
    import onnx_ir as ir

# A module, example inputs, and the dynamic dimensions of each -> its graph.
Trace: TypeAlias = Callable[[torch.nn.Module, Sequence[torch.Tensor], Sequence[tuple[int, ...]]], "ir.Model"]

_DOMAIN = "rar.layers"
# Fewer layers of a kind stay as they are: a trace of their own costs as much.
_LEAST = 5
# Where modules keep the number of their layer, which is no part of its kind.
_NUMBERS = ("layer_idx", "layer_number", "layer_id")
_SIMPLE = (int, float, str, bool, type(None), torch.dtype)


@dataclass(frozen=True)
class _Call:
    """How a layer was called: the tensors it takes, and all else about it.

    Attributes:
        tensors: The arguments that are tensors, and then the cache's for the layer's slots.
        leaves: All arguments in order.
        spec: How they are nested.
    """

    tensors: list[torch.Tensor]
    leaves: list[Any]
    spec: trees.TreeSpec


@dataclass(frozen=True)
class _Kind:
    """Layers that differ in their weights alone.

    Attributes:
        layer: The first of them.
        call: How it was called.
        filled: How many keys and values it put into the cache.
        outputs: Dtype and shape of each tensor that it returned or put into the cache; a dynamic dimension is that of
            an input: (its number, its dimension).
        returned: What it returned, with the number of the output in the place of each tensor.
    """

    layer: torch.nn.Module
    call: _Call
    filled: int
    outputs: list[tuple[torch.dtype, list[int | tuple[int, int]]]]
    returned: Any


class _Alone(torch.nn.Module):
    """A layer that takes tensors alone and returns tensors alone."""

    def __init__(self, kind: _Kind) -> None:
        super().__init__()
        self.layer, self.kind = kind.layer, kind

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The layer's outputs, and then its new keys and values."""
        call, given = self.kind.call, iter(tensors)
        leaves = [next(given) if isinstance(leaf, torch.Tensor) else leaf for leaf in call.leaves]
        result, new = _run(self.layer, leaves, call.spec, list(given))
        return (*_flat(result), *new)


class Layers:
    """The layers of a model, each a node of its own inside `opaque`.

    Args:
        model: The model, in eval mode.

    Attributes:
        found: Whether there are layers of one kind.
    """

    def __init__(self, model: torch.nn.Module) -> None:
        self._layers = _repeated(model)
        self.found = bool(self._layers)
        self._names = {id(weight): name for name, weight in _weights(model)}
        self._kinds: dict[Any, _Kind | None] = {}
        self._calls: list[tuple[torch.nn.Module, _Kind]] = []

    @contextmanager
    def opaque(self) -> Iterator[None]:
        """While the model is traced."""
        try:
            for layer, kind in self._layers:
                layer.forward = self._node_of(layer, kind)
            yield
        finally:
            for layer, _ in self._layers:
                vars(layer).pop("forward", None)

    def put(self, model: ir.Model, trace: Trace) -> bool:
        """Puts the layers' own nodes in the places of theirs.

        Args:
            model: The graph that was traced.
            trace: Makes the graph of one layer.

        Returns:
            Whether there are any.
        """
        import onnx_ir.passes.common as passes

        bodies: dict[int, _Body] = {}
        for node in [node for node in model.graph if node.domain == _DOMAIN]:
            layer, kind = self._calls[node.attributes["call"].as_int()]
            if id(kind) not in bodies:
                tensors = kind.call.tensors
                dynamic = [
                    tuple(dim for dim, size in enumerate(tensor.shape) if _is_dynamic(size)) for tensor in tensors
                ]
                graph = trace(_Alone(kind), [_example(tensor) for tensor in tensors], dynamic)
                bodies[id(kind)] = _Body(graph, kind.layer, f"layer_{len(bodies)}", model)
            bodies[id(kind)].take_place_of(node, layer, self._names, model)
        passes.InlinePass()(model)
        model.opset_imports.pop(_DOMAIN, None)
        return bool(bodies)

    def _node_of(self, layer: torch.nn.Module, static: Any) -> Callable[..., Any]:
        """What stands for a layer's `forward`."""

        def call(*args: Any, **settings: Any) -> Any:
            leaves, spec = trees.tree_flatten((args, settings))
            key = (static, str(spec), tuple(map(_described, leaves)))
            if key not in self._kinds:
                self._kinds[key] = _kind(layer, leaves, spec)
            kind = self._kinds[key]
            if kind is None:
                return type(layer).forward(layer, *args, **settings)
            cache = _cache(leaves)
            inputs = _tensors(leaves, kind.filled)
            self._calls.append((layer, kind))
            outputs = torch.onnx.ops.symbolic_multi_out(
                f"{_DOMAIN}::Layer",
                inputs,
                {"call": len(self._calls) - 1},
                dtypes=[dtype for dtype, _ in kind.outputs],
                shapes=[
                    [size if isinstance(size, int) else inputs[size[0]].shape[size[1]] for size in shape]
                    for _, shape in kind.outputs
                ],
                version=1,
            )
            if cache is not None:
                cache.new += outputs[len(outputs) - kind.filled :]
            return trees.tree_map(lambda place: None if place is None else outputs[place], kind.returned)

        return call


class _Body:
    """A kind's graph as a function of a model, whose last inputs are weights.

    Args:
        graph: The graph; it is taken apart.
        layer: The kind's first layer.
        name: The function's name.
        model: Takes the function, and the constants that all layers of the kind share.
    """

    def __init__(self, graph: ir.Model, layer: torch.nn.Module, name: str, model: ir.Model) -> None:
        import onnx_ir as ir

        self.name, inner = name, graph.graph
        known = {f"layer.{weight}" for weight in _named(layer)}
        own = [value for key, value in inner.initializers.items() if key in known]
        self.weights = [str(value.name).removeprefix("layer.") for value in own]
        _become_inputs(inner, own)
        # Only now: what it folds must not be made of one layer's weights.
        optimize(graph)
        shared = list(inner.initializers.values())
        self.shared = [_initializer(model, f"{name}.{value.name}", value.const_value) for value in shared]
        _become_inputs(inner, shared)
        for node in inner:
            for value in node.outputs:
                # The names of dynamic dimensions are this graph's, and mean others in the model's.
                if value.shape is not None:
                    value.shape = ir.Shape([size if isinstance(size, int) else None for size in value.shape])
        function = ir.Function(_DOMAIN, name, graph=inner, attributes=[])
        model.functions[function.identifier()] = function
        for domain, version in graph.opset_imports.items():
            model.opset_imports.setdefault(domain, version)

    def take_place_of(self, node: ir.Node, layer: torch.nn.Module, names: dict[int, str], model: ir.Model) -> None:
        """Makes a layer's node a call of the function, with the layer's weights by their names in the model."""
        from onnx_ir.tensor_adapters import TorchTensor

        held = _named(layer)
        weights = [held[weight] for weight in self.weights]
        values = [_initializer(model, names[id(weight)], TorchTensor(weight)) for weight in weights]
        node.op_type = self.name
        node.attributes.clear()
        first = len(node.inputs)
        node.resize_inputs(first + len(values) + len(self.shared))
        for place, value in enumerate((*values, *self.shared), first):
            node.replace_input_with(place, value)


def _become_inputs(graph: ir.Graph, values: Sequence[ir.Value]) -> None:
    for value in values:
        del graph.initializers[str(value.name)]
        value.const_value = None
        graph.inputs.append(value)


def _initializer(model: ir.Model, name: str, tensor: Any) -> ir.Value:
    """A model's constant of this name, which is added if it is not there."""
    import onnx_ir as ir

    graph = model.graph
    if name not in graph.initializers:
        value = ir.Value(name=name, shape=tensor.shape, type=ir.TensorType(tensor.dtype), const_value=tensor)
        graph.initializers[name] = value
    return graph.initializers[name]


def _repeated(model: torch.nn.Module) -> list[tuple[torch.nn.Module, Any]]:
    """The layers of the model's lists that have enough of their kind, each with what tells its kind by the module."""
    found: list[tuple[torch.nn.Module, Any]] = []
    inside: set[int] = set()
    for module in model.modules():
        if not isinstance(module, torch.nn.ModuleList) or id(module) in inside:
            continue
        layers = [layer for layer in module if layer is not None and "forward" not in vars(layer)]
        kinds = [_static(layer) for layer in layers]
        often = Counter(kinds)
        for layer, kind in zip(layers, kinds, strict=True):
            if often[kind] >= _LEAST and id(layer) not in inside:
                found.append((layer, kind))
                inside.update(map(id, layer.modules()))
    return found


def _static(layer: torch.nn.Module) -> Any:
    """What layers of one kind have in common as modules."""
    own = vars(torch.nn.Module())
    settings = tuple(
        (
            name,
            type(part),
            tuple((key, _setting(value)) for key, value in sorted(vars(part).items()) if _tells(key, value, own)),
        )
        for name, part in layer.named_modules()
    )
    return settings, tuple((name, tuple(weight.shape), weight.dtype) for name, weight in _weights(layer))


def _tells(name: str, value: Any, own: Mapping[str, Any]) -> bool:
    """Whether an attribute tells a kind: not what every module has, but for its mode and hooks on it."""
    if name in own:
        return name == "training" or ("hook" in name and bool(value))
    return name not in _NUMBERS


def _setting(value: Any) -> Any:
    """What two layers must have in common: simple values, and of others the very same one."""
    if isinstance(value, (list, tuple)):
        return tuple(map(_setting, value))
    if isinstance(value, partial):
        return id(value.func), _setting(value.args), _setting(tuple(sorted(value.keywords.items())))
    if isinstance(value, MethodType):
        return id(value.__func__)
    return value if isinstance(value, _SIMPLE) else id(value)


def _weights(module: torch.nn.Module) -> Iterator[tuple[str, torch.Tensor]]:
    yield from module.named_parameters()
    yield from module.named_buffers()


def _named(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """All names of weights: which of two for one weight the exporter takes is not said."""
    return {
        **dict(module.named_buffers(remove_duplicate=False)),
        **dict(module.named_parameters(remove_duplicate=False)),
    }


def _described(leaf: Any) -> Any:
    """What of an argument tells a kind."""
    if isinstance(leaf, torch.Tensor):
        return leaf.dtype, tuple(("dynamic", _hint(size)) if _is_dynamic(size) else size for size in leaf.shape)
    return Past if isinstance(leaf, Past) else _setting(leaf)


def _kind(layer: torch.nn.Module, leaves: list[Any], spec: trees.TreeSpec) -> _Kind | None:
    """Runs a layer once, to see what it returns; nothing uses what it computes, so it does not stay in the graph.

    None where that cannot be said by tensors alone, and by the sizes of what it takes.
    """
    cache, forward = _cache(leaves), type(layer).forward.__get__(layer)
    past = [] if cache is None else cache.past[len(cache.new) :]
    result, new = _run(forward, leaves, spec, past)
    outputs, tensors = [*_flat(result), *new], _tensors(leaves, len(new))
    where = {str(size): (i, dim) for i, tensor in enumerate(tensors) for dim, size in enumerate(tensor.shape)}
    if any(_is_dynamic(leaf) for leaf in leaves) or not all(isinstance(output, torch.Tensor) for output in outputs):
        return None
    sizes = [size for output in outputs for size in output.shape if _is_dynamic(size)]
    # PyTorch takes a size of 0 or 1 for a constant.
    if any(str(size) not in where for size in sizes) or any(
        _hint(size) < 2 for tensor in tensors for size in tensor.shape if _is_dynamic(size)
    ):
        return None
    shapes = [
        (output.dtype, [where[str(size)] if _is_dynamic(size) else int(size) for size in output.shape])
        for output in outputs
    ]
    numbers = iter(range(len(outputs)))
    returned = trees.tree_map(lambda value: None if value is None else next(numbers), result)
    return _Kind(layer, _Call(tensors, leaves, spec), len(new), shapes, returned)


def _run(
    layer: Callable[..., Any], leaves: Sequence[Any], spec: trees.TreeSpec, past: Sequence[torch.Tensor]
) -> tuple[Any, list[torch.Tensor]]:
    """Calls a layer with a cache of its own: what it returns, and the new keys and values."""
    own = Past(past)
    args, settings = trees.tree_unflatten([own if isinstance(leaf, Past) else leaf for leaf in leaves], spec)
    return layer(*args, **settings), own.new


def _flat(result: Any) -> list[torch.Tensor]:
    return [value for value in trees.tree_leaves(result) if value is not None]


def _cache(leaves: Sequence[Any]) -> Past | None:
    return next((leaf for leaf in leaves if isinstance(leaf, Past)), None)


def _tensors(leaves: Sequence[Any], filled: int) -> list[torch.Tensor]:
    """The arguments that are tensors, and those of the cache that a layer is about to fill up."""
    cache = _cache(leaves)
    held = [] if cache is None else cache.past[len(cache.new) : len(cache.new) + filled]
    return [*(leaf for leaf in leaves if isinstance(leaf, torch.Tensor)), *held]


def _is_dynamic(size: Any) -> bool:
    return isinstance(size, torch.SymInt)


def _hint(size: Any) -> int:
    """The size that a dynamic dimension has in the example of the trace."""
    return int(size.node.hint)


def _example(tensor: torch.Tensor) -> torch.Tensor:
    """Zeros of the sizes in the example of the trace."""
    sizes = [_hint(size) if _is_dynamic(size) else size for size in tensor.shape]
    return torch.zeros(sizes, dtype=tensor.dtype)
