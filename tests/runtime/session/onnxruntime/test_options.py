"""Options of providers: ours, the bundle's, the caller's, in that order; a bundle's cannot name files."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rar.runtime import Bundle, BundleError, InputError
from rar.runtime.bundle.change import annotate
from rar.runtime.session.onnxruntime.options import cache_folder, check, merged, of_bundle
from rar.runtime.session.tensorrt.stored import Profile

BATCH = Profile("batch", {"pixel_values": ((1, 3, 8, 8), (4, 3, 8, 8), (16, 3, 8, 8))})
TWO = [
    Profile("prefill", {"x": ((1, 1), (1, 64), (4, 256)), "past": ((1, 0), (1, 0), (4, 64))}),
    Profile("decode", {"x": ((1, 1), (1, 1), (4, 1)), "past": ((1, 1), (1, 128), (4, 512))}),
]


def test_the_caller_comes_before_the_bundle_and_both_before_ours() -> None:
    found = merged(
        "cuda",
        Path("/cache"),
        [],
        {"cuda": {"use_tf32": "1", "gpu_mem_limit": "5"}},
        {"cuda": {"gpu_mem_limit": "7", "device_id": "1"}, "tensorrt": {"trt_fp16_enable": "1"}},
    )
    assert found["use_tf32"] == "1"
    assert found["gpu_mem_limit"] == "7"
    assert found["device_id"] == "1"
    assert found["arena_extend_strategy"] == "kSameAsRequested"
    assert "trt_fp16_enable" not in found
    assert merged("cpu", Path("/cache"), [BATCH], {}, {}) == {}


def test_tensorrt_is_told_the_profiles_and_where_to_keep_engines() -> None:
    found = merged("tensorrt", Path("/cache/abc"), [BATCH], {}, {})
    assert found["trt_profile_min_shapes"] == "pixel_values:1x3x8x8"
    assert found["trt_profile_opt_shapes"] == "pixel_values:4x3x8x8"
    assert found["trt_profile_max_shapes"] == "pixel_values:16x3x8x8"
    assert found["trt_engine_cache_path"] == found["trt_timing_cache_path"] == "/cache/abc"
    assert "ep.context_file_path" not in found
    kept = merged("tensorrt", Path("/cache/abc"), [], {}, {"tensorrt": {"ep.context_enable": "1"}})
    assert kept["ep.context_file_path"] == "/cache/abc/context.onnx"
    two = merged("tensorrt-rtx", Path("/c"), TWO, {}, {})
    assert two["nv_profile_max_shapes"] == "x:4x256,past:4x64,x:4x1,past:4x512"
    assert two["nv_runtime_cache_path"] == "/c"


@pytest.mark.parametrize(
    "options",
    [
        {"tensorrt": {"trt_extra_plugin_lib_paths": "evil.so"}},
        {"tensorrt": {"trt_engine_cache_path": "../.."}},
        {"cuda": {"user_compute_stream": "123"}},
        {"cpu": {"session.use_env_allocators": "1"}},
        {"openvino": {"device": "GPU"}},
    ],
)
def test_a_bundle_sets_nothing_that_names_a_file_or_an_address(
    tiny_bundle: Path, writable: Callable[[Path], Path], options: dict[str, Any]
) -> None:
    root = writable(tiny_bundle)
    annotate(root, "clip", provider_options=options)
    with pytest.raises(BundleError, match=r"provider_options set .* a bundle may not"):
        of_bundle(Bundle.open(root), "clip")


def test_a_bundle_s_own_options(tiny_bundle: Path, writable: Callable[[Path], Path]) -> None:
    root = writable(tiny_bundle)
    assert of_bundle(Bundle.open(root), "clip") == {}
    annotate(root, "clip", provider_options={"cuda": {"use_tf32": 1}})
    assert of_bundle(Bundle.open(root), "clip") == {"cuda": {"use_tf32": "1"}}
    for wrong in ([], "cuda", {"cuda": "use_tf32"}):
        annotate(root, "clip", provider_options=wrong)
        if wrong:
            with pytest.raises(BundleError, match="malformed"):
                of_bundle(Bundle.open(root), "clip")


@pytest.mark.parametrize(
    ("options", "said"), [({"gpu": {}}, "unknown provider 'gpu'"), ({"cuda": {"device_id": 1}}, "give a string")]
)
def test_options_that_cannot_be(options: Any, said: str) -> None:
    with pytest.raises(InputError, match=said):
        check(options)


def test_compiled_files_are_kept_in_the_user_s_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("RAR_CACHE", str(tmp_path / "own"))
    assert cache_folder() == tmp_path / "own"
    monkeypatch.delenv("RAR_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "rar"
