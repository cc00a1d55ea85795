"""Checkpoints: the released layout both ways, and what is refused."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from tiny_grain import MICRO

from rar.export.grain import checkpoint
from rar.export.grain.config import SIZES
from rar.export.grain.model import Grain
from rar.runtime import ExportError

Change = Callable[[dict[str, Any]], None]


def saved(network: Grain, path: Path, change: Change = lambda content: None) -> Path:
    """A checkpoint, rewritten after a change of its content."""
    checkpoint.save(path, network, epoch=3, iteration=70)
    content = torch.load(path, weights_only=True)
    change(content)
    torch.save(content, path)
    return path


def test_a_round_trip_gives_the_same_outputs(network: Grain, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "c.pth.tar", network, epoch=3, iteration=70, note={"a": [1, 2.5, "b"]})
    found = checkpoint.load(tmp_path / "c.pth.tar")
    assert (found.iteration, found.rest["epoch"], found.rest["note"]) == (70, 3, {"a": [1, 2.5, "b"]})
    assert found.model.config == MICRO
    pixels, ids = torch.randn(2, 3, 32, 32), torch.randint(1, 400, (3, 9))
    with torch.no_grad():
        for ours, theirs in zip(
            vars(network.see(pixels)).values(), vars(found.model.see(pixels)).values(), strict=True
        ):
            assert torch.equal(ours, theirs)
        assert torch.equal(network.read(ids), found.model.read(ids))


def test_it_has_the_released_layout(network: Grain, tmp_path: Path) -> None:
    checkpoint.save(tmp_path / "c.pth.tar", network, epoch=0, iteration=0)
    content = torch.load(tmp_path / "c.pth.tar", weights_only=True)
    assert {"epoch", "iteration", "best_acc", "state_dict", "backbone_state_dict"} <= content.keys()
    decoder, backbone = content["state_dict"], content["backbone_state_dict"]
    # What the released code's strict loading asks for besides (model/tfm.py, clip/custom_models.py).
    assert {name: list(decoder[name].shape) for name in ("pos_embed", "temporal_embed", "class_embed.weight")} == {
        "pos_embed": [1, 513, 32],
        "temporal_embed": [1, 4, 32],
        "class_embed.weight": [22048, 32],
    }
    assert list(backbone["image_projection"].shape) == [32, 24]
    assert {
        "visual.cls_token", "visual.pos_embed", "visual.patch_embed.proj.weight", "visual.norm.bias",
        "visual.blocks.1.attn.q_norm.weight", "visual.blocks.1.attn.qkv.bias", "visual.blocks.1.mlp.fc2.weight",
        "transformer.resblocks.0.attn.in_proj_weight", "transformer.resblocks.0.attn.out_proj.bias",
        "transformer.resblocks.0.mlp.c_fc.weight", "transformer.resblocks.0.ln_2.bias", "token_embedding.weight",
        "positional_embedding", "text_projection", "logit_scale", "ln_final.weight",
    } <= backbone.keys()  # fmt: skip
    assert {
        "transformer.pre_norm.weight", "transformer.decoder.layers.1.multihead_attn.in_proj_weight",
        "transformer.decoder.layers.1.self_attn.out_proj.bias", "transformer.decoder.layers.1.linear1.weight",
        "transformer.decoder.layers.1.norm3.bias", "transformer.decoder.norm.weight", "query_embed.weight",
        "bbox_embed.layers.2.weight", "obj_proj", "img_proj", "proj.weight",
    } <= decoder.keys()  # fmt: skip
    assert (tmp_path / "c.pth.tar").stat().st_size < 8e6  # what nothing uses takes no room


def test_names_of_several_gpus_are_read(network: Grain, tmp_path: Path) -> None:
    def prefix(content: dict[str, Any]) -> None:
        for part in ("state_dict", "backbone_state_dict"):
            content[part] = {f"module.{name}": value for name, value in content[part].items()}

    found = checkpoint.load(saved(network, tmp_path / "c.pth.tar", prefix))
    assert torch.equal(found.model.decoder.obj_proj, network.decoder.obj_proj)


def test_numpy_numbers_of_released_optimizers_are_read(network: Grain, tmp_path: Path) -> None:
    def add(content: dict[str, Any]) -> None:
        content["optimizer"] = {"param_groups": [{"lr": np.linspace(0, 1, 3)[1], "other": np.float32(2)}]}

    found = checkpoint.load(saved(network, tmp_path / "c.pth.tar", add))
    assert found.rest["optimizer"]["param_groups"][0]["lr"] == 0.5


@pytest.mark.parametrize("queries", [1, 7])
def test_any_number_of_queries_is_read_unless_one_is_asked_for(queries: int, tmp_path: Path) -> None:
    network = Grain(replace(MICRO, queries=queries))
    path = saved(network, tmp_path / "c.pth.tar")
    assert checkpoint.load(path).model.config.queries == queries
    with pytest.raises(ExportError, match=f"has {queries} region queries and not 5"):
        checkpoint.load(path, queries=5)


@pytest.mark.parametrize(
    ("field", "value", "told"),
    [
        ("width", 48, "width 48 where it is 32"),
        ("depth", 3, "depth 3 where it is 2"),
        ("heads", 4, "heads 4 where it is 2"),
        ("text_width", 64, "text_width 64 where it is 32"),
        ("decoder_depth", 1, "decoder_depth 1 where it is 2"),
        ("context", 17, "context 17 where it is 16"),
        ("image", 40, "image 40 where it is 32"),
    ],
)
def test_another_shape_is_named(field: str, value: int, told: str, tmp_path: Path) -> None:
    changes: dict[str, Any] = {field: value}
    path = saved(Grain(replace(MICRO, **changes)), tmp_path / "c.pth.tar")
    with pytest.raises(ExportError, match=told):
        checkpoint.load(path)


def test_a_size_that_it_has_not(network: Grain, tmp_path: Path) -> None:
    path = saved(network, tmp_path / "c.pth.tar")
    assert checkpoint.load(path, "micro").model.config == MICRO
    with pytest.raises(ExportError, match=r"is not of the size vit-s16: .*width 32 where it is 384"):
        checkpoint.load(path, "vit-s16")
    with pytest.raises(ExportError, match=f"no size; choose {', '.join(SIZES)}"):
        checkpoint.load(path, "vit-h")


@pytest.mark.parametrize(
    ("part", "name", "told"),
    [
        ("state_dict", "obj_proj", r"state_dict lacks weights \(1\): obj_proj"),
        ("state_dict", "query_embed.weight", "lacks query_embed.weight"),
        ("backbone_state_dict", "visual.norm.bias", r"backbone_state_dict lacks weights \(1\): visual.norm.bias"),
    ],
)
def test_a_missing_weight_is_named(part: str, name: str, told: str, network: Grain, tmp_path: Path) -> None:
    with pytest.raises(ExportError, match=told):
        checkpoint.load(saved(network, tmp_path / "c.pth.tar", lambda content: content[part].pop(name)))


def test_an_unknown_weight_is_named(network: Grain, tmp_path: Path) -> None:
    def add(content: dict[str, Any]) -> None:
        content["state_dict"]["self_attn.weight"] = torch.zeros(3)

    with pytest.raises(ExportError, match=r"has unknown weights \(1\): self_attn.weight"):
        checkpoint.load(saved(network, tmp_path / "c.pth.tar", add))


def test_a_weight_of_another_shape_is_named(network: Grain, tmp_path: Path) -> None:
    def cut(content: dict[str, Any]) -> None:
        content["state_dict"]["img_proj"] = torch.zeros(32, 23)

    with pytest.raises(ExportError, match=r"img_proj is \[32, 23\] where \[32, 24\] belong"):
        checkpoint.load(saved(network, tmp_path / "c.pth.tar", cut))


@pytest.mark.parametrize("content", [[1, 2], {"state_dict": {}}, {"state_dict": {"a": 1}, "backbone_state_dict": {}}])
def test_other_content_is_refused(content: Any, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "c.pth.tar")
    with pytest.raises(ExportError, match="not a"):
        checkpoint.load(tmp_path / "c.pth.tar")


class Evil:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (self.command,)


def test_a_pickle_that_would_run_code_is_refused_and_does_not(network: Grain, tmp_path: Path) -> None:
    def poison(content: dict[str, Any]) -> None:
        content["best_acc"] = Evil(f"touch {tmp_path / 'ran'}")

    path = saved(network, tmp_path / "c.pth.tar", poison)
    with pytest.raises(ExportError, match="would run code"):
        checkpoint.load(path)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 0.99])
def test_a_half_written_file_is_refused(share: float, network: Grain, tmp_path: Path) -> None:
    path = saved(network, tmp_path / "c.pth.tar")
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(ExportError, match=r"c\.pth\.tar"):
        checkpoint.load(path)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ExportError, match="cannot be read"):
        checkpoint.load(tmp_path / "none.pth.tar")


def test_an_interrupted_save_leaves_the_old_checkpoint(
    network: Grain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(network, tmp_path / "c.pth.tar")
    before = path.read_bytes()

    def broken(content: Any, file: Any) -> None:
        file.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", broken)
    with pytest.raises(KeyboardInterrupt):
        checkpoint.save(path, network, epoch=9, iteration=900)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == ["c.pth.tar"]
