"""The shapes that engines take: batches of encoders, prefill and decode of language models."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_mllm
from hypothesis import given
from hypothesis import strategies as st

from rar.export.engine.profiles import Shapes, graph_profiles, load_graph
from rar.runtime import Bundle, BundleError, InputError
from rar.runtime.session.tensorrt.stored import Profile


def profiles(root: Path, graph: str, shapes: Shapes | None = None) -> tuple[Profile, ...]:
    bundle = Bundle.open(root)
    return graph_profiles(bundle, load_graph(bundle, graph), graph, shapes or Shapes())


def decoder_shapes(rows: int, length: int, past: int, places: int, dims: int = 1) -> dict[str, tuple[int, ...]]:
    """A call of a tiny decoder: two layers of two heads of 16."""
    cache = {f"past_key_values.{layer}.{part}": (rows, 2, past, 16) for layer in range(2) for part in ("key", "value")}
    return {
        "inputs_embeds": (rows, length, 64),
        "attention_mask": (rows, 1, length, past + length),
        "position_ids": (3, rows, length) if dims == 3 else (rows, length),
        "logit_positions": (rows, places),
        **cache,
    }


class TestEncoder:
    def test_the_batch_is_what_changes(self, tiny_bundle: Path) -> None:
        (profile,) = profiles(tiny_bundle, "clip/visual.onnx", Shapes((2, 4, 6)))
        assert profile == Profile("batch", {"pixel_values": ((2, 3, 32, 32), (4, 3, 32, 32), (6, 3, 32, 32))})

    def test_texts_of_a_fixed_length(self, tiny_bundle: Path) -> None:
        (profile,) = profiles(tiny_bundle, "clip/text.onnx")
        assert profile.shapes["input_ids"] == ((1, 77), (8, 77), (32, 77))

    def test_texts_of_any_length(self, starter_encoder: Path) -> None:
        (profile,) = profiles(starter_encoder, "clip/text.onnx")
        assert profile.shapes["input_ids"] == ((1, 1), (8, 16), (32, 128))


class TestDecoder:
    @pytest.mark.parametrize(("name", "dims"), [("llava", 1), ("qwen25vl", 3)])
    def test_calls_of_ranking_and_writing_fit(
        self, exported_mllm: Callable[[str], tiny_mllm.Exported], name: str, dims: int
    ) -> None:
        prefill, decode = profiles(exported_mllm(name).bundle, "mllm/decoder.onnx")
        assert (prefill.name, decode.name) == ("prefill", "decode")
        assert prefill.holds(decoder_shapes(1, 40, 0, 1, dims))  # the head, with nothing before it
        assert prefill.holds(decoder_shapes(4, 200, 40, 30, dims))
        assert prefill.holds(decoder_shapes(8, 512, 512, 256, dims))
        assert not prefill.holds(decoder_shapes(9, 40, 0, 1, dims))
        assert not prefill.holds(decoder_shapes(1, 513, 0, 1, dims))
        assert decode.holds(decoder_shapes(1, 1, 1, 1, dims))
        assert decode.holds(decoder_shapes(32, 1, 512, 1, dims))
        assert not decode.holds(decoder_shapes(1, 2, 40, 1, dims))

    @given(st.integers(1, 8), st.integers(1, 512), st.integers(0, 512), st.integers(1, 256))
    def test_the_mask_is_as_wide_as_cache_and_tokens_together(
        self, llava: Path, rows: int, length: int, past: int, places: int
    ) -> None:
        prefill, _ = profiles(llava, "mllm/decoder.onnx")
        assert prefill.holds(decoder_shapes(rows, length, past, places))

    def test_more_tokens_where_asked_for_up_to_the_context(self, llava: Path) -> None:
        prefill, _ = profiles(llava, "mllm/decoder.onnx", Shapes(tokens=100))
        assert prefill.shapes["inputs_embeds"][2] == (8, 100, 64)
        assert prefill.shapes["attention_mask"][2] == (8, 1, 100, 300)
        prefill, _ = profiles(llava, "mllm/decoder.onnx", Shapes(tokens=10_000))
        assert prefill.shapes["inputs_embeds"][2] == (8, 512, 64)

    def test_a_picture_has_room(self, llava: Path) -> None:
        with pytest.raises(InputError, match="--tokens 15: a picture alone takes 16"):
            profiles(llava, "mllm/decoder.onnx", Shapes(tokens=15))

    def test_fewer_rows_where_the_batch_is_smaller(self, llava: Path) -> None:
        prefill, decode = profiles(llava, "mllm/decoder.onnx", Shapes((2, 2, 2)))
        assert prefill.shapes["inputs_embeds"][2][0] == 2
        assert [shape[0] for shape in decode.shapes["inputs_embeds"]] == [1, 2, 2]

    def test_the_token_table_takes_what_the_decoder_does(self, llava: Path) -> None:
        (profile,) = profiles(llava, "mllm/embed.onnx")
        assert profile.shapes["input_ids"] == ((1, 1), (8, 80), (32, 512))


class TestBadInput:
    @pytest.mark.parametrize("batch", [(0, 1, 2), (2, 1, 3), (1, 4, 3), (-1, 1, 1)])
    def test_a_batch_that_cannot_be(self, batch: Any) -> None:
        with pytest.raises(InputError, match="--batch"):
            Shapes(batch)

    def test_no_tokens(self) -> None:
        with pytest.raises(InputError, match="--tokens 0"):
            Shapes(tokens=0)

    @pytest.mark.parametrize(
        ("component", "file", "content"),
        [
            ("clip", "tokenizer.json", b"{}"),
            ("clip", "text.onnx", b"no graph"),
            ("clip", "tokenizer.json", b'{"truncation": null}'),
        ],
    )
    def test_an_encoder_that_is_not_ours(
        self,
        tiny_bundle: Path,
        tmp_path: Path,
        replace_file: Callable[..., Path],
        component: str,
        file: str,
        content: bytes,
    ) -> None:
        root = Path(shutil.copytree(tiny_bundle, tmp_path / "own"))
        replace_file(root, component, file, content)
        with pytest.raises(BundleError, match="clip/t"):
            profiles(root, "clip/text.onnx")

    @pytest.mark.parametrize("settings", [{}, {"image_tokens": "many", "context": 1}, []])
    def test_a_prompt_that_is_not_ours(
        self, llava: Path, tmp_path: Path, replace_file: Callable[..., Path], settings: Any
    ) -> None:
        root = Path(shutil.copytree(llava, tmp_path / "own"))
        replace_file(root, "mllm", "prompt.json", json.dumps(settings).encode())
        with pytest.raises(BundleError, match=r"mllm/prompt\.json"):
            profiles(root, "mllm/decoder.onnx")


def test_shapes_are_whole_numbers(llava: Path) -> None:
    for profile in profiles(llava, "mllm/decoder.onnx"):
        for shapes in profile.shapes.values():
            assert all(isinstance(size, int) and not isinstance(size, np.integer) for shape in shapes for size in shape)
