"""Writes small hostile bundles, each what a stranger could send, to see them refused (`run.py`).

    python tests/attacks/make.py FOLDER

Each is a good bundle (`by_hand.py`) with one thing forged; sizes and hashes are made to fit, as a forger would. Beside
the bundles lies `precious`, which no attack may read, change or delete.
"""

from __future__ import annotations

import hashlib
import io
import json
import os
import shutil
import struct
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # as a script it stands outside the tests

from by_hand import WIDTH, fingerprint, write_bundle, write_log

ATTACKS: dict[str, Callable[[Path], None]] = {}
PRECIOUS = "precious, and not of the bundle"


def attack(make: Callable[[Path], None]) -> Callable[[Path], None]:
    """Notes a function that forges the bundle at a path."""
    ATTACKS[make.__name__.replace("_", "-")] = make
    return make


def edit(root: Path, change: Callable[[Any], None]) -> None:
    manifest = json.loads((root / "bundle.json").read_text())
    change(manifest)
    (root / "bundle.json").write_text(json.dumps(manifest))


def forge(root: Path, component: str, name: str, content: bytes) -> None:
    """Replaces a file, and its size and hash in the manifest; a log then belongs to the forged memory."""
    (root / component / name).write_bytes(content)

    def record(manifest: Any) -> None:
        files = manifest["components"][component]["files"]
        files[name].update(bytes=len(content), sha256=hashlib.sha256(content).hexdigest())
        if component == "clip":
            manifest["components"]["memory"]["info"]["encoder"] = fingerprint(files)

    edit(root, record)


def memory_of(root: Path) -> str:
    return fingerprint(json.loads((root / "bundle.json").read_text())["components"]["memory"]["files"])


def array(value: Any) -> bytes:
    out = io.BytesIO()
    np.save(out, value, allow_pickle=True)
    return out.getvalue()


def npy(header: str, content: bytes = b"") -> bytes:
    text = header.encode().ljust(118) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + content


# The manifest


@attack
def manifest_that_is_nested(root: Path) -> None:
    (root / "bundle.json").write_text("[" * 200_000)


@attack
def manifest_that_is_a_pipe(root: Path) -> None:
    (root / "bundle.json").unlink()
    os.mkfifo(root / "bundle.json")


@attack
def manifest_without_end(root: Path) -> None:
    (root / "bundle.json").unlink()
    (root / "bundle.json").symlink_to("/dev/zero")


@attack
def manifest_of_a_terabyte(root: Path) -> None:
    os.truncate(root / "bundle.json", 1 << 40)


@attack
def manifest_with_a_long_number(root: Path) -> None:
    text = (root / "bundle.json").read_text()
    (root / "bundle.json").write_text(text.replace('"bytes": ', '"bytes": ' + "9" * 100_000, 1))


@attack
def manifest_with_infinity(root: Path) -> None:
    text = (root / "bundle.json").read_text()
    (root / "bundle.json").write_text(text.replace('"bytes": ', '"bytes": 1e999, "was": ', 1))


@attack
def path_upwards(root: Path) -> None:
    edit(root, lambda m: m["components"]["memory"]["files"]["labels.json"].update(path="memory/../../precious"))


@attack
def path_from_the_root(root: Path) -> None:
    place = str((root.parent / "precious").resolve())
    edit(root, lambda m: m["components"]["memory"]["files"]["labels.json"].update(path=place))


@attack
def path_with_a_null(root: Path) -> None:
    edit(root, lambda m: m["components"]["memory"]["files"]["labels.json"].update(path="memory/labels.json\0"))


@attack
def newer_format(root: Path) -> None:
    edit(root, lambda m: m.update(format=2))


# Links and what lies in the place of files


@attack
def link_to_a_file_of_the_user(root: Path) -> None:
    labels = root / "memory" / "labels.json"
    content = (root.parent / "precious").read_bytes()
    forge(root, "memory", "labels.json", content)
    forged = json.loads((root / "bundle.json").read_text())
    forged["components"]["memory"]["files"]["labels.json"]["sha256"] = "0" * 64
    (root / "bundle.json").write_text(json.dumps(forged))
    labels.unlink()
    labels.symlink_to("../../precious")


