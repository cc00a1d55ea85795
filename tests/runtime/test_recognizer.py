"""The loop: every picture answered or failed alone, in order, the same however it is called."""

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnxruntime
import pytest
from PIL import Image

from rar.export.memory.build import MemorySource, build_memory
from rar.export.pictures.labelled import read_images
from rar.runtime import (
    Bundle,
    BundleError,
    Frame,
    ImageError,
    InputError,
    ProviderError,
    Recognizer,
    Result,
    WcaOptions,
)
from rar.runtime.bundle.change import annotate
from rar.runtime.encoder.clip import Clip
from rar.runtime.loop import Asked, RegionsAsked
from rar.runtime.memory import Entry, Memory

Pixels = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def recognizer(pictures_bundle: Path) -> Recognizer:
    """Ranks by WCA unless it is told otherwise."""
    return Recognizer.open(pictures_bundle, "cpu", wca=WcaOptions(crops=4))


def scores(result: Result) -> dict[str, float]:
    return {c.label: c.similarity if c.rank_score is None else c.rank_score for c in result.candidates}


def assert_same(a: Result, b: Result) -> None:
    assert scores(a) == pytest.approx(scores(b), abs=1e-5)
    assert {c.label: c.similarity for c in a.retrieved} == pytest.approx(
        {c.label: c.similarity for c in b.retrieved}, abs=1e-5
    )


class TestAnswers:
    def test_each_picture_of_the_memory_finds_its_class(
        self, recognizer: Recognizer, class_pictures: list[Path]
    ) -> None:
        results = recognizer.recognize(class_pictures, k=4, rank="none")
        assert [result.label for result in results] == [path.parent.name for path in class_pictures]
        for result in results:
            assert result.error is None
            assert result.score == result.candidates[0].similarity > 0.999
            assert result.candidates == result.retrieved
            assert result.candidates[0].label == result.label
            assert len({c.label for c in result.candidates}) == 4

    def test_the_bundle_s_own_ranker_is_the_default(
        self, recognizer: Recognizer, names_bundle: Path, class_pictures: list[Path]
    ) -> None:
        for own, ranked in ((recognizer, True), (Recognizer.open(names_bundle, "cpu"), False)):
            (result,) = own.recognize(class_pictures[0], k=2)
            assert (result.candidates[0].rank_score is not None) == ranked

    def test_path_bytes_pil_and_array_in_one_call(self, recognizer: Recognizer, class_pictures: list[Path]) -> None:
        path = class_pictures[2]
        array = np.asarray(Image.open(path).convert("RGB"))
        sources = [path, str(path), path.read_bytes(), Image.open(path), array]
        results = recognizer.recognize(sources, k=3)
        assert len(results) == len(sources)
        for result in results:
            assert_same(result, results[0])

    @pytest.mark.parametrize("kind", ["path", "str", "bytes", "pil", "array"])
    def test_a_single_picture_needs_no_list(
        self, recognizer: Recognizer, class_pictures: list[Path], kind: str
    ) -> None:
        path = class_pictures[2]
        source: Any = {
            "path": path,
            "str": str(path),
            "bytes": path.read_bytes(),
            "pil": Image.open(path),
            "array": np.asarray(Image.open(path).convert("RGB")),
        }[kind]
        (result,) = recognizer.recognize(source, k=3)
        assert_same(result, recognizer.recognize([path], k=3)[0])

    def test_nothing_in_nothing_out(self, recognizer: Recognizer) -> None:
        assert recognizer.recognize([], k=1) == []
        assert list(recognizer.stream(iter(()), k=1)) == []

    def test_a_generator(self, recognizer: Recognizer, class_pictures: list[Path]) -> None:
        results = recognizer.recognize((path for path in class_pictures), k=1, rank="none")
        assert [result.label for result in results] == [path.parent.name for path in class_pictures]

    @pytest.mark.parametrize("rank", ["none", "wca"])
    def test_batch_size_does_not_change_the_answer(
        self, recognizer: Recognizer, class_pictures: list[Path], rank: Any
    ) -> None:
        expected = list(recognizer.stream(class_pictures, k=4, rank=rank, batch_size=12))
        for size in (1, 5, 100):
            for a, b in zip(recognizer.stream(class_pictures, k=4, rank=rank, batch_size=size), expected, strict=True):
                assert_same(a, b)

    def test_many_threads_at_once_answer_as_one(self, pictures_bundle: Path, class_pictures: list[Path]) -> None:
        recognizer = Recognizer.open(pictures_bundle, "cpu", threads=2, wca=WcaOptions(crops=3))
        with ThreadPoolExecutor(8) as pool:  # before anything was answered: the lazy parts are raced for too
            answers = list(pool.map(lambda _: recognizer.recognize(class_pictures, k=4), range(16)))
        expected = recognizer.recognize(class_pictures, k=4)
        for results in answers:
            for a, b in zip(results, expected, strict=True):
                assert_same(a, b)

    @pytest.mark.parametrize("shape", [(1, 1), (3, 20_000), (20_000, 3)])
    @pytest.mark.parametrize("rank", ["none", "wca"])
    def test_extreme_pictures_are_answered(self, recognizer: Recognizer, shape: tuple[int, int], rank: Any) -> None:
        (result,) = recognizer.recognize(np.full((*shape, 3), 200, np.uint8), k=4, rank=rank)
        assert result.error is None
        assert all(np.isfinite(score) for score in scores(result).values())

    def test_k_up_to_the_number_of_classes(self, recognizer: Recognizer, class_pictures: list[Path]) -> None:
        for k in (1, 2, 3, 4):
            assert len(recognizer.recognize(class_pictures[0], k=k)[0].candidates) == k

    def test_timings_of_every_stage(self, recognizer: Recognizer, class_pictures: list[Path]) -> None:
        stages = {"decode", "preprocess", "embed", "search"}
        for rank, expected in (("none", stages), ("wca", stages | {"rank"})):
            for result in recognizer.recognize(class_pictures[:3], k=2, rank=rank):  # type: ignore[arg-type]
                assert set(result.timings) == expected
                assert all(ms > 0 for ms in result.timings.values())

    def test_results_do_not_share_their_timings(self, recognizer: Recognizer, class_pictures: list[Path]) -> None:
        a, b = recognizer.recognize(class_pictures[:2], k=2, rank="none")
        a.timings.clear()
        assert b.timings


