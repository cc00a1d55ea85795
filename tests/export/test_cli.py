"""`rar-export`: what it prints, and one line on stderr with exit code 2 where it refuses."""

import json
import os
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from bundles import tree

from rar.export.cli import main
from rar.runtime import Bundle, Memory

Capture = pytest.CaptureFixture[str]


def fails(capsys: Capture, *argv: object) -> str:
    """Runs the command, which must refuse with exactly one line and print nothing else."""
    assert main([str(arg) for arg in argv]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.endswith("\n")
    assert len(err.splitlines()) == 1, err
    assert err.startswith(f"rar-export {argv[0]}: ")
    return err


@pytest.fixture
def own(names_bundle: Path, writable: Callable[[Path], Path]) -> Path:
    return writable(names_bundle)


@pytest.fixture
def inputs(tmp_path: Path) -> Path:
    """A file of each kind that `memory` reads."""
    folder = tmp_path / "inputs"
    folder.mkdir()
    (folder / "classes.txt").write_text("cat\nrocket\nzebra\n")
    (folder / "descriptions.json").write_text(json.dumps({"cat": ["whiskers", "ears"]}))
    np.save(folder / "vectors.npy", np.random.default_rng(0).normal(size=(4, 32)).astype(np.float32))
    (folder / "labels.txt").write_text("cat\nrocket\ncat\nrocket\n")
    return folder


class TestMemory:
    @pytest.mark.parametrize(
        ("options", "said", "weight"),
        [
            (["--images", "PICTURES"], "4 classes, 12 pictures, 4 texts", 0.0),
            (["--classes", "classes.txt"], "3 classes, 3 texts", 1.0),
            (["--descriptions", "descriptions.json"], "1 classes, 3 texts", 1.0),
            (
                ["--classes", "classes.txt", "--descriptions", "descriptions.json"],
                "3 classes, 5 texts\n2 classes have no description, as 'rocket'; WCA and GRAIN go by their names",
                1.0,
            ),
            (["--images", "PICTURES", "--classes", "classes.txt"], "5 classes, 12 pictures, 5 texts", 0.5),
            (["--images", "PICTURES", "--text-weight", "0.25"], "4 classes, 12 pictures, 4 texts", 0.25),
            (["--images", "PICTURES", "--shots", "2"], "4 classes, 8 pictures, 4 texts", 0.0),
            (["--embeddings", "vectors.npy", "--labels", "labels.txt"], "2 classes, 4 pictures, 2 texts", 0.0),
            (
                ["--embeddings", "vectors.npy", "--labels", "labels.txt", "--classes", "classes.txt"],
                "3 classes, 4 pictures, 3 texts",
                0.5,
            ),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else "-",
    )
    def test_sources(
        self,
        own: Path,
        inputs: Path,
        labelled_folder: Path,
        capsys: Capture,
        options: list[str],
        said: str,
        weight: float,
    ) -> None:
        argv = [
            str(labelled_folder) if arg == "PICTURES" else str(inputs / arg) if (inputs / arg).is_file() else arg
            for arg in options
        ]
        assert main(["memory", str(own), *argv, "--dim", "8"]) == 0
        out = capsys.readouterr().out
        memory = Memory.open(own)
        assert memory.text_weight == weight
        # Where there are enough pictures to measure it, a line tells what the discriminant finds.
        head, *lines = [line for line in out.splitlines() if not line.startswith("discriminant: ")]
        assert head.split()[: 1 + len(memory.parts)] == ["class", *memory.parts]
        assert {line.split()[0] for line in lines[: len(memory.labels)]} == set(memory.labels)
        assert lines[len(memory.labels) : -1] == f"{own}: {said}".splitlines()
        assert lines[-1].startswith("next: `rar-recognize ")
        assert ("discriminant: " in out) <= (memory.discriminant is not None)

    def test_a_csv_with_shots_and_a_seed(self, own: Path, labelled_folder: Path, tmp_path: Path) -> None:
        source = tmp_path / "train.csv"
        rows = [f"{path},{path.parent.name}" for path in sorted(labelled_folder.rglob("*.*"))]
        source.write_text("\n".join(["path,label", *rows]))
        vectors = []
        for seed in ("3", "3", "4"):
            argv = ["memory", str(own), "--images", str(source), "--shots", "1", "--seed", seed, "--dim", "none"]
            assert main(argv) == 0
            vectors.append(np.array(Memory.open(own).parts["pictures"].vectors))
        np.testing.assert_array_equal(vectors[0], vectors[1])
        assert not np.array_equal(vectors[0], vectors[2])

    def test_out_leaves_the_bundle_as_it_is(self, own: Path, inputs: Path, tmp_path: Path, capsys: Capture) -> None:
        before = tree(own)
        copy = tmp_path / "copy"
        argv = ["memory", str(own), "--classes", str(inputs / "classes.txt"), "--dim", "none", "--out", str(copy)]
        assert main(argv) == 0
        assert f"\n{copy}: " in capsys.readouterr().out
        assert tree(own) == before
        assert Memory.open(copy).labels == ["cat", "rocket", "zebra"]
        # `checks`: what passed when the graphs were first used there.
        assert sorted(os.listdir(copy)) == ["bundle.json", "checks", "clip", "memory"]

    @pytest.mark.parametrize("rank", ["none", "wca"])
    def test_the_default_ranker_can_be_chosen(self, own: Path, inputs: Path, rank: str) -> None:
        argv = ["memory", str(own), "--classes", str(inputs / "classes.txt"), "--dim", "none", "--rank", rank]
        assert main(argv) == 0
        assert Bundle.open(own).component("memory").info["rank"] == rank

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            ([], "nothing to remember"),
            (["--images", "nowhere"], "nowhere: no such folder or file"),
            (["--images", "."], "no sub-folder"),
            (["--classes", "nowhere.txt"], "nowhere.txt: cannot be read"),
            (["--classes", "empty.txt"], "holds no class name"),
            (["--classes", "blank.txt"], "the class name is blank"),
            (["--classes", "twice.txt"], "'cat' stands there twice"),
            (["--descriptions", "classes.txt"], "not the JSON of {class: [sentences]}"),
            (["--classes", "classes.txt", "--descriptions", "other.json"], "descriptions name 'dog'"),
            (["--embeddings", "vectors.npy"], "needs the class of each vector; give a file with one a line (--labels)"),
            (["--labels", "labels.txt"], "--labels and the columns' names go with --embeddings"),
            (["--classes", "classes.txt", "--label-column", "x"], "go with --embeddings"),
            (["--embeddings", "vectors.npy", "--labels", "labels.txt", "--label-column", "x"], "has no columns"),
            (["--embeddings", "narrow.npy", "--labels", "labels.txt"], "3 dimensions do not fit the encoder's 32"),
            (["--embeddings", "vectors.npy", "--labels", "labels.txt", "--shots", "2"], "one or the other"),
            (["--classes", "classes.txt", "--tags", "classes.txt"], "not the JSON of {tag: [classes]}"),
            (["--classes", "classes.txt", "--tags", "tags.json"], "the tag 'pet' names 'dog', which is none of"),
            (["--classes", "classes.txt", "--dim", "recall=0"], "above 0 and at most 100 percent"),
            (["--classes", "classes.txt", "--dim", "8", "--reducer", "none"], "keeps all dimensions"),
            (["--classes", "classes.txt", "--shards", "0"], "shards=0"),
            (["--classes", "classes.txt", "--pool", "0"], "pool=0"),
            (["--embeddings", "classes.txt", "--labels", "labels.txt"], "not a .npy of numbers"),
            (["--embeddings", "vectors.npz", "--labels", "labels.txt"], "vectors.npz"),
            (["--embeddings", "vectors.npy", "--labels", "classes.txt"], "do not fit 3 labels"),
            (["--embeddings", "vectors.npy", "--labels", "labels.txt", "--images", "."], "one or the other"),
            (["--classes", "classes.txt", "--dim", "x"], "no number"),
            (["--classes", "classes.txt", "--dim", "4096"], "choose 1 to 32"),
            (["--classes", "classes.txt", "--text-weight", "0"], "text weight"),
            (["--classes", "classes.txt", "--threads", "0"], "threads"),
            (["--images", "PICTURES", "--shots", "0"], "shots=0"),
            (["--images", "PICTURES", "--shots", "1", "--seed", "-1"], "seed"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else "-",
    )
    def test_refusals_leave_the_old_memory(
        self,
        own: Path,
        inputs: Path,
        labelled_folder: Path,
        capsys: Capture,
        monkeypatch: pytest.MonkeyPatch,
        options: list[str],
        message: str,
    ) -> None:
        monkeypatch.chdir(inputs)
        (inputs / "empty.txt").write_text("\n")
        (inputs / "blank.txt").write_text("cat\n\ndog\n")
        (inputs / "twice.txt").write_text("cat\ndog\ncat\n")
        (inputs / "other.json").write_text('{"dog": ["ears"]}')
        (inputs / "tags.json").write_text('{"pet": ["cat", "dog"]}')
        np.savez(inputs / "vectors.npz", a=np.ones((4, 32)))
        np.save(inputs / "narrow.npy", np.ones((4, 3)))
        before = tree(own)
        argv = [str(labelled_folder) if arg == "PICTURES" else arg for arg in options]
        argv += [] if "--dim" in argv else ["--dim", "none"]
        assert message in fails(capsys, "memory", own, *argv)
        assert tree(own) == before

    def test_a_picture_that_cannot_be_read(self, own: Path, tmp_path: Path, capsys: Capture) -> None:
        (tmp_path / "classes" / "dog").mkdir(parents=True)
        (tmp_path / "classes" / "dog" / "broken.jpg").write_bytes(b"no picture")
        before = tree(own)
        assert "broken.jpg" in fails(capsys, "memory", own, "--images", tmp_path / "classes", "--dim", "none")
        assert tree(own) == before

    def test_out_is_not_left_half_made(self, own: Path, tmp_path: Path, capsys: Capture) -> None:
        (tmp_path / "classes" / "dog").mkdir(parents=True)
        (tmp_path / "classes" / "dog" / "broken.jpg").write_bytes(b"no picture")
        copy = tmp_path / "copy"
        error = fails(capsys, "memory", own, "--images", tmp_path / "classes", "--dim", "none", "--out", copy)
        assert "broken.jpg" in error
        assert not copy.exists()

    @pytest.mark.parametrize("where", ["inputs", "inputs/classes.txt", "inputs/classes.txt/under"])
    def test_out_in_a_place_that_is_taken(
        self, own: Path, inputs: Path, tmp_path: Path, capsys: Capture, where: str
    ) -> None:
        before = tree(inputs)
        fails(capsys, "memory", own, "--classes", inputs / "classes.txt", "--dim", "none", "--out", tmp_path / where)
        assert tree(inputs) == before

    @pytest.mark.parametrize("command", ["memory", "inspect", "verify"])
    def test_what_is_no_bundle(self, tmp_path: Path, inputs: Path, capsys: Capture, command: str) -> None:
        options = ["--classes", inputs / "classes.txt"] if command == "memory" else []
        for where in (tmp_path / "nowhere", inputs, inputs / "classes.txt"):
            assert "no bundle there" in fails(capsys, command, where, *options)
        assert not (tmp_path / "nowhere").exists()


class TestIndexOptions:
    def test_what_was_asked_is_stored_and_shown(self, own: Path, inputs: Path, capsys: Capture) -> None:
        (inputs / "tags.json").write_text('{"pet": ["cat"]}')
        np.save(inputs / "many.npy", np.random.default_rng(0).normal(size=(300, 32)))
        (inputs / "many.txt").write_text("cat\nrocket\n" * 150)
        files = ["--embeddings", str(inputs / "many.npy"), "--labels", str(inputs / "many.txt")]
        options = ["--dim", "1/2", "--reducer", "truncate", "--dtype", "i8", "--shards", "2", "--pool", "3"]
        assert main(["memory", str(own), *files, "--tags", str(inputs / "tags.json"), *options]) == 0
        assert Memory.open(own).tags == {"pet": ["cat"]}
        capsys.readouterr()
        assert main(["inspect", str(own)]) == 0
        out = capsys.readouterr().out
        for word in (
            "pool: 3",
            "to 16 dimensions by truncate, asked for 1/2",
            "stored in i8",
            "shards 2",
            "recall@10 ",
        ):
            assert word in out
        assert main(["verify", str(own)]) == 0

    def test_a_recall(self, own: Path, labelled_folder: Path, capsys: Capture) -> None:
        assert main(["memory", str(own), "--images", str(labelled_folder), "--dim", "recall=99.5"]) == 0
        assert main(["inspect", str(own)]) == 0
        assert "asked for recall=99.5" in capsys.readouterr().out


class TestChanges:
    @pytest.fixture
    def filled(self, own: Path, labelled_folder: Path) -> Path:
        assert main(["memory", str(own), "--images", str(labelled_folder), "--dim", "8"]) == 0
        return own

    def test_add_remove_and_compact(self, filled: Path, tmp_path: Path, capsys: Capture, photos: list[Path]) -> None:
        (tmp_path / "more" / "palace").mkdir(parents=True)
        (tmp_path / "more" / "cat").mkdir()
        for number, folder in enumerate(("palace", "palace", "cat")):
            target = tmp_path / "more" / folder / f"{number}{photos[number].suffix}"
            target.write_bytes(photos[number].read_bytes())
        capsys.readouterr()
        assert main(["add", str(filled), "--images", str(tmp_path / "more")]) == 0
        assert capsys.readouterr().out == f"{filled}: 3 pictures added\n"
        memory = Memory.open(filled)
        assert (memory.labels[-1], len(memory.parts["pictures"])) == ("palace", 15)
        assert main(["inspect", str(filled)]) == 0
        assert "memory.log: 1 changes since" in capsys.readouterr().out
        assert main(["remove", str(filled), "rocket", "grass"]) == 0
        assert capsys.readouterr().out == f"{filled}: 2 classes removed\n"
        assert set(memory.labels) == {"cat", "coffee", "palace"}
        assert main(["compact", str(filled)]) == 0
        assert set(memory.labels) == {"cat", "coffee", "palace"}
        capsys.readouterr()
        assert main(["inspect", str(filled)]) == 0
        assert "changes since" not in capsys.readouterr().out
        assert main(["verify", str(filled)]) == 0

    def test_add_embeddings(self, filled: Path, inputs: Path, capsys: Capture) -> None:
        capsys.readouterr()
        files = ["--embeddings", str(inputs / "vectors.npy"), "--labels", str(inputs / "labels.txt")]
        assert main(["add", str(filled), *files]) == 0
        assert capsys.readouterr().out == f"{filled}: 4 embeddings added\n"
        part = Memory.open(filled).parts["pictures"]
        assert [part.source(12 + i) for i in range(4)] == [f"{inputs / 'vectors.npy'}[{i}]" for i in range(4)]

    @pytest.mark.parametrize(
        ("argv", "message"),
        [
            (["add", "OWN"], "nothing to add"),
            (["add", "OWN", "--images", "nowhere"], "nowhere: no such folder"),
            (["add", "OWN", "--embeddings", "vectors.npy"], "--labels"),
            (["add", "OWN", "--embeddings", "narrow.npy", "--labels", "labels.txt"], "3 dimensions do not fit"),
            (["remove", "OWN", "cat", "unicorn"], "no class 'unicorn'; nothing was removed"),
            (["vectors", "OWN", "nowhere/v.npy"], "nowhere/v.npy"),
            (["vectors", "nowhere", "v.npy"], "no bundle there"),
        ],
        ids=" ".join,
    )
    def test_refusals_change_nothing(
        self,
        filled: Path,
        inputs: Path,
        capsys: Capture,
        monkeypatch: pytest.MonkeyPatch,
        argv: list[str],
        message: str,
    ) -> None:
        monkeypatch.chdir(inputs)
        np.save(inputs / "narrow.npy", np.ones((4, 3)))
        capsys.readouterr()
        before = tree(filled)
        assert message in fails(capsys, *[str(filled) if word == "OWN" else word for word in argv])
        after = tree(filled)
        assert {name: after[name] for name in before if name != "memory.lock"} == {
            name: content for name, content in before.items() if name != "memory.lock"
        }

    @pytest.mark.parametrize("name", ["out.npy", "out.parquet", "out.index", "out"])
    def test_vectors_out_and_in_again(
        self, filled: Path, tmp_path: Path, capsys: Capture, name: str, names_bundle: Path
    ) -> None:
        assert main(["remove", str(filled), "rocket"]) == 0
        memory = Memory.open(filled)
        memory.add(np.eye(32, dtype=np.float32)[:2], ["coffee", "unicorn"])
        memory.close()
        capsys.readouterr()
        assert main(["vectors", str(filled), str(tmp_path / name)]) == 0
        assert "11 vectors of 32 dimensions" in capsys.readouterr().out
        labels = tmp_path / f"{name}.labels.txt"
        options = ["--labels", str(labels)] if labels.exists() else []
        copy = tmp_path / "copy"
        argv = ["memory", str(names_bundle), "--embeddings", str(tmp_path / name), *options, "--out", str(copy)]
        assert main([*argv, "--dim", "none"]) == 0
        again = Memory.open(copy)
        assert again.labels == ["cat", "coffee", "grass", "unicorn"]
        part, own = again.parts["pictures"], memory.parts["pictures"]
        kept = own.vectors[own.labels >= 0]
        np.testing.assert_allclose(part.vectors[:9], kept, atol=1e-3)
        np.testing.assert_allclose(part.vectors[9:], np.eye(32)[:2], atol=1e-3)
        assert [again.labels[i] for i in part.labels[9:]] == ["coffee", "unicorn"]

    @pytest.mark.parametrize(("module", "name"), [("faiss", "v.index"), ("pyarrow", "v.parquet")])
    def test_what_to_install_is_said(
        self, filled: Path, tmp_path: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch, module: str, name: str
    ) -> None:
        monkeypatch.setitem(sys.modules, module, None)
        monkeypatch.delitem(sys.modules, "rar.export.interchange.faiss_index", raising=False)
        capsys.readouterr()
        assert "rar-runtime[interchange]" in fails(capsys, "vectors", filled, tmp_path / name)
        assert list(tmp_path.glob("*v.*")) == []

    def test_texts_out(self, filled: Path, tmp_path: Path, capsys: Capture) -> None:
        assert main(["vectors", str(filled), str(tmp_path / "t.npy"), "--part", "texts"]) == 0
        assert np.load(tmp_path / "t.npy").shape == (4, 32)
        assert (tmp_path / "t.npy.labels.txt").read_text() == "cat\ncoffee\ngrass\nrocket\n"


class TestInspectAndVerify:
    def test_inspect(self, own: Path, capsys: Capture) -> None:
        assert main(["inspect", str(own)]) == 0
        out = capsys.readouterr().out
        for word in (str(own), "visual.onnx", "precision: fp32", "memory", "labels.json", "parity"):
            assert word in out

    def test_inspect_does_not_load_the_parts(self, own: Path, capsys: Capture) -> None:
        (own / "clip" / "visual.onnx").write_bytes(bytes((own / "clip" / "visual.onnx").stat().st_size))
        assert main(["inspect", str(own)]) == 0

    def test_verify(self, own: Path, capsys: Capture) -> None:
        assert main(["verify", str(own)]) == 0
        assert capsys.readouterr().out.endswith("recognizer: opens\n")

    def test_verify_of_an_altered_model(self, own: Path, capsys: Capture) -> None:
        path = own / "clip" / "visual.onnx"
        path.write_bytes(bytes(path.stat().st_size))
        assert main(["verify", str(own)]) == 2
        out, err = capsys.readouterr()
        assert out == "manifest: clip, memory\n"
        assert len(err.splitlines()) == 1
        assert "visual.onnx: altered" in err

    @pytest.mark.parametrize("command", ["inspect", "verify"])
    def test_a_newer_format(self, own: Path, capsys: Capture, command: str, edit_manifest: Callable[..., None]) -> None:
        edit_manifest(own, lambda manifest: manifest.update(format=2))
        assert "format 2" in fails(capsys, command, own)

    @pytest.mark.parametrize("command", ["inspect", "verify"])
    def test_a_path_that_leads_out(
        self, own: Path, capsys: Capture, command: str, edit_manifest: Callable[..., None]
    ) -> None:
        def change(manifest: dict[str, dict[str, dict[str, dict[str, dict[str, object]]]]]) -> None:
            manifest["components"]["memory"]["files"]["labels.json"]["path"] = "../labels.json"

        edit_manifest(own, change)
        assert "leads out of the bundle" in fails(capsys, command, own)


class TestOtherCommands:
    @pytest.mark.parametrize("argv", [[], ["bake"], ["memory"], ["clip", "out"], ["memory", "b", "--shots", "x"]])
    def test_usage(self, capsys: Capture, argv: list[str]) -> None:
        with pytest.raises(SystemExit) as caught:
            main(argv)
        assert caught.value.code == 2
        assert "usage: rar-export" in capsys.readouterr().err

    @pytest.mark.parametrize(
        ("argv", "words"),
        [
            ([], ["starter", "clip", "memory", "add", "remove", "compact", "vectors", "inspect", "verify"]),
            (["clip"], ["--model", "--pretrained", "--hf", "--precision", "ViT-B-32"]),
            (
                ["memory"],
                [
                    "--images",
                    "--classes",
                    "--descriptions",
                    "--embeddings",
                    "--dim",
                    "--rank",
                    "--out",
                    "1/9",
                    "recall=99.5",
                ],
            ),
            (["starter"], ["--precision", "ImageNet"]),
            (["inspect"], ["BUNDLE"]),
            (["verify"], ["BUNDLE", "hash"]),
        ],
    )
    def test_help_says_enough(self, capsys: Capture, argv: list[str], words: list[str]) -> None:
        with pytest.raises(SystemExit) as caught:
            main([*argv, "--help"])
        assert caught.value.code == 0
        out = capsys.readouterr().out
        for word in words:
            assert word in out

    @pytest.mark.parametrize(
        ("options", "message"),
        [
            (["--model", "nowhere.json", "--pretrained", "x.pt"], "no such model configuration"),
            (["--model", "ViT-B-32"], "--pretrained"),
            (["--model", "no-such-model", "--pretrained", "x.pt"], "open_clip cannot load"),
        ],
        ids=lambda value: " ".join(value) if isinstance(value, list) else "-",
    )
    def test_clip_refusals_leave_nothing(
        self,
        tmp_path: Path,
        capsys: Capture,
        monkeypatch: pytest.MonkeyPatch,
        options: list[str],
        message: str,
    ) -> None:
        pytest.importorskip("open_clip")
        monkeypatch.chdir(tmp_path)
        monkeypatch.setenv("HF_HUB_OFFLINE", "1")
        assert message in fails(capsys, "clip", tmp_path / "out", *options)
        assert os.listdir(tmp_path) == []

    def test_clip_does_not_replace_an_encoder(
        self, own: Path, tiny_openclip: tuple[Path, Path], capsys: Capture
    ) -> None:
        config, checkpoint = tiny_openclip
        before = tree(own)
        assert str(own) in fails(capsys, "clip", own, "--model", config, "--pretrained", checkpoint)
        assert tree(own) == before


def test_nothing_is_printed_in_colours(own: Path, capsys: Capture) -> None:
    for argv in (["inspect", str(own)], ["verify", str(own)]):
        main(argv)
    assert "\x1b" not in capsys.readouterr().out
