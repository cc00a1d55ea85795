"""Folders of multimodal LLMs in the layout of transformers.js: three ready-made ONNX graphs beside the JSON files.

The names, shapes and dimensions of the graphs' inputs and outputs are those that transformers.js feeds and reads. The
decoder is transformers' own with a mask of two dimensions and a cache that grows, or the same with
`GroupQueryAttention`, as ONNX Runtime's model builder writes it.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import onnx
import ready_onnx

GRAPHS = ("vision_encoder", "embed_tokens", "decoder_model_merged")


def write_ready(source: Path, folder: Path, *, grouped: bool = False) -> Path:
    """A model of transformers as such a folder.

    Args:
        source: What `tiny_mllm` wrote: `smolvlm`, `fastvlm` or `llava_onevision`.
        folder: The folder to write.
        grouped: Whether the decoder attends by GroupQueryAttention.
    """
    import torch
    import transformers

    from rar.export.graphs.trace import export_onnx

    (folder / "onnx").mkdir(parents=True)
    for path in (*source.glob("*.json"), *source.glob("*.jinja")):
        shutil.copy(path, folder)
    # Of some classes transformers writes other rules than it reads by; a hub's file holds those of the model.
    transformers.AutoTokenizer.from_pretrained(source).backend_tokenizer.save(str(folder / "tokenizer.json"))
    loaded: Any = transformers.AutoModelForImageTextToText.from_pretrained(source, dtype=torch.float32)
    network, kind = loaded.eval(), loaded.config.model_type
    _tokens_by_name(folder)

    side = json.loads((folder / "preprocessor_config.json").read_text())
    size = side["max_image_size"]["longest_edge"] if kind == "smolvlm" else _side(side)
    vision, language, head = _Vision(network, kind), _language(network), network.lm_head

    class Decoder(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.language, self.head = language, head

        def forward(
            self, embeds: torch.Tensor, mask: torch.Tensor, positions: torch.Tensor, *past: torch.Tensor
        ) -> Any:
            cache = _Cache(past, mask, grouped)
            with _attention(self.language, cache if grouped else None):
                hidden = self.language(
                    inputs_embeds=embeds, attention_mask=cache.hidden(embeds.shape[1]), position_ids=positions,
                    use_cache=True, past_key_values=cache,
                ).last_hidden_state  # fmt: skip
            return (self.head(hidden), *cache.present)

    config = language.config
    layers, heads, wide = config.num_hidden_layers, config.num_key_value_heads, config.hidden_size
    width = wide // config.num_attention_heads
    cached = [f"{{}}.{layer}.{part}" for layer in range(layers) for part in ("key", "value")]
    past = [torch.zeros(2, heads, 3, width) for _ in cached]
    pixels = [torch.rand(2, 3, 3, size, size), torch.ones(2, 3, size, size, dtype=torch.bool)]
    tiled = kind == "smolvlm"
    graphs = (
        (
            vision, pixels if tiled else [torch.rand(2, 3, size, size)],
            ["pixel_values", "pixel_attention_mask"][: 2 if tiled else 1], ["image_features"],
            [(0, 1), (0, 1)] if tiled else [(0,)],
        ),
        (
            network.get_input_embeddings(), [torch.zeros(2, 3, dtype=torch.int64)],
            ["input_ids"], ["inputs_embeds"], [(0, 1)],
        ),
        (
            Decoder().eval(),
            [torch.rand(2, 5, wide), torch.ones(2, 8, dtype=torch.int64), torch.arange(3, 8).repeat(2, 1), *past],
            ["inputs_embeds", "attention_mask", "position_ids", *(name.format("past_key_values") for name in cached)],
            ["logits", *(name.format("present") for name in cached)],
            [(0, 1), (0, 1), (0, 1), [(0, 2)] * len(cached)],
        ),
    )  # fmt: skip
    for name, (module, example, inputs, outputs, free) in zip(GRAPHS, graphs, strict=True):
        path = folder / "onnx" / f"{name}.onnx"
        export_onnx(module, example, path, inputs=inputs, outputs=outputs, dynamic=free)
        ready_onnx.whole(path)
    return folder


def write_variant(folder: Path, variant: str) -> None:
    """Adds the three graphs at a variant, made by ONNX Runtime's tools as the hubs' are.

    Of four bits are only products that narrow: all of them are more than a random model of this size stands.
    """
    for name in GRAPHS:
        full, target = (folder / "onnx" / f"{name}{suffix}.onnx" for suffix in ("", f"_{variant}"))
        model = onnx.load(str(full), load_external_data=False)
        narrowing = {one.name for one in model.graph.initializer if len(one.dims) == 2 and one.dims[0] > one.dims[1]}
        whole = [node.name for node in model.graph.node if node.op_type == "MatMul" and node.input[1] not in narrowing]
        ready_onnx.convert(full, target, variant, whole)


def _tokens_by_name(folder: Path) -> None:
    """The files that hubs have beside such graphs; transformers keeps the chat template in a file of its own."""
    template = folder / "chat_template.jinja"
    if template.exists():
        path = folder / "tokenizer_config.json"
        path.write_text(json.dumps({**json.loads(path.read_text()), "chat_template": template.read_text()}))
        template.unlink()
    processor = folder / "processor_config.json"
    if not (folder / "preprocessor_config.json").exists() and processor.exists():
        settings = json.loads(processor.read_text())["image_processor"]
        (folder / "preprocessor_config.json").write_text(json.dumps(settings))


def _side(settings: dict[str, Any]) -> int:
    return int((settings.get("crop_size") or settings["size"])["height"])


def _language(network: Any) -> Any:
    return getattr(network.model, "language_model", None) or network.model.text_model


def _Vision(network: Any, kind: str) -> Any:  # noqa: N802  # a class whose base is imported late
    import torch

    from rar.export.mllm.families.llava import Tower
    from rar.export.mllm.families.smolvlm import _Vision as Tile
    from rar.export.mllm.families.vision import Vision

    class Tiles(torch.nn.Module):
        """One picture's tiles: [N, tiles, 3, S, S] and their mask -> [N * tiles, T, D]."""

        def __init__(self) -> None:
            super().__init__()
            self.tile = Tile(network.model, network.config.vision_config.image_size)

        def forward(self, pixels: torch.Tensor, mask: torch.Tensor) -> Any:
            seen = pixels * mask[:, :, None]  # what is masked plays no part
            return self.tile(seen.flatten(0, 1))

    if kind == "smolvlm":
        return Tiles().eval()
    return (Vision if kind == "fast_vlm" else Tower)(network.model).eval()


