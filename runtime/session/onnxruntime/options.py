"""Options of ONNX Runtime's providers and of OpenVINO: this package's own, then a bundle's, then the caller's.

Names and values are the library's, as strings. A bundle may come from a stranger, so only those of its options are
accepted that cannot name a file or an address.
"""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ...bundle.manifest import Bundle
from ...errors import BundleError, InputError
from ..tensorrt.stored import Profile

Options = Mapping[str, Mapping[str, str]]

_DEFAULTS: Options = {
    "cpu": {},
    # No TF32 in place of fp32; an arena that grows by the requested size, not by doubling; no search per batch size.
    "cuda": {"use_tf32": "0", "arena_extend_strategy": "kSameAsRequested", "cudnn_conv_algo_search": "HEURISTIC"},
    "tensorrt": {"trt_engine_cache_enable": "1", "trt_timing_cache_enable": "1"},
    "tensorrt-rtx": {},
    "openvino": {},  # its session has its own
}
# The options of each that name our cache folder.
_FOLDERS = {
    "tensorrt": ("trt_engine_cache_path", "trt_timing_cache_path"),
    "tensorrt-rtx": ("nv_runtime_cache_path",),
}
_PROFILES = {"tensorrt": "trt_profile_{}_shapes", "tensorrt-rtx": "nv_profile_{}_shapes"}
_FROM_BUNDLES = {
    "cpu": set[str](),
    "cuda": {
        "arena_extend_strategy", "cudnn_conv_algo_search", "cudnn_conv_use_max_workspace", "enable_cuda_graph",
        "gpu_mem_limit", "prefer_nhwc", "use_tf32",
    },
    "tensorrt": {
        "trt_bf16_enable", "trt_builder_optimization_level", "trt_context_memory_sharing_enable",
        "trt_cuda_graph_enable", "trt_fp16_enable", "trt_layer_norm_fp32_fallback", "trt_max_workspace_size",
        "trt_op_types_to_exclude", "trt_profile_max_shapes", "trt_profile_min_shapes", "trt_profile_opt_shapes",
    },
    "tensorrt-rtx": {
        "enable_cuda_graph", "nv_max_workspace_size", "nv_op_types_to_exclude", "nv_profile_max_shapes",
        "nv_profile_min_shapes", "nv_profile_opt_shapes",
    },
    "openvino": {"INFERENCE_PRECISION_HINT"},
}  # fmt: skip


def check(options: Options | None) -> Options:
    """Options by provider, as callers give them.

    Raises:
        InputError: A provider is unknown, or an option is not a string.
    """
    for provider, values in (options or {}).items():
        if provider not in _DEFAULTS:
            raise InputError(f"options for an unknown provider {provider!r}; choose from {', '.join(_DEFAULTS)}")
        for name, value in values.items():
            if not isinstance(value, str):
                raise InputError(f"the option {name!r} of {provider} is {value!r}; give a string")
    return options or {}


def of_bundle(bundle: Bundle, component: str) -> Options:
    """The `provider_options` of a component's entry in the manifest.

    Raises:
        BundleError: They are malformed, or set an option that a bundle may not set.
    """
    stored: Any = bundle.component(component).info.get("provider_options", {})
    try:
        options = {str(p): {str(name): str(v) for name, v in values.items()} for p, values in stored.items()}
    except AttributeError as error:
        raise BundleError(
            f"{bundle.root}: {component}'s provider_options are malformed ({error})"
            "; mend bundle.json, or export the component again"
        ) from error
    for provider, values in options.items():
        refused = values.keys() - _FROM_BUNDLES.get(provider, set())
        if refused:
            raise BundleError(
                f"{bundle.root}: {component}'s provider_options set {', '.join(sorted(refused))} of {provider}, which "
                "a bundle may not; pass such options to Recognizer.open"
            )
    return options


def merged(provider: str, cache: Path, profiles: Sequence[Profile], bundle: Options, caller: Options) -> dict[str, str]:
    """The options of one provider for one graph.

    Args:
        provider: The provider's name in this package.
        cache: Folder for what the provider compiles for this graph.
        profiles: The shapes that the graph is run with, if known.
        bundle: See `of_bundle`.
        caller: See `check`.
    """
    options = dict(_DEFAULTS[provider])
    options |= dict.fromkeys(_FOLDERS.get(provider, ()), str(cache))
    if provider in _PROFILES and profiles:
        for index, which in enumerate(("min", "opt", "max")):
            shapes = [
                f"{name}:{'x'.join(map(str, sizes[index]))}"
                for profile in profiles
                for name, sizes in profile.shapes.items()
            ]
            options[_PROFILES[provider].format(which)] = ",".join(shapes)
    options |= {**bundle.get(provider, {}), **caller.get(provider, {})}
    if options.get("ep.context_enable") == "1":
        options.setdefault("ep.context_file_path", str(cache / "context.onnx"))
    return options


def cache_folder() -> Path:
    """Where this user's compiled files are kept: `RAR_CACHE`, or `rar` in the user's cache folder.

    Not in the bundle: a provider runs what it finds there, and a bundle may come from a stranger.
    """
    chosen = os.environ.get("RAR_CACHE")
    return Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "rar"