class TestBrokenPictures:
    @pytest.fixture
    def broken(self, tmp_path: Path, class_pictures: list[Path]) -> dict[str, Any]:
        truncated = tmp_path / "truncated.jpg"
        truncated.write_bytes(class_pictures[0].read_bytes()[:900])
        (tmp_path / "text.jpg").write_text("no picture")
        opened = Image.open(truncated)
        return {
            "missing": tmp_path / "missing.jpg",
            "truncated": truncated,
            "text": tmp_path / "text.jpg",
            "folder": tmp_path,
            "empty bytes": b"",
            "float array": np.zeros((4, 4, 3), np.float32),
            "grey array": np.zeros((4, 4), np.uint8),
            "number": 7,
            "none": None,
            "lazily truncated pil": opened,
            "pil of a rare mode": Image.new("La", (4, 4)),
            "a side that the preprocessor does not take": np.zeros((1, 2**20 + 1, 3), np.uint8),
        }

    @pytest.mark.parametrize(
        "kind",
        [
            "missing",
            "truncated",
            "text",
            "folder",
            "empty bytes",
            "float array",
            "grey array",
            "number",
            "none",
            "lazily truncated pil",
            "pil of a rare mode",
            "a side that the preprocessor does not take",
        ],
    )
    @pytest.mark.parametrize("rank", ["none", "wca"])
    def test_one_fails_alone_and_the_order_is_kept(
        self,
        recognizer: Recognizer,
        class_pictures: list[Path],
        broken: dict[str, Any],
        kind: str,
        rank: Any,
    ) -> None:
        sources: list[Any] = [*class_pictures[:5], broken[kind], *class_pictures[5:]]
        results = recognizer.recognize(sources, k=3, rank=rank)
        assert len(results) == 13
        failed = results.pop(5)
        assert isinstance(failed.error, ImageError)
        assert (failed.label, failed.score, list(failed.candidates), list(failed.retrieved)) == (None, None, [], [])
        for a, b in zip(results, recognizer.recognize(class_pictures, k=3, rank=rank), strict=True):
            assert a.error is None
            assert_same(a, b)

    @pytest.mark.parametrize("batch_size", [1, 2, 16])
    def test_all_broken(self, recognizer: Recognizer, tmp_path: Path, batch_size: int) -> None:
        results = list(recognizer.stream([tmp_path / f"{i}.jpg" for i in range(5)], batch_size=batch_size, k=2))
        assert [f"{i}.jpg: no such file" in str(result.error) for i, result in enumerate(results)] == [True] * 5

    def test_a_single_broken_one(self, recognizer: Recognizer) -> None:
        (result,) = recognizer.recognize(b"", k=1)
        assert isinstance(result.error, ImageError)

    def test_whole_batches_of_broken_ones_between_good_ones(
        self, recognizer: Recognizer, class_pictures: list[Path]
    ) -> None:
        sources: list[Any] = [class_pictures[0], b"", b"", b"", b"", b"", class_pictures[-1]]
        results = list(recognizer.stream(sources, k=1, rank="none", batch_size=2))
        assert [result.label for result in results] == ["cat", None, None, None, None, None, "rocket"]