@attack
def link_that_is_mapped(root: Path) -> None:
    vectors = root / "memory" / "pictures" / "vectors.npy"
    place = root.parent / f"{root.name}.vectors"
    place.write_bytes(vectors.read_bytes()[:-2] + b"\0\0")
    vectors.unlink()
    vectors.symlink_to(place)


@attack
def file_that_is_a_pipe(root: Path) -> None:
    path = root / "clip" / "tokenizer.json"
    path.unlink()
    os.mkfifo(path)
    edit(root, lambda m: m["components"]["clip"]["files"]["tokenizer.json"].update(bytes=0))


@attack
def log_that_is_a_pipe(root: Path) -> None:
    (root / "memory.log").unlink()
    os.mkfifo(root / "memory.log")


@attack
def log_without_end(root: Path) -> None:
    (root / "memory.log").unlink()
    (root / "memory.log").symlink_to("/dev/zero")


@attack
def log_that_is_a_link(root: Path) -> None:
    os.replace(root / "memory.log", root.parent / f"{root.name}.log")
    (root / "memory.log").symlink_to(f"../{root.name}.log")


@attack
def log_with_a_second_name(root: Path) -> None:
    (root.parent / f"{root.name}.log").hardlink_to(root / "memory.log")


@attack
def lock_that_is_a_link(root: Path) -> None:
    (root / "memory.lock").symlink_to("../precious")


@attack
def lock_that_is_a_pipe(root: Path) -> None:
    os.mkfifo(root / "memory.lock")


# The log


@attack
def log_of_marks(root: Path) -> None:
    with (root / "memory.log").open("ab") as file:
        file.write((b"\xabREC" + struct.pack("<I", 1 << 19) + bytes(8)) * (1 << 17))


@attack
def log_of_a_terabyte(root: Path) -> None:
    os.truncate(root / "memory.log", 1 << 40)


@attack
def log_that_removes_what_is_not_there(root: Path) -> None:
    write_log(root / "memory.log", memory_of(root), [b'{"remove": "nobody"}'])


@attack
def log_of_nan(root: Path) -> None:
    head = json.dumps({"add": {"pictures": {"labels": ["x"], "sources": [""]}}}).encode()
    write_log(root / "memory.log", memory_of(root), [head + b"\n" + np.full(WIDTH, np.nan, "<f2").tobytes()])


@attack
def log_that_is_nested(root: Path) -> None:
    write_log(root / "memory.log", memory_of(root), [b"[" * 200_000])


@attack
def log_with_a_name_that_steers_the_terminal(root: Path) -> None:
    head = json.dumps({"add": {}, "relabel": "cat", "to": 7, "forget": False}).encode()
    write_log(root / "memory.log", memory_of(root), [head + b"\n"])


# Arrays