class _Cache:
    """A cache whose keys and values are given back with the new ones behind them."""

    is_compileable = False

    def __init__(self, past: Any, mask: Any, grouped: bool) -> None:
        self.past, self.mask, self.grouped = past, mask, grouped
        self.present: list[Any] = []

    def update(self, key: Any, value: Any, layer: int, *_: Any, **__: Any) -> Any:
        import torch

        if self.grouped:
            return key, value
        both = [torch.cat([self.past[2 * layer], key], 2), torch.cat([self.past[2 * layer + 1], value], 2)]
        self.present += both
        return tuple(both)

    def get_seq_length(self, _: int = 0) -> Any:
        return self.past[0].shape[2]

    def hidden(self, length: int) -> Any:
        """What a row's padding and the order of tokens add to scores."""
        import torch

        before = self.past[0].shape[2]
        rows, columns = torch.arange(length)[:, None] + before, torch.arange(before + length)
        seen = (columns <= rows)[None, None] & self.mask[:, None, None].bool()
        return torch.where(seen, 0.0, -30000.0)


@contextmanager
def _attention(language: Any, cache: _Cache | None) -> Iterator[None]:
    """Attention by ONNX Runtime's own operator, which takes the cache and gives it back."""
    import torch
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    def attend(module: Any, query: Any, key: Any, value: Any, mask: Any, **settings: Any) -> Any:
        assert cache is not None
        batch, heads, length, width = query.shape
        flat = [each.transpose(1, 2).reshape(batch, length, -1) for each in (query, key, value)]
        past = cache.past[2 * module.layer_idx : 2 * module.layer_idx + 2]
        seen = (cache.mask.sum(1, keepdim=True) - 1).to(torch.int32)
        total = torch.tensor(cache.mask.shape[1], dtype=torch.int32)
        kept = (batch, key.shape[1], cache.mask.shape[1], width)
        mixed, *present = torch.onnx.ops.symbolic_multi_out(
            "com.microsoft::GroupQueryAttention",
            (*flat, *past, seen, total),
            attrs={"num_heads": heads, "kv_num_heads": key.shape[1], "scale": settings["scaling"]},
            dtypes=[torch.float32] * 3,
            shapes=[(batch, length, heads * width), kept, kept],
            version=1,
        )
        cache.present += present
        return mixed.reshape(batch, length, heads, width), None

    if cache is None:
        language.config._attn_implementation = "eager"
        yield
        return
    ALL_ATTENTION_FUNCTIONS.register("rar_test_grouped", attend)
    before = language.config._attn_implementation
    language.config._attn_implementation = "rar_test_grouped"
    try:
        yield
    finally:
        language.config._attn_implementation = before


def edit(path: Path, change: Any) -> None:
    """Rewrites a graph by a function of it."""
    model = onnx.load(str(path), load_external_data=False)
    change(model)
    onnx.save(model, str(path))