class TestStream:
    def test_an_endless_source_in_bounded_memory(self, recognizer: Recognizer, class_pictures: list[Path]) -> None:
        taken = 0

        def endless() -> Iterator[Path]:
            nonlocal taken
            while True:
                taken += 1
                yield class_pictures[taken % 12]

        results = recognizer.stream(endless(), k=1, rank="none", batch_size=2)
        for _ in range(5):
            assert next(results).label is not None
        results.close()  # type: ignore[attr-defined]
        assert taken <= 8  # three batches answered, one ahead

    def test_nothing_is_read_before_it_is_asked_for(self, recognizer: Recognizer, class_pictures: list[Path]) -> None:
        taken: list[int] = []
        source = (taken.append(i) or path for i, path in enumerate(class_pictures))  # type: ignore[func-returns-value]
        results = recognizer.stream(source, k=1)
        assert taken == []
        next(results)

    def test_an_error_of_the_source_reaches_the_caller_after_what_came_before(
        self, recognizer: Recognizer, class_pictures: list[Path]
    ) -> None:
        def source() -> Iterator[Path]:
            yield from class_pictures[:2]
            raise RuntimeError("the camera is gone")

        results = recognizer.stream(source(), k=1, rank="none", batch_size=2)
        assert [next(results).label for _ in range(2)] == ["cat", "cat"]
        with pytest.raises(RuntimeError, match="the camera is gone"):
            next(results)

    @pytest.mark.parametrize("batch_size", [0, -1])
    def test_batch_size_out_of_range_is_said_at_once(self, recognizer: Recognizer, batch_size: int) -> None:
        with pytest.raises(InputError, match=f"batch_size={batch_size}"):
            recognizer.stream([], batch_size=batch_size)

    def test_two_streams_at_a_time(self, recognizer: Recognizer, class_pictures: list[Path]) -> None:
        a = recognizer.stream(class_pictures, k=1, rank="none", batch_size=3)
        b = recognizer.stream(class_pictures[::-1], k=1, rank="none", batch_size=2)
        pairs = [(x.label, y.label) for x, y in zip(a, b, strict=True)]
        labels = [path.parent.name for path in class_pictures]
        assert pairs == list(zip(labels, labels[::-1], strict=True))


class TestSettings:
    @pytest.mark.parametrize("k", [0, -1, 5, 1000])
    def test_k_out_of_range(self, recognizer: Recognizer, class_pictures: list[Path], k: int) -> None:
        with pytest.raises(InputError, match=f"k={k}, but the memory holds 4 classes; choose 1 to 4"):
            recognizer.recognize(class_pictures, k=k)

    @pytest.mark.parametrize("rank", ["mllm2", "", "WCA"])
    def test_unknown_rank(self, recognizer: Recognizer, class_pictures: list[Path], rank: Any) -> None:
        with pytest.raises(InputError, match="unknown; choose none, discriminant, wca, grain, mllm"):
            recognizer.recognize(class_pictures, k=2, rank=rank)

    def test_unknown_provider(self, pictures_bundle: Path) -> None:
        with pytest.raises(
            InputError, match="'gpu' is unknown; choose auto, engine, tensorrt, tensorrt-rtx, cuda, cpu"
        ):
            Recognizer.open(pictures_bundle, "gpu")

    @pytest.mark.parametrize(
        ("provider", "needed"), [("cuda", "CUDAExecutionProvider"), ("tensorrt", "TensorrtExecutionProvider")]
    )
    def test_a_device_that_is_not_there_is_an_error_and_never_the_cpu(
        self, pictures_bundle: Path, provider: str, needed: str
    ) -> None:
        if needed in onnxruntime.get_available_providers():
            pytest.skip(f"this onnxruntime offers {needed}")
        with pytest.raises(ProviderError, match=f"has no {needed} .* install the extra `gpu`"):
            Recognizer.open(pictures_bundle, provider)

    def test_auto_says_what_it_chose(self, pictures_bundle: Path) -> None:
        assert Recognizer.open(pictures_bundle).provider in ("cpu", "cuda", "tensorrt")
        assert Recognizer.open(pictures_bundle, "cpu").provider == "cpu"

    @pytest.mark.parametrize("threads", [0, -1])
    def test_threads_out_of_range(self, pictures_bundle: Path, threads: int) -> None:
        with pytest.raises(InputError, match=f"threads={threads}"):
            Recognizer.open(pictures_bundle, threads=threads)

    def test_any_number_of_threads_answers_the_same(
        self, recognizer: Recognizer, pictures_bundle: Path, class_pictures: list[Path]
    ) -> None:
        single = Recognizer.open(pictures_bundle, "cpu", threads=1, wca=WcaOptions(crops=4))
        for a, b in zip(single.recognize(class_pictures, k=3), recognizer.recognize(class_pictures, k=3), strict=True):
            assert_same(a, b)

    def test_text_weight_replaces_the_memory_s(self, pictures_bundle: Path, class_pictures: list[Path]) -> None:
        texts = Recognizer.open(pictures_bundle, "cpu", text_weight=1.0)
        result = texts.recognize(class_pictures[0], k=4, rank="none")[0]
        assert result.score is not None
        assert result.score < 0.9  # no picture is compared with
        with pytest.raises(InputError, match="text_weight"):
            Recognizer.open(pictures_bundle, "cpu", text_weight=2.0)


