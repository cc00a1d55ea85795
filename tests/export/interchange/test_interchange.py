"""What others made is read as it is or refused with what is wrong; what is written is read again, and by others."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import faiss
import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from memories import npy

from rar.export.interchange import Embeddings, read_embeddings, write_embeddings
from rar.export.interchange.embeddings import BLOCK
from rar.runtime import InputError

Floats = npt.NDArray[np.float32]
DIM = 16
LABELS = ["cat", "dog", "hot dog", "烤鸭"]


def vectors(count: int = 50, seed: int = 0) -> Floats:
    raw = np.random.default_rng(seed).normal(size=(count, DIM))
    return np.asarray(raw / np.linalg.norm(raw, axis=1, keepdims=True), np.float32)


def labels(count: int = 50) -> list[str]:
    return [LABELS[i % len(LABELS)] for i in range(count)]


def content(embeddings: Embeddings) -> tuple[Floats, list[str], list[str]]:
    """All unit vectors, labels and sources."""
    found = [(unit, block.labels, block.sources) for unit, block in embeddings.unit_blocks()]
    return (
        np.concatenate([unit for unit, _, _ in found]),
        [label for _, own, _ in found for label in own],
        [source for _, _, own in found for source in own],
    )


@pytest.fixture
def label_file(tmp_path: Path) -> Path:
    """A class a line, for 50 vectors."""
    path = tmp_path / "labels.txt"
    path.write_text("\n".join(labels()) + "\n")
    return path


class TestNpy:
    @pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64])
    @pytest.mark.parametrize("text", ["a\n b \na", "a\r\nb\r\na\r\n", "\ufeffa\nb\na\n"])
    def test_read(self, tmp_path: Path, dtype: type, text: str) -> None:
        (tmp_path / "v.npy").write_bytes(npy(7 * vectors(3).astype(dtype)))
        (tmp_path / "l.txt").write_bytes(text.encode())
        embeddings = read_embeddings(tmp_path / "v.npy", tmp_path / "l.txt")
        assert (embeddings.count, embeddings.dim) == (3, DIM)
        unit, names, sources = content(embeddings)
        np.testing.assert_allclose(unit, vectors(3), atol=1e-3)
        assert unit.dtype == np.float32
        assert names == ["a", "b", "a"]
        assert sources == [f"{tmp_path}/v.npy[{row}]" for row in range(3)]

    def test_it_is_read_in_blocks(self, tmp_path: Path) -> None:
        many = vectors(BLOCK + 100)
        (tmp_path / "v.npy").write_bytes(npy(many))
        (tmp_path / "l.txt").write_text("\n".join(labels(len(many))))
        embeddings = read_embeddings(tmp_path / "v.npy", tmp_path / "l.txt")
        assert [len(block.vectors) for block in embeddings.read()] == [BLOCK, 100]
        unit, names, sources = content(embeddings)
        np.testing.assert_allclose(unit, many, atol=1e-6)
        assert names == labels(len(many))
        assert sources[-1] == f"{tmp_path}/v.npy[{len(many) - 1}]"

    @pytest.mark.parametrize(
        "wrong", [b"", b"garbage", npy(np.ones((3, 4)))[:150], b"PK\x03\x04garbage", npy(np.array([{}]), pickled=True)]
    )
    def test_no_npy(self, tmp_path: Path, label_file: Path, wrong: bytes) -> None:
        (tmp_path / "v.npy").write_bytes(wrong)
        with pytest.raises(InputError, match=r"v\.npy"):
            read_embeddings(tmp_path / "v.npy", label_file)

    def test_an_npz(self, tmp_path: Path, label_file: Path) -> None:
        np.savez(tmp_path / "v.npz", a=np.ones((3, 4)))
        with pytest.raises(InputError, match="several arrays"):
            read_embeddings(tmp_path / "v.npz", label_file)

    @pytest.mark.parametrize("array", [np.ones((3, 4), np.int32), np.array(["a"]), np.ones((3, 4), complex)])
    def test_other_numbers(self, tmp_path: Path, label_file: Path, array: npt.NDArray[Any]) -> None:
        (tmp_path / "v.npy").write_bytes(npy(array))
        with pytest.raises(InputError, match="floating-point"):
            read_embeddings(tmp_path / "v.npy", label_file)

    @pytest.mark.parametrize("shape", [(2, DIM), (4, DIM), (3, 1, DIM), (3 * DIM,), (0, DIM), (3, 0)], ids=str)
    def test_a_shape_that_does_not_fit(self, tmp_path: Path, shape: tuple[int, ...]) -> None:
        (tmp_path / "v.npy").write_bytes(npy(np.ones(shape)))
        (tmp_path / "l.txt").write_text("a\nb\nc")
        with pytest.raises(InputError, match="do not fit 3 labels"):
            read_embeddings(tmp_path / "v.npy", tmp_path / "l.txt")

    def test_labels(self, tmp_path: Path) -> None:
        (tmp_path / "v.npy").write_bytes(npy(vectors(3)))
        path = tmp_path / "l.txt"
        for text, message in ((b"a\n\nb", "line 2.*blank"), (b"", "blank"), (b"\xff", "cannot be read")):
            path.write_bytes(text)
            with pytest.raises(InputError, match=message):
                read_embeddings(tmp_path / "v.npy", path)
        with pytest.raises(InputError, match="nowhere"):
            read_embeddings(tmp_path / "v.npy", tmp_path / "nowhere")
        with pytest.raises(InputError, match="needs the class of each vector"):
            read_embeddings(tmp_path / "v.npy")
        with pytest.raises(InputError, match="has no columns"):
            read_embeddings(tmp_path / "v.npy", path, label_column="label")

    @pytest.mark.filterwarnings("ignore")
    @pytest.mark.parametrize("value", [0.0, np.nan, np.inf, -np.inf])
    def test_rows_that_are_none(self, value: float) -> None:
        wrong = vectors(3)
        wrong[1] = value
        with pytest.raises(InputError, match=r"embedding 1 is zero, NaN or infinite \(x\[1\]\)"):
            content(Embeddings.of(wrong, labels(3), "x"))

    @pytest.mark.parametrize(("dtype", "value"), [(np.float32, 3e38), (np.float32, 1e-38), (np.float64, 1e-150)])
    def test_extreme_lengths_are_scaled(self, dtype: type, value: float) -> None:
        raw = np.random.default_rng(0).choice([-1.0, 1.0], (3, DIM)).astype(dtype) * dtype(value)
        np.testing.assert_allclose(np.abs(content(Embeddings.of(raw, labels(3)))[0]), DIM**-0.5, atol=1e-6)


def write_table(path: Path, data: Floats | None = None, **columns: Any) -> Path:
    """A Parquet file with the columns embedding and label, or others."""
    data = vectors() if data is None else data
    table = {"embedding": pa.array(data.tolist(), pa.list_(pa.float32())), "label": pa.array(labels(len(data)))}
    table.update(columns)
    pq.write_table(pa.table({name: column for name, column in table.items() if column is not None}), path)
    return path


class TestParquet:
    @pytest.mark.parametrize(
        "kind",
        [
            pa.list_(pa.float32()),
            pa.list_(pa.float64()),
            pa.list_(pa.float16()),
            pa.large_list(pa.float32()),
            pa.list_(pa.float32(), DIM),
        ],
        ids=str,
    )
    def test_lists_of_any_kind(self, tmp_path: Path, kind: pa.DataType) -> None:
        path = write_table(tmp_path / "e.parquet", embedding=pa.array(list(vectors().astype(np.float16)), kind))
        embeddings = read_embeddings(path)
        assert (embeddings.count, embeddings.dim) == (50, DIM)
        unit, names, sources = content(embeddings)
        np.testing.assert_allclose(unit, vectors(), atol=1e-3)
        assert names == labels()
        assert sources[3] == f"{path}[3]"

    @pytest.mark.parametrize(
        "kind",
        [pa.string(), pa.large_string(), pa.dictionary(pa.int32(), pa.string())],
        ids=["string", "large", "dict"],
    )
    def test_texts_of_any_kind(self, tmp_path: Path, kind: pa.DataType) -> None:
        path = write_table(tmp_path / "e.parquet", label=pa.array(labels(), pa.string()).cast(kind))
        assert content(read_embeddings(path))[1] == labels()

    def test_columns_by_name_and_sources(self, tmp_path: Path) -> None:
        path = write_table(
            tmp_path / "e.parquet",
            label=None,
            other=pa.array((-vectors()).tolist()),
            caption=pa.array(labels()),
            url=pa.array([f"http://x/{i}" if i else None for i in range(50)]),
        )
        unit, names, sources = content(read_embeddings(path, embedding_column="other", label_column="caption"))
        np.testing.assert_allclose(unit, -vectors(), atol=1e-6)
        assert names == labels()
        assert sources[:2] == [f"{path}[0]", "http://x/1"]

    def test_a_folder_of_files_in_the_order_of_their_numbers(self, tmp_path: Path) -> None:
        folder = tmp_path / "parts"
        folder.mkdir()
        for number in (0, 2, 10):
            write_table(folder / f"part-{number}.parquet", vectors(20, seed=number))
        embeddings = read_embeddings(folder)
        assert embeddings.count == 60
        expected = np.concatenate([vectors(20, seed=number) for number in (0, 2, 10)])
        np.testing.assert_allclose(content(embeddings)[0], expected, atol=1e-6)

    def test_more_rows_than_a_block(self, tmp_path: Path) -> None:
        many = vectors(BLOCK + 100)
        flat = pa.FixedSizeListArray.from_arrays(pa.array(many.ravel()), DIM)
        embeddings = read_embeddings(write_table(tmp_path / "e.parquet", many, embedding=flat))
        unit, names, _ = content(embeddings)
        np.testing.assert_allclose(unit, many, atol=1e-6)
        assert names == labels(len(many))

    @pytest.mark.parametrize(
        ("columns", "options", "message"),
        [
            ({"label": None}, {}, "has no column 'label'"),
            ({"label": pa.array(range(50))}, {}, "column 'label' holds int64; class names are strings"),
            ({"embedding": None}, {}, "0 columns hold vectors"),
            ({"other": pa.array(vectors().tolist())}, {}, r"2 columns hold vectors \(embedding, other\)"),
            ({}, {"embedding_column": "x"}, "has no column 'x'"),
            ({}, {"embedding_column": "label"}, "holds string, not lists of floating-point"),
            ({}, {"label_column": "embedding"}, "class names are strings"),
            ({"embedding": pa.array([[1, 2]] * 50)}, {"embedding_column": "embedding"}, "not lists of floating"),
        ],
        ids=lambda value: value if isinstance(value, str) else " ".join(value),
    )
    def test_columns_that_do_not_fit(
        self, tmp_path: Path, columns: dict[str, Any], options: dict[str, str], message: str
    ) -> None:
        path = write_table(tmp_path / "e.parquet", **columns)
        with pytest.raises(InputError, match=message):
            read_embeddings(path, **options)

    @pytest.mark.parametrize(
        ("row", "message"),
        [
            ([0.5] * (DIM - 1), "unlike length"),
            ([0.5] * (DIM + 1), "unlike length"),
            ([], "unlike length"),
            (None, "a vector is missing"),
            ([None] + [0.5] * (DIM - 1), "a number is missing"),
            ([float("nan")] * DIM, "embedding 7 is zero, NaN or infinite"),
            ([0.0] * DIM, "embedding 7 is zero, NaN or infinite"),
        ],
        ids=["short", "long", "empty", "none", "hole", "nan", "zero"],
    )
    def test_rows_that_are_none(self, tmp_path: Path, row: Any, message: str) -> None:
        rows: list[Any] = vectors().tolist()
        rows[7] = row
        path = write_table(tmp_path / "e.parquet", embedding=pa.array(rows, pa.list_(pa.float32())))
        with pytest.raises(InputError, match=message):
            content(read_embeddings(path))

    @pytest.mark.parametrize(("label", "message"), [(None, "a class name is missing"), (" ", "class name is blank")])
    def test_labels_that_are_none(self, tmp_path: Path, label: str | None, message: str) -> None:
        path = write_table(tmp_path / "e.parquet", label=pa.array([*labels(49), label]))
        with pytest.raises(InputError, match=message):
            content(read_embeddings(path))

    def test_vectors_of_another_length_in_a_later_file(self, tmp_path: Path) -> None:
        write_table(tmp_path / "0.parquet")
        write_table(tmp_path / "1.parquet", np.ones((5, DIM + 1), np.float32))
        with pytest.raises(InputError, match=f"{DIM} dimensions were promised"):
            content(read_embeddings(tmp_path))

    def test_no_row(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="holds no row"):
            read_embeddings(write_table(tmp_path / "e.parquet", vectors(0), label=pa.array([], pa.string())))

    def test_what_is_no_parquet(self, tmp_path: Path) -> None:
        whole = write_table(tmp_path / "e.parquet").read_bytes()
        chance = np.random.default_rng(0)
        damaged = bytearray(whole)
        damaged[len(whole) // 2] ^= 255
        for wrong in (b"", b"PAR1garbagePAR1", whole[:-10], whole[: len(whole) // 2], chance.bytes(500)):
            (tmp_path / "e.parquet").write_bytes(wrong)
            with pytest.raises(InputError, match=r"e\.parquet: not a readable Parquet file"):
                content(read_embeddings(tmp_path / "e.parquet"))
        with pytest.raises(InputError, match="nowhere"):
            read_embeddings(tmp_path / "nowhere.parquet")
        (tmp_path / "empty").mkdir()
        with pytest.raises(InputError, match=r"holds no \.parquet, and no img_emb"):
            read_embeddings(tmp_path / "empty")

    def test_labels_beside_it(self, tmp_path: Path, label_file: Path) -> None:
        with pytest.raises(InputError, match="brings its own labels"):
            read_embeddings(write_table(tmp_path / "e.parquet"), label_file)


class TestClipRetrieval:
    def write(self, folder: Path, numbers: Sequence[str] = ("0", "1"), rows: int = 30) -> Path:
        """As `clip-retrieval inference` does: float16, and a caption and other columns a picture."""
        for name in ("img_emb", "text_emb", "metadata"):
            (folder / name).mkdir(parents=True)
        for number in numbers:
            data = vectors(rows, seed=int(number)).astype(np.float16)
            np.save(folder / "img_emb" / f"img_emb_{number}.npy", data)
            np.save(folder / "text_emb" / f"text_emb_{number}.npy", data)
            table = {
                "image_path": [f"/data/{number}-{i}.jpg" for i in range(rows)],
                "caption": labels(rows),
                "width": list(range(rows)),
            }
            pq.write_table(pa.table(table), folder / "metadata" / f"metadata_{number}.parquet")
        return folder

    @pytest.mark.parametrize("numbers", [("0",), ("0", "1", "2"), ("08", "09", "10"), ("8", "9", "10")])
    def test_read(self, tmp_path: Path, numbers: tuple[str, ...]) -> None:
        embeddings = read_embeddings(self.write(tmp_path / "out", numbers), label_column="caption")
        assert (embeddings.count, embeddings.dim) == (30 * len(numbers), DIM)
        unit, names, sources = content(embeddings)
        expected = np.concatenate([vectors(30, seed=int(number)) for number in numbers])
        np.testing.assert_allclose(unit, expected, atol=1e-3)
        assert names == labels(30) * len(numbers)
        assert sources == [f"/data/{number}-{i}.jpg" for number in numbers for i in range(30)]

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (lambda folder: os.remove(folder / "metadata" / "metadata_1.parquet"), "do not belong together"),
            (lambda folder: os.remove(folder / "img_emb" / "img_emb_0.npy"), "do not belong together"),
            (lambda folder: np.save(folder / "img_emb" / "img_emb_1.npy", vectors(29)), "does not fit 30 rows"),
            (lambda folder: np.save(folder / "img_emb" / "img_emb_1.npy", np.ones((30, 3))), "does not fit 30 rows"),
            (lambda folder: np.save(folder / "img_emb" / "img_emb_0.npy", np.ones(30)), "does not fit 30 rows"),
            (lambda folder: np.save(folder / "img_emb" / "img_emb_0.npy", np.ones((30, DIM), int)), "floating-point"),
            (lambda folder: (folder / "img_emb" / "img_emb_0.npy").write_bytes(b"x"), "not a .npy of numbers"),
            (lambda folder: (folder / "metadata" / "metadata_0.parquet").write_bytes(b"x"), "not a readable Parquet"),
        ],
    )
    def test_files_that_do_not_fit(self, tmp_path: Path, damage: Callable[[Path], object], message: str) -> None:
        folder = self.write(tmp_path / "out")
        damage(folder)
        with pytest.raises(InputError, match=message):
            read_embeddings(folder, label_column="caption")

    def test_the_column_must_be_named(self, tmp_path: Path) -> None:
        with pytest.raises(InputError, match="has no column 'label', or two; it has image_path, caption, width"):
            read_embeddings(self.write(tmp_path / "out"))


def index_of(kind: str, data: Floats | None = None, ids: npt.NDArray[np.int64] | None = None) -> Any:
    data = vectors() if data is None else data
    plain = {
        "flat ip": lambda: faiss.IndexFlatIP(DIM),
        "flat l2": lambda: faiss.IndexFlatL2(DIM),
        "hnsw ip": lambda: faiss.IndexHNSWFlat(DIM, 8, faiss.METRIC_INNER_PRODUCT),
        "hnsw l2": lambda: faiss.IndexHNSWFlat(DIM, 8),
    }
    name = kind.removeprefix("ids2 ").removeprefix("ids ")
    index = plain[name]()
    if name == kind:
        index.add(data)
        return index
    wrapper = faiss.IndexIDMap2 if kind.startswith("ids2") else faiss.IndexIDMap
    outer = wrapper(index)
    outer.add_with_ids(data, np.arange(len(data))[::-1].copy() if ids is None else ids)
    return outer


class TestFaiss:
    @pytest.mark.parametrize("kind", ["flat ip", "flat l2", "hnsw ip", "hnsw l2"])
    def test_without_ids(self, tmp_path: Path, label_file: Path, kind: str) -> None:
        path = tmp_path / "image.index"
        faiss.write_index(index_of(kind, 3 * vectors()), str(path))
        embeddings = read_embeddings(path, label_file)
        assert (embeddings.count, embeddings.dim) == (50, DIM)
        unit, names, sources = content(embeddings)
        np.testing.assert_allclose(unit, vectors(), atol=1e-6)
        assert names == labels()
        assert sources[49] == f"{path}[49]"

    @pytest.mark.parametrize("kind", ["ids flat ip", "ids2 flat l2", "ids hnsw ip", "ids2 hnsw l2"])
    def test_with_ids_each_takes_the_label_of_its_id(self, tmp_path: Path, label_file: Path, kind: str) -> None:
        path = tmp_path / "knn.faiss"
        ids = np.random.default_rng(0).permutation(50)[:30]
        faiss.write_index(index_of(kind, vectors(30), ids), str(path))
        unit, names, sources = content(read_embeddings(path, label_file))
        np.testing.assert_allclose(unit, vectors(30), atol=1e-6)
        assert names == [labels()[row] for row in ids]
        assert sources == [f"{path}[{row}]" for row in ids]

    @pytest.mark.parametrize(
        ("ids", "message"),
        [
            ([0, 1, 1], "the id 1 stands there 2 times"),
            ([0, 1, 50], "the id 50 has no label; there are 50"),
            ([0, -1, 2], "the id -1 has no label"),
            ([0, 1 << 40, 2], f"the id {1 << 40} has no label"),
        ],
    )
    def test_ids_that_do_not_fit(self, tmp_path: Path, label_file: Path, ids: list[int], message: str) -> None:
        faiss.write_index(index_of("ids flat ip", vectors(3), np.array(ids)), str(tmp_path / "x.index"))
        with pytest.raises(InputError, match=message):
            read_embeddings(tmp_path / "x.index", label_file)

    def test_labels_that_do_not_fit(self, tmp_path: Path, label_file: Path) -> None:
        faiss.write_index(index_of("flat ip", vectors(49)), str(tmp_path / "x.index"))
        with pytest.raises(InputError, match="49 vectors do not fit 50 labels"):
            read_embeddings(tmp_path / "x.index", label_file)

    @pytest.mark.parametrize("kind", ["PQ4x4", "IVF4,Flat", "SQ8", "HNSW8_SQ8", "LSH"])
    def test_kinds_that_do_not_keep_their_vectors(self, tmp_path: Path, label_file: Path, kind: str) -> None:
        index = faiss.index_factory(DIM, kind)
        data = vectors(500)
        index.train(data)
        index.add(data[:50])
        faiss.write_index(index, str(tmp_path / "x.index"))
        with pytest.raises(InputError, match=r"no flat or HNSW index|does not keep its vectors"):
            read_embeddings(tmp_path / "x.index", label_file)

    def test_an_empty_one(self, tmp_path: Path, label_file: Path) -> None:
        faiss.write_index(faiss.IndexFlatIP(DIM), str(tmp_path / "x.index"))
        with pytest.raises(InputError, match="0 vectors"):
            read_embeddings(tmp_path / "x.index", label_file)

    @pytest.mark.parametrize("kind", ["flat ip", "ids2 hnsw l2"])
    def test_truncation_anywhere_is_refused(self, tmp_path: Path, label_file: Path, kind: str) -> None:
        path = tmp_path / "x.index"
        faiss.write_index(index_of(kind), str(path))
        whole = path.read_bytes()
        for cut in [*range(0, 80), *np.linspace(80, len(whole) - 1, 40).astype(int).tolist()]:
            path.write_bytes(whole[:cut])
            with pytest.raises(InputError, match=r"x\.index: "):
                content(read_embeddings(path, label_file))

    def test_sizes_that_are_not_in_the_file(self, tmp_path: Path, label_file: Path) -> None:
        """Before faiss would ask for the memory."""
        path = tmp_path / "x.index"
        faiss.write_index(index_of("ids flat ip"), str(path))
        whole = bytearray(path.read_bytes())
        whole[37 + 8 : 37 + 16] = (1 << 40).to_bytes(8, "little")
        path.write_bytes(whole)
        with pytest.raises(InputError, match=rf"{1 << 40} vectors of 16 dimensions are not in {len(whole)} bytes"):
            read_embeddings(path, label_file)

    @pytest.mark.filterwarnings("ignore:overflow", "ignore:invalid")
    @given(st.data())
    def test_an_altered_file_is_refused_or_read(self, tmp_path_factory: pytest.TempPathFactory, data: Any) -> None:
        path = tmp_path_factory.mktemp("altered") / "x.index"
        faiss.write_index(index_of(data.draw(st.sampled_from(["flat ip", "ids hnsw ip"]))), str(path))
        whole = bytearray(path.read_bytes())
        at = data.draw(st.integers(0, min(len(whole) - 1, 200)))
        whole[at] = data.draw(st.integers(0, 255))
        path.write_bytes(whole)
        lines = path.with_suffix(".txt")
        lines.write_text("\n".join(labels()))
        with contextlib.suppress(InputError):
            assert len(content(read_embeddings(path, lines))[0]) == 50

    def test_nothing_there(self, tmp_path: Path, label_file: Path) -> None:
        with pytest.raises(InputError, match=r"x\.index: cannot be read"):
            read_embeddings(tmp_path / "x.index", label_file)


class TestWriting:
    @pytest.fixture
    def source(self) -> Embeddings:
        return Embeddings.of(vectors().astype(np.float16), labels(), "memory")

    @pytest.mark.parametrize("name", ["v.npy", "v.parquet", "v.index", "v.faiss", "folder"])
    @pytest.mark.parametrize("kind", ["flat", "hnsw"])
    def test_what_is_written_is_read_again(self, tmp_path: Path, source: Embeddings, name: str, kind: Any) -> None:
        written = write_embeddings(tmp_path / name, source, faiss_kind=kind)
        assert sorted(os.listdir(tmp_path)) == sorted(path.name for path in written)
        again = read_embeddings(written[0], written[1] if len(written) > 1 else None)
        assert (again.count, again.dim) == (50, DIM)
        raw = np.concatenate([block.vectors for block in again.read()])
        np.testing.assert_array_equal(raw.astype(np.float16), vectors().astype(np.float16))
        assert content(again)[1] == labels()
        if name in ("v.parquet", "folder"):
            assert content(again)[2] == [f"memory[{row}]" for row in range(50)]

    def test_more_than_a_block(self, tmp_path: Path) -> None:
        many = vectors(BLOCK + 100)
        for name in ("v.npy", "v.parquet"):
            written = write_embeddings(tmp_path / name, Embeddings.of(many, labels(len(many))))
            unit, names, _ = content(read_embeddings(*written))
            np.testing.assert_allclose(unit, many, atol=1e-3)
            assert names == labels(len(many))

    @pytest.mark.parametrize("kind", ["flat", "hnsw"])
    def test_faiss_searches_it_by_cosine(self, tmp_path: Path, source: Embeddings, kind: Any) -> None:
        path, *_ = write_embeddings(tmp_path / "v.index", source, faiss_kind=kind)
        index = faiss.read_index(str(path))
        cosines, found = index.search(vectors(), 3)
        expected = np.sort(vectors() @ vectors().T, axis=1)[:, :-4:-1]
        np.testing.assert_allclose(cosines, expected, atol=2e-3)
        np.testing.assert_array_equal(found[:, 0], np.arange(50))

    def test_a_class_with_a_line_break_needs_parquet(self, tmp_path: Path) -> None:
        odd = Embeddings.of(vectors(2), ["a\nb", "c"])
        for name in ("v.npy", "v.index"):
            with pytest.raises(InputError, match=r"does not fit on a line; write a \.parquet instead"):
                write_embeddings(tmp_path / name, odd)
        assert os.listdir(tmp_path) == []
        assert content(read_embeddings(*write_embeddings(tmp_path / "v.parquet", odd)))[1] == ["a\nb", "c"]

    def test_places_that_cannot_be(self, tmp_path: Path, source: Embeddings) -> None:
        (tmp_path / "taken.npy").mkdir()
        (tmp_path / "taken").mkdir()
        for name, message in (
            ("taken.npy", "is a folder"),
            ("taken", "exists already"),
            ("nowhere/v.npy", "cannot be written"),
            ("nowhere/v.index", "cannot be written"),
            ("nowhere/v.parquet", "cannot be written"),
            ("nowhere/folder", "is no folder"),
        ):
            with pytest.raises(InputError, match=message):
                write_embeddings(tmp_path / name, source)
        assert sorted(os.listdir(tmp_path)) == ["taken", "taken.npy"]

    @pytest.mark.parametrize("name", ["v.npy", "v.parquet", "v.index", "folder"])
    def test_a_failure_leaves_what_was_there(self, tmp_path: Path, source: Embeddings, name: str) -> None:
        if name != "folder":
            write_embeddings(tmp_path / name, source)
        before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}

        def read() -> Any:
            yield next(source.read())
            raise InputError("the disk broke")

        with pytest.raises(InputError, match="the disk broke"):
            write_embeddings(tmp_path / name, Embeddings(50, DIM, read))
        assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before
