"""The stacks that latency is compared with do the same work: their answers are those of this runtime."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from rar.benchmarks.peers import stacks
from rar.benchmarks.peers.pytorch import Terms, distinct
from rar.benchmarks.peers.rank import read_answer
from rar.export.mllm.export import export_mllm
from rar.export.mllm.source import load
from rar.runtime import Bundle, InputError, RarError
from rar.runtime.stages import recorded


@pytest.fixture
def terms(openclip_terms: Terms, class_pictures: list[Path]) -> Terms:
    return replace(openclip_terms, pictures=tuple(class_pictures[:2]))


@pytest.mark.parametrize(
    ("name", "stages"),
    [
        ("torch-eager", {"decode", "preprocess", "embed", "search"}),
        ("clip-retrieval", {"decode", "preprocess", "embed", "search"}),
        ("fastembed", {"embed", "search"}),
        ("openvino-fp32", {"decode", "preprocess", "embed", "search"}),
        ("openvino-bf16", {"decode", "preprocess", "embed", "search"}),
    ],
)
def test_retrieval_finds_the_pictures_of_the_memory(
    terms: Terms, class_pictures: list[Path], name: str, stages: set[str]
) -> None:
    (peer,) = stacks.chosen([name])
    if reason := peer.missing():
        pytest.skip(reason)
    stacks.prepare(terms, [peer])
    opened = peer.open(terms)
    with recorded() as seconds:
        found = opened.answer(class_pictures, 8)
    assert found == [path.parent.name for path in class_pictures]
    assert set(seconds) == stages
    assert opened.says().get("cosine", 1.0) > 0.99


@pytest.mark.parametrize("name", ["rar-openvino", "rar-openvino-fp32"])
def test_this_runtime_on_openvino_is_one_of_them(terms: Terms, class_pictures: list[Path], name: str) -> None:
    (peer,) = stacks.chosen([name])
    if reason := peer.missing():
        pytest.skip(reason)
    opened = peer.open(replace(terms, fp32=terms.bundle))
    assert opened.answer(class_pictures, 8) == [path.parent.name for path in class_pictures]
    assert opened.says()["provider"] == "openvino"


def test_bf16_is_computed_from_a_bundle_at_fp32(terms: Terms) -> None:
    (peer,) = stacks.chosen(["rar-openvino-bf16"])
    with pytest.raises(RarError, match="name that bundle with --fp32"):
        stacks.prepare(terms, [peer])


@pytest.mark.parametrize("name", ["transformers-generate", "rar-paper"])
def test_ranking_answers_with_what_was_retrieved(
    openclip_pictures: Path,
    tiny_smolvlm: Path,
    tiny_openclip: tuple[Path, Path],
    class_pictures: list[Path],
    tmp_path: Path,
    name: str,
) -> None:
    bundle = Path(shutil.copytree(openclip_pictures, tmp_path / "bundle"))
    export_mllm(load(str(tiny_smolvlm)), bundle)
    encoder = ("open_clip", *map(str, tiny_openclip))
    terms = stacks.terms_of(Bundle.open(bundle), tmp_path, k=3, threads=1, encoder=encoder)
    assert terms.mllm == str(tiny_smolvlm)
    (peer,) = stacks.chosen([name])
    stacks.prepare(terms, [peer])
    opened = peer.open(terms)
    with recorded() as seconds:
        found = opened.answer(class_pictures[:2], 1)
    # A random model writes no list, so the order is the retrieval's.
    assert found == ["cat", "cat"]
    assert set(seconds) == {"decode", "preprocess", "embed", "search", "prompt", "generate", "parse"}


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("['cat', 'dog']", ["cat", "dog"]),
        ("Sure: [ dog , cat ] and more", ["dog", "cat"]),
        ("['cat']", ["cat"]),
        ("cat, dog", None),
        ("[]", None),
        ("['cat', 'wolf']", None),  # one foreign name spoils the list
        ('["cat"]', None),
    ],
)
def test_answers_are_read_as_the_published_code_reads_them(text: str, names: list[str] | None) -> None:
    assert read_answer(text, ["cat", "dog"]) == names


def test_classes_are_distinct_and_gaps_are_left_out() -> None:
    assert distinct([2, 0, 1, -1, 3], ["a", "b", "a", "c"], 2) == ["a", "b"]


@pytest.mark.parametrize(
    ("source", "encoder"),
    [
        ("starter: EfficientNet-Lite2 and all-MiniLM-L6-v2", ("starter",)),
        ("open_clip ViT-B-32 laion2b_s34b_b79k", ("open_clip", "ViT-B-32", "laion2b_s34b_b79k")),
        ("transformers clip openai/clip-vit-base-patch32", ("transformers", "openai/clip-vit-base-patch32")),
        ("grain tiny", ("grain", "tiny")),
    ],
)
def test_a_bundle_says_what_its_encoder_came_from(
    openclip_pictures: Path,
    writable: Callable[[Path], Path],
    edit_manifest: Callable[..., None],
    tmp_path: Path,
    source: str,
    encoder: tuple[str, ...],
) -> None:
    bundle = writable(openclip_pictures)
    edit_manifest(bundle, lambda manifest: manifest["components"]["clip"]["info"].update(source=source))
    told = stacks.terms_of(Bundle.open(bundle), tmp_path, 5, None)
    assert (told.encoder, told.mllm) == (encoder, None)


def test_peers_are_chosen_by_name() -> None:
    assert stacks.chosen(["none"]) == []
    assert [peer.name for peer in stacks.chosen(["rar-paper", "torch-eager"])] == ["rar-paper", "torch-eager"]
    assert len(stacks.chosen(None)) == len(stacks.PEERS)
    with pytest.raises(InputError, match="'caffe'"):
        stacks.chosen(["caffe"])


def test_what_is_not_installed_is_named() -> None:
    peer = stacks.Peer("other", "retrieve", lambda terms: None, {"no_such_module": "no-such-package"})  # type: ignore[arg-type, return-value]
    assert peer.missing() == "not installed: pip install no-such-package"


def test_an_encoder_that_no_peer_knows_is_told(terms: Terms) -> None:
    (peer,) = stacks.chosen(["torch-eager"])
    stacks.prepare(terms, [peer])
    with pytest.raises(RarError, match="grain"):
        peer.open(Terms(terms.folder, terms.bundle, ("grain", "x"), None, False, 3, 1))