class TestDamagedBundle:
    @pytest.fixture
    def own(self, pictures_bundle: Path, writable: Callable[[Path], Path]) -> Path:
        return writable(pictures_bundle)

    @pytest.mark.parametrize("where", ["nowhere", ""])
    def test_no_bundle(self, tmp_path: Path, where: str) -> None:
        with pytest.raises(BundleError, match="no bundle there"):
            Recognizer.open(tmp_path / where)

    def test_no_memory(self, tiny_bundle: Path) -> None:
        with pytest.raises(BundleError, match="rar-export memory"):
            Recognizer.open(tiny_bundle)

    def test_no_encoder(self, own: Path, edit_manifest: Callable[..., None]) -> None:
        edit_manifest(own, lambda manifest: manifest["components"].pop("clip"))
        with pytest.raises(BundleError, match="no 'clip'"):
            Recognizer.open(own)

    def test_a_newer_format(self, own: Path, edit_manifest: Callable[..., None]) -> None:
        edit_manifest(own, lambda manifest: manifest.update(format=99))
        with pytest.raises(BundleError, match=r"format 99.*upgrade"):
            Recognizer.open(own)

    def test_a_memory_of_another_encoder(self, own: Path, replace_file: Callable[..., Path]) -> None:
        graph = (own / "clip" / "visual.onnx").read_bytes()
        replace_file(own, "clip", "visual.onnx", graph + b"\x0a\x00")
        with pytest.raises(BundleError, match="made with another encoder; build it again"):
            Recognizer.open(own)

    @pytest.mark.parametrize("encoder", [None, "", 7, "missing"])
    def test_a_memory_that_does_not_say_whose(
        self, own: Path, encoder: object, edit_manifest: Callable[..., None]
    ) -> None:
        edit_manifest(own, lambda manifest: manifest["components"]["memory"]["info"].update(encoder=encoder))
        with pytest.raises(BundleError, match="another encoder"):
            Recognizer.open(own)

    @pytest.mark.parametrize("name", ["visual.onnx", "visual.onnx.data", "preprocess.json"])
    def test_altered_truncated_or_missing_encoder_files(self, own: Path, name: str) -> None:
        path = own / "clip" / name
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content)
        with pytest.raises(BundleError, match=f"{name}: altered"):
            Recognizer.open(own)
        path.write_bytes(content[:-1])
        with pytest.raises(BundleError, match=f"{name}: "):
            Recognizer.open(own)
        path.unlink()
        with pytest.raises(BundleError, match=f"{name}: missing"):
            Recognizer.open(own)

    @pytest.mark.parametrize("name", ["visual.onnx", "visual.onnx.data", "preprocess.json"])
    def test_encoder_files_that_the_manifest_lacks(
        self, own: Path, name: str, edit_manifest: Callable[..., None]
    ) -> None:
        edit_manifest(own, lambda manifest: manifest["components"]["clip"]["files"].pop(name))
        with pytest.raises(BundleError):
            Recognizer.open(own)

    def test_an_encoder_that_is_no_graph(self, own: Path, replace_file: Callable[..., Path]) -> None:
        replace_file(own, "clip", "visual.onnx", b"garbage")
        with pytest.raises(BundleError, match=r"visual\.onnx: is no ONNX graph"):
            Clip(Bundle.open(own), "cpu")

    @pytest.mark.parametrize("name", ["index.usearch", "vectors.npy", "entries.npy", "reduction.npz"])
    def test_truncated_memory(self, own: Path, name: str) -> None:
        path = own / "memory" / "pictures" / name
        path.write_bytes(path.read_bytes()[:-100])
        with pytest.raises(BundleError, match=name):
            Recognizer.open(own)

    def test_a_missing_tokenizer_is_named(self, own: Path) -> None:
        (own / "clip" / "tokenizer.json").unlink()
        with pytest.raises(BundleError, match=r"tokenizer\.json: missing"):
            Recognizer.open(own)

    @pytest.mark.parametrize("name", ["tokenizer.json", "text.onnx"])
    def test_a_text_tower_that_the_manifest_lacks_is_named_when_it_is_needed(
        self, own: Path, name: str, edit_manifest: Callable[..., None]
    ) -> None:
        edit_manifest(own, lambda manifest: manifest["components"]["clip"]["files"].pop(name))
        clip = Clip(Bundle.open(own), "cpu")
        assert clip.embed_pixels(clip.preprocess([np.zeros((4, 4, 3), np.uint8)])).shape == (1, 32)
        with pytest.raises(BundleError, match=f"clip has no {name}"):
            clip.embed_texts(["a cat"])
        with pytest.raises(BundleError, match=f"clip has no {name}"):
            build_memory(Bundle.open(own), MemorySource(classes=["a"]), dim="none", provider="cpu")

    def test_an_altered_tokenizer_is_named_when_it_is_needed(self, own: Path) -> None:
        path = own / "clip" / "tokenizer.json"
        path.write_bytes(path.read_bytes()[:-2] + b" }")
        clip = Clip(Bundle.open(own), "cpu")
        with pytest.raises(BundleError, match=r"tokenizer\.json: altered"):
            clip.embed_texts(["a cat"])

    @pytest.mark.parametrize("content", [b"[]", b"{}", b"null", b"{", b'{"size": -1}', b'{"size": "x", "mean": 1}'])
    def test_preprocess_settings_that_are_none(
        self, own: Path, content: bytes, replace_file: Callable[..., Path]
    ) -> None:
        replace_file(own, "clip", "preprocess.json", content)
        with pytest.raises(BundleError, match=r"preprocess\.json"):
            Clip(Bundle.open(own), "cpu")

    def test_preprocess_settings_of_another_size(self, own: Path, replace_file: Callable[..., Path]) -> None:
        settings = json.loads((own / "clip" / "preprocess.json").read_text())
        replace_file(own, "clip", "preprocess.json", json.dumps(settings | {"size": 64, "shortest_edge": 64}).encode())

        def embed() -> None:
            clip = Clip(Bundle.open(own), "cpu")
            clip.embed_pixels(clip.preprocess([np.zeros((4, 4, 3), np.uint8)]))

        with pytest.raises(BundleError):
            embed()

    @pytest.mark.parametrize("key", ["dim", "templates", "clean"])
    def test_an_encoder_entry_that_lacks_something(
        self, own: Path, key: str, edit_manifest: Callable[..., None]
    ) -> None:
        edit_manifest(own, lambda manifest: manifest["components"]["clip"]["info"].pop(key))
        with pytest.raises(BundleError, match=key):
            Recognizer.open(own)

    @pytest.mark.parametrize("rank", ["mllm9", None, [], {}, 3])
    def test_a_ranker_of_a_later_release(self, own: Path, rank: object, edit_manifest: Callable[..., None]) -> None:
        edit_manifest(own, lambda manifest: manifest["components"]["memory"]["info"].update(rank=rank))
        with pytest.raises(BundleError, match="unknown to this release; upgrade"):
            Recognizer.open(own)