@attack
def vectors_that_are_a_pickle(root: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {root.parent / 'pwned'}",)

    forge(root, "memory", "pictures/vectors.npy", array(np.array([Payload()], dtype=object)))


@attack
def vectors_of_a_huge_shape(root: Path) -> None:
    header = "{'descr': '<f2', 'fortran_order': False, 'shape': (9223372036854775807, 12), }"
    forge(root, "memory", "pictures/vectors.npy", npy(header, bytes(720)))


@attack
def vectors_of_a_negative_shape(root: Path) -> None:
    header = "{'descr': '<f2', 'fortran_order': False, 'shape': (-1, 12), }"
    forge(root, "memory", "pictures/vectors.npy", npy(header, bytes(720)))


@attack
def vectors_with_a_nested_header(root: Path) -> None:
    text = b"(" * 60_000 + b"\n"
    forge(root, "memory", "pictures/vectors.npy", b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text)


@attack
def vectors_in_fortran_order(root: Path) -> None:
    forge(root, "memory", "pictures/vectors.npy", array(np.asfortranarray(np.ones((30, WIDTH), np.float16))))


@attack
def vectors_of_nan(root: Path) -> None:
    forge(root, "memory", "pictures/vectors.npy", array(np.full((30, WIDTH), np.nan, np.float16)))


@attack
def vectors_of_nothing(root: Path) -> None:
    forge(root, "memory", "pictures/vectors.npy", array(np.zeros((30, WIDTH), np.float16)))


@attack
def entries_of_no_class(root: Path) -> None:
    forge(root, "memory", "pictures/entries.npy", array(np.full(30, 99, np.int32)))


@attack
def entries_of_a_wrong_count(root: Path) -> None:
    forge(root, "memory", "pictures/entries.npy", array(np.zeros(3, np.int32)))


@attack
def reduction_that_unpacks_to_gigabytes(root: Path) -> None:
    out = io.BytesIO()
    with (
        zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive,
        archive.open("mean.npy", "w", force_zip64=True) as file,
    ):
        file.write(npy("{'descr': '<f4', 'fortran_order': False, 'shape': (268435456,), }"))
        for _ in range(1 << 10):
            file.write(bytes(1 << 20))
    forge(root, "memory", "pictures/reduction.npz", out.getvalue())


@attack
def reduction_that_is_a_pickle(root: Path) -> None:
    forge(root, "memory", "pictures/reduction.npz", b"\x80\x04cos\nsystem\n(S'true'\ntR.")


@attack
def index_of_another_kind(root: Path) -> None:
    forge(root, "memory", "pictures/index.usearch", b"usearch" + bytes(5000))


@attack
def index_that_is_cut_off(root: Path) -> None:
    content = (root / "memory" / "pictures" / "index.usearch").read_bytes()
    forge(root, "memory", "pictures/index.usearch", content[: len(content) // 2])


# The encoder


@attack
def graph_with_weights_elsewhere(root: Path) -> None:
    import onnx

    model = onnx.load(str(root / "clip" / "visual.onnx"))
    tensor = model.graph.initializer[0]
    tensor.data_location = onnx.TensorProto.EXTERNAL
    tensor.ClearField("raw_data")
    tensor.external_data.add(key="location", value="../../precious")
    forge(root, "clip", "visual.onnx", model.SerializeToString())


@attack
def graph_with_compiled_code(root: Path) -> None:
    import onnx

    model = onnx.load(str(root / "clip" / "visual.onnx"), load_external_data=False)
    node = onnx.helper.make_node("EPContext", ["x"], ["y"], domain="com.microsoft", ep_cache_context=b"an engine")
    model.graph.node.append(node)
    forge(root, "clip", "visual.onnx", model.SerializeToString())


@attack
def graph_that_is_none(root: Path) -> None:
    forge(root, "clip", "visual.onnx", b"\xff" * 3000)


@attack
def pictures_of_a_huge_side(root: Path) -> None:
    settings = {"size": 10**9, "mean": [0.5] * 3, "std": [0.25] * 3}
    forge(root, "clip", "preprocess.json", json.dumps(settings).encode())


@attack
def tokenizer_that_is_none(root: Path) -> None:
    forge(root, "clip", "tokenizer.json", b'{"version": "1.0", "model": {"type": "Pickle"}}')


@attack
def labels_that_repeat(root: Path) -> None:
    forge(root, "memory", "labels.json", json.dumps(["cat", "cat", "dog"]).encode())


@attack
def labels_that_are_nested(root: Path) -> None:
    forge(root, "memory", "labels.json", b"[" * 200_000)


@attack
def tags_of_other_classes(root: Path) -> None:
    forge(root, "memory", "tags.json", b'{"animal": ["nobody"]}')


def make_all(folder: Path) -> list[Path]:
    """Writes all attacks; returns their bundles."""
    folder.mkdir(parents=True, exist_ok=True)
    good = write_bundle(folder / "good")
    bundles = []
    for name, forge_it in ATTACKS.items():
        (folder / name).mkdir()
        (folder / name / "precious").write_text(PRECIOUS)
        bundles.append(Path(shutil.copytree(good, folder / name / "bundle")))
        forge_it(bundles[-1])
    return bundles


if __name__ == "__main__":
    for bundle in make_all(Path(sys.argv[1])):
        print(bundle)