class TestGrowth:
    """The memory of a recognizer grows by pictures; all rankers go on."""

    @pytest.fixture
    def own(self, pictures_bundle: Path, writable: Callable[[Path], Path]) -> Path:
        return writable(pictures_bundle)

    @pytest.fixture
    def photo(self, noise: Callable[..., Pixels]) -> Pixels:
        return noise(90, 120, seed=3)

    def test_an_added_picture_is_recognised_and_says_where_it_came_from(
        self, own: Path, photo: Pixels, tmp_path: Path
    ) -> None:
        recognizer = Recognizer.open(own, "cpu", wca=WcaOptions(crops=3))
        path = tmp_path / "noise.png"
        Image.fromarray(photo).save(path)
        recognizer.memory.add([path, photo], ["noise", "noise"])
        for one in (recognizer, Recognizer.open(own, "cpu", wca=WcaOptions(crops=3))):
            for rank in ("none", "wca"):
                (result,) = one.recognize([path], k=5, rank=rank)  # type: ignore[arg-type]
                assert result.retrieved[0].label == "noise"
                assert result.retrieved[0].similarity == pytest.approx(1, abs=2e-3)
                assert result.retrieved[0].entry == Entry("pictures", str(path))
                assert len({c.label for c in result.candidates}) == 5
                assert all(np.isfinite(score) for score in scores(result).values())

    def test_its_name_is_a_text_as_if_it_had_been_built_with(self, own: Path, photo: Pixels) -> None:
        recognizer = Recognizer.open(own, "cpu", text_weight=1.0)
        recognizer.memory.add(photo, ["noise"])
        ((source, vector),) = recognizer.memory.texts("noise")
        assert source == "noise"
        np.testing.assert_allclose(vector, recognizer.clip.embed_names(["noise"])[0], atol=1e-3)
        assert recognizer.memory.classes == 5

    def test_a_renamed_class_is_found_by_its_new_name_and_not_by_the_old(self, own: Path) -> None:
        recognizer = Recognizer.open(own, "cpu", text_weight=1.0)
        described = [source for source, _ in recognizer.memory.texts("cat")][1:]
        recognizer.memory.relabel("cat", "tiger")
        texts = dict(recognizer.memory.texts("tiger"))
        assert sorted(texts) == sorted([*described, "tiger"])
        np.testing.assert_allclose(texts["tiger"], recognizer.clip.embed_names(["tiger"])[0], atol=1e-3)
        recognizer.memory.relabel("rocket", "tiger")  # the two are one now
        assert "rocket" not in dict(recognizer.memory.texts("tiger"))
        assert recognizer.memory.labels == ["tiger", "coffee", "grass"]

    @pytest.mark.parametrize("rank", ["none", "wca"])
    def test_while_pictures_stream_through_classes_come_and_go(
        self, own: Path, class_pictures: list[Path], photo: Pixels, rank: Any
    ) -> None:
        recognizer = Recognizer.open(own, "cpu", wca=WcaOptions(crops=2))
        found = []
        for i, result in enumerate(recognizer.stream(class_pictures, k=4, rank=rank, batch_size=3)):
            assert result.error is None
            found.append(sorted(c.label for c in result.candidates))
            if i == 2:
                recognizer.memory.remove("grass")
                recognizer.memory.remove("coffee")
            if i == 8:
                recognizer.memory.add(photo, ["noise"])
        assert found[0] == ["cat", "coffee", "grass", "rocket"]
        assert found[6] == ["cat", "rocket"]
        assert found[-1] == ["cat", "noise", "rocket"]

    def test_wca_s_texts_follow_the_memory(self, own: Path, class_pictures: list[Path]) -> None:
        """As a ranker that was opened after the change."""
        recognizer = Recognizer.open(own, "cpu", wca=WcaOptions(crops=3))
        recognizer.recognize(class_pictures[:2], k=4, rank="wca")
        recognizer.memory.relabel("grass", "lawn")
        recognizer.memory.remove("coffee")
        other = Recognizer.open(own, "cpu", wca=WcaOptions(crops=3))
        pairs = zip(*(one.recognize(class_pictures, k=3, rank="wca") for one in (recognizer, other)), strict=True)
        for a, b in pairs:
            assert_same(a, b)

    def test_a_broken_picture_adds_nothing(self, own: Path, class_pictures: list[Path]) -> None:
        recognizer = Recognizer.open(own, "cpu")
        with pytest.raises(InputError, match=r"picture 1: .*nowhere\.jpg.*nothing was added"):
            recognizer.memory.add([class_pictures[0], Path("nowhere.jpg")], ["cat", "new"])
        assert "new" not in recognizer.memory.labels
        assert not (own / "memory.log").exists()

    def test_a_memory_of_names_takes_pictures(
        self, names_bundle: Path, writable: Callable[[Path], Path], class_pictures: list[Path]
    ) -> None:
        own = writable(names_bundle)
        recognizer = Recognizer.open(own, "cpu")
        recognizer.memory.add(class_pictures, [path.parent.name for path in class_pictures])
        assert recognizer.memory.text_weight == 1  # as it was built
        recognizer.memory.compact()
        mixed = Recognizer.open(own, "cpu", text_weight=0.2)
        labels = [result.label for result in mixed.recognize(class_pictures, k=1)]
        assert labels == [path.parent.name for path in class_pictures]

    def test_built_again_from_the_same_source_it_is_as_it_was_built(
        self, own: Path, labelled_folder: Path, photo: Pixels
    ) -> None:
        source = MemorySource(images=read_images(labelled_folder))
        for _ in range(2):
            build_memory(Bundle.open(own), source, dim="8", provider="cpu")
            fingerprint = Bundle.open(own).component("memory").fingerprint
            recognizer = Recognizer.open(own, "cpu")
            assert len(recognizer.memory.labels) == 4
            recognizer.memory.add(photo, ["noise"])
            recognizer.memory.close()
        build_memory(Bundle.open(own), source, dim="8", provider="cpu")
        assert Bundle.open(own).component("memory").fingerprint != fingerprint  # or the log would have fitted
        assert len(Recognizer.open(own, "cpu").memory.labels) == 4

    def test_more_pictures_than_one_batch_and_any_form(self, own: Path, class_pictures: list[Path]) -> None:
        recognizer = Recognizer.open(own, "cpu")
        before = recognizer.memory.parts["pictures"].counts.sum()
        recognizer.memory.add((path for path in class_pictures * 3), "all")
        recognizer.memory.add(Image.open(class_pictures[0]), ["all"])
        recognizer.memory.add(class_pictures[0].read_bytes(), ["all"])
        assert recognizer.memory.parts["pictures"].counts.sum() == before + 38


class TestFilter:
    def test_only_the_classes_that_are_asked_for(self, recognizer: Recognizer, class_pictures: list[Path]) -> None:
        for rank in ("none", "wca"):
            for result in recognizer.recognize(class_pictures, k=2, rank=rank, labels=["cat", "grass"]):  # type: ignore[arg-type]
                assert {c.label for c in result.candidates} == {"cat", "grass"}

    def test_without_k_there_are_as_many_candidates_as_classes_are_left(
        self, recognizer: Recognizer, class_pictures: list[Path]
    ) -> None:
        for labels, count in ((["cat", "grass"], 2), (["cat"], 1), (None, 4)):
            for k in ({}, {"k": None}):
                (result,) = recognizer.recognize(class_pictures[0], rank="none", labels=labels, **k)
                assert len(result.candidates) == count
        (query,) = recognizer.queries(class_pictures[:1])
        assert len(query.candidates) == 4  # type: ignore[union-attr]

    def test_without_k_there_are_five_of_more_classes(
        self, pictures_bundle: Path, writable: Callable[[Path], Path], class_pictures: list[Path]
    ) -> None:
        with Recognizer.open(writable(pictures_bundle), "cpu") as own:
            own.memory.add(class_pictures[:3], ["a", "b", "c"])
            (result,) = own.recognize(class_pictures[0], rank="none")
            assert len(result.candidates) == 5
            assert own.memory.check_k(None) == len(own.memory.search(own.clip.embed_texts(["a"]))[0]) == 5

    def test_without_k_a_stream_has_more_candidates_as_classes_are_added(
        self, pictures_bundle: Path, writable: Callable[[Path], Path], class_pictures: list[Path]
    ) -> None:
        with Recognizer.open(writable(pictures_bundle), "cpu") as own:
            counts = []
            for result in own.stream([class_pictures[0]] * 12, rank="none", batch_size=1):
                counts.append(len(result.candidates))
                if len(counts) == 1:
                    own.memory.add(class_pictures[:3], ["a", "b", "c"])
        assert (counts[0], counts[-1]) == (4, 5)

    def test_a_filter_that_leaves_nothing(self, recognizer: Recognizer) -> None:
        with pytest.raises(InputError, match="the filter leaves 0 classes"):
            recognizer.recognize([], labels=[])

    def test_what_does_not_fit_is_said_at_once(self, recognizer: Recognizer) -> None:
        with pytest.raises(InputError, match="k=3, but the filter leaves 2 classes"):
            recognizer.stream(iter(()), k=3, labels=["cat", "grass"])
        with pytest.raises(InputError, match="no class 'dog'"):
            recognizer.stream(iter(()), k=1, labels=["dog"])
        with pytest.raises(InputError, match="no tag 'pet'"):
            recognizer.stream(iter(()), k=1, tags=["pet"])


class TestAsked:
    def test_what_can_be_asked_is_what_the_calls_take(self, recognizer: Recognizer, class_pictures: list[Path]) -> None:
        values: dict[str, Any] = {
            "k": 1, "rank": "none", "gate": "off", "deadline_ms": 1e6, "labels": ["cat"], "tags": None,
            "unknown": "reject",
        }  # fmt: skip
        assert set(values) == set(Asked.__annotations__)
        assert recognizer.recognize(class_pictures[0], **values)[0].label == "cat"
        values |= {"fusion": 0.5, "grow": 1.0, "blur": None, "square": False}
        assert set(values) == set(RegionsAsked.__annotations__)
        assert recognizer.recognize_regions(class_pictures[0], [[0, 0, 50, 50]], **values)[0].label == "cat"

    @pytest.mark.parametrize("call", ["recognize", "stream", "stream_regions"])
    def test_what_cannot_be_asked_is_said_at_once(self, recognizer: Recognizer, call: str) -> None:
        with pytest.raises(TypeError, match="unexpected keyword argument 'kk'"):
            getattr(recognizer, call)([], kk=1)


class TestClosing:
    def test_nothing_can_be_asked_any_more_and_closing_twice_is_no_error(
        self, pictures_bundle: Path, class_pictures: list[Path]
    ) -> None:
        with Recognizer.open(pictures_bundle, "cpu", wca=WcaOptions(crops=2)) as recognizer:
            assert recognizer.recognize(class_pictures[0], k=1, rank="wca")[0].label == "cat"
        recognizer.close()
        for ask in (
            lambda: recognizer.recognize(class_pictures[0]),
            lambda: recognizer.recognize(class_pictures[0], rank="wca"),
            lambda: recognizer.stream([]),
            lambda: recognizer.recognize_regions(class_pictures[0], [[0, 0, 9, 9]]),
            lambda: next(recognizer.queries(class_pictures)),
        ):
            with pytest.raises(InputError, match="the recognizer is closed; open the bundle again"):
                ask()

    def test_the_encoder_is_closed_also_the_tower_that_was_not_loaded_yet(self, pictures_bundle: Path) -> None:
        recognizer = Recognizer.open(pictures_bundle, "cpu")
        blank = recognizer.clip.preprocess([np.zeros((9, 9, 3), np.uint8)])
        recognizer.close()
        with pytest.raises(InputError, match=r"visual\.onnx: its session is closed"):
            recognizer.clip.embed_pixels(blank)
        with pytest.raises(InputError, match=r"text\.onnx: its session is closed"):
            recognizer.clip.embed_texts(["cat"])

    def test_its_threads_end(self, pictures_bundle: Path, class_pictures: list[Path]) -> None:
        def decoding() -> int:
            return sum(thread.name.startswith("rar-decode") for thread in threading.enumerate())

        before = decoding()
        recognizer = Recognizer.open(pictures_bundle, "cpu", threads=3)
        recognizer.recognize(class_pictures, k=1, rank="none")
        assert decoding() > before
        recognizer.close()
        assert decoding() == before

    def test_a_stream_that_is_under_way_ends_with_the_same_error(
        self, pictures_bundle: Path, class_pictures: list[Path]
    ) -> None:
        recognizer = Recognizer.open(pictures_bundle, "cpu")
        frames = (Frame(path, [[0, 0, 40, 40]]) for path in class_pictures)
        streams = [
            recognizer.stream(class_pictures, k=1, rank="none", batch_size=1),
            recognizer.stream_regions(frames, k=1, rank="none", batch_size=1),
        ]
        for stream in streams:
            next(stream)  # type: ignore[call-overload]
        recognizer.close()
        for stream in streams:
            with pytest.raises(InputError, match="the recognizer is closed"):
                next(stream)  # type: ignore[call-overload]

    def test_another_writer_may_change_the_memory(
        self, pictures_bundle: Path, writable: Callable[[Path], Path], class_pictures: list[Path]
    ) -> None:
        own = writable(pictures_bundle)
        with Recognizer.open(own, "cpu") as first:
            first.memory.add(class_pictures[:1], "new")
            with Recognizer.open(own, "cpu") as second, pytest.raises(BundleError):
                second.memory.remove("new")
        with Recognizer.open(own, "cpu") as second:
            second.memory.remove("new")


class TestNames:
    def test_braces_and_markup_in_a_name_are_data(self, pictures_bundle: Path) -> None:
        clip = Clip(Bundle.open(pictures_bundle), "cpu")
        names = ["{}", "{0}", "{x.y}", "%s", "<end_of_text>", "a\nb", '"', ""]
        embeddings = clip.embed_names(names)
        assert embeddings.shape == (len(names), 32)
        np.testing.assert_allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-5)

    def test_more_texts_than_fit_one_run_and_none_at_all(self, pictures_bundle: Path) -> None:
        clip = Clip(Bundle.open(pictures_bundle), "cpu")
        texts = [f"number {i}" for i in range(150)]
        together = clip.embed_texts(texts)
        np.testing.assert_allclose(together[130:131], clip.embed_texts(texts[130:131]), atol=1e-5)
        assert clip.embed_texts([]).shape == (0, 32)
        assert clip.embed_names([]).shape == (0, 32)


def test_it_opens_while_another_process_compacts_and_tunes(
    pictures_bundle: Path, writable: Callable[[Path], Path]
) -> None:
    """Each opening falls on replacements of the memory."""
    root = writable(pictures_bundle)
    memory = Memory.open(root)
    vectors = np.eye(memory.dim, dtype=np.float32)[:1]
    stop = threading.Event()

    rounds = 0

    def change() -> None:
        nonlocal rounds
        while not stop.is_set():
            memory.add(vectors, ["cat"])
            memory.compact()
            annotate(root, "memory", rounds=rounds)
            rounds += 1

    with ThreadPoolExecutor(1) as pool:
        changing = pool.submit(change)
        try:
            opened = 0
            while (opened < 15 or rounds < 15) and not changing.done():
                Recognizer.open(root, "cpu", threads=1).close()
                opened += 1
        finally:
            stop.set()
        changing.result()


def test_an_opening_that_fails_on_replaced_files_is_tried_again(
    pictures_bundle: Path, writable: Callable[[Path], Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    root = writable(pictures_bundle)
    real, calls = Clip.__init__, 0

    def replaced(self: Clip, *given: Any) -> None:
        nonlocal calls
        calls += 1
        if calls == 1:
            annotate(root, "memory", note="another process was here")
            raise BundleError("a file that the new manifest does not name")
        real(self, *given)

    monkeypatch.setattr(Clip, "__init__", replaced)
    Recognizer.open(root, "cpu").close()
    assert calls == 2


def test_an_opening_that_fails_for_good_is_not_tried_again(
    pictures_bundle: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = 0

    def damaged(*_: Any) -> None:
        nonlocal calls
        calls += 1
        raise BundleError("damaged")

    monkeypatch.setattr(Clip, "__init__", damaged)
    with pytest.raises(BundleError, match="damaged"):
        Recognizer.open(pictures_bundle, "cpu")
    assert calls == 1
