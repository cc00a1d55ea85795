"""GRAIN's seeded scenes are what they say, and its recipe runs to its end, at a small scale."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_grain import MICRO

from rar.benchmarks.cli import main
from rar.benchmarks.grain import command, latency
from rar.benchmarks.grain.scenes import SIDE, class_scenes, mixed_scenes, product_scenes, train_scenes, write
from rar.benchmarks.grain.things import COLOURS, SHAPES, SIZES, TEXTURES, Product, kinds, mask, pattern, read_products
from rar.export.grain.annotations import read_annotations
from rar.export.grain.config import SIZES as CONFIGS
from rar.export.grain.options import TrainOptions
from rar.export.pictures.labelled import read_images


@pytest.fixture(scope="module")
def products() -> list[Product]:
    chance = np.random.default_rng(0)
    photos = [chance.integers(0, 256, (96, 96, 3), np.uint8) for _ in range(3)]
    return [Product("Apple", ["An apple is round."], photos[:2]), Product("Milk", ["White.", "Cold."], photos[2:])]


@pytest.fixture
def grocery_folder(tmp_path: Path) -> Path:
    """Two classes in the layout of the Grocery Store data set."""
    folder = tmp_path / "grocery"
    folder.mkdir()
    (folder / "descriptions.json").write_text(json.dumps({"Apple": ["An apple is round."], "Milk": ["White."]}))
    for number, split in enumerate(("train", "val", "test")):
        rows = ["path,label"]
        for label in ("Apple", "Milk"):
            noise = np.random.default_rng([number, len(label)]).integers(0, 256, (30, 30, 3), np.uint8)
            Image.fromarray(noise).save(folder / f"{split}-{label}.png")
            rows.append(f"{split}-{label}.png,{label}")
        (folder / f"{split}.csv").write_text("\n".join(rows) + "\n")
    return folder


class TestScenes:
    def test_sixteen_pairs_are_held_out_two_a_shape_and_a_colour(self) -> None:
        seen, unseen = kinds(unseen=False), kinds(unseen=True)
        assert (len(seen), len(unseen), len({*seen, *unseen})) == (192, 64, 256)
        pairs = {(kind.shape, kind.colour) for kind in unseen}
        assert len(pairs) == 16
        assert not pairs & {(kind.shape, kind.colour) for kind in seen}
        for place, names in ((0, SHAPES), (1, COLOURS)):
            assert {name: sum(pair[place] == name for pair in pairs) for name in names} == dict.fromkeys(names, 2)

    def test_training_shows_no_unseen_pair(self, products: list[Product]) -> None:
        scenes = train_scenes(300, 0, products)
        pairs = {f"{kind.colour} {kind.shape}" for kind in kinds(unseen=True)}
        for texts in ([scenes.captions[i], *scenes.descriptions[i]] for i in range(300)):
            assert not any(pair in text for pair in pairs for text in texts)
        mixed = mixed_scenes(300, 0, products)
        assert sum(pair in caption for pair in pairs for caption in mixed.captions) > 50

    def test_a_seed_gives_the_same_scenes_however_many(self, products: list[Product]) -> None:
        few, many = train_scenes(5, 3, products), train_scenes(9, 3, products)
        np.testing.assert_array_equal(few.pixels, many.pixels[:5])
        assert few.captions == many.captions[:5]
        assert train_scenes(5, 4, products).captions != few.captions
        assert mixed_scenes(5, 3, products).captions != few.captions

    def test_boxes_hold_their_objects(self) -> None:
        scenes = class_scenes(64, 0)
        for kind, pixels, boxes, texts in zip(
            kinds(unseen=True), scenes.pixels, scenes.boxes, scenes.descriptions, strict=True
        ):
            x0, y0, x1, y1 = boxes[0].astype(int)
            assert 0 <= x0 < x1 <= SIDE
            assert 0 <= y0 < y1 <= SIDE
            low, high = SIZES[texts[0].split()[1]]
            assert low <= x1 - x0 <= high
            assert texts[0] in kind.descriptions
            inside = pixels[y0:y1, x0:x1].reshape(-1, 3).astype(int)
            near = np.abs(inside - COLOURS[kind.colour]).max(1) < 40
            # Where a texture is dark or another object lies on top, the colour is not to be seen.
            assert near.mean() > 0.1

    def test_classes_are_not_among_the_other_objects(self) -> None:
        scenes = class_scenes(128, 0)
        names = {kind.name for kind in kinds(unseen=True)}
        for label, caption in zip(scenes.labels, scenes.captions, strict=True):
            assert sum(name in caption for name in names) == 1
            assert label in caption
        assert {label: scenes.labels.count(label) for label in names} == dict.fromkeys(names, 2)

    def test_mirrored_scenes_have_mirrored_boxes(self, products: list[Product]) -> None:
        scenes = train_scenes(4, 0, products)
        assert len(scenes) == 8
        plain, mirrored = scenes([1]), scenes([5])
        np.testing.assert_array_equal(mirrored[0].pixels, plain[0].pixels[:, ::-1])
        assert mirrored[0].descriptions == plain[0].descriptions
        for (x0, y0, x1, y1), box in zip(plain[0].boxes, mirrored[0].boxes, strict=True):
            assert box.tolist() == [SIDE - x1, y0, SIDE - x0, y1]
        np.testing.assert_array_equal(scenes.boxes[1], plain[0].boxes)

    def test_files_are_annotations_and_labelled_pictures(self, products: list[Product], tmp_path: Path) -> None:
        scenes = product_scenes(4, 0, products)
        file = write(scenes, tmp_path / "new")
        assert [image.label for image in read_images(file)] == ["Apple", "Milk", "Apple", "Milk"]
        lines = read_annotations(file).lines
        assert [line.caption for line in lines] == list(scenes.captions)
        for number, line in enumerate(lines):
            assert [list(region.box) for region in line.regions] == scenes.boxes[number].tolist()
            with Image.open(line.path) as picture:
                np.testing.assert_array_equal(np.asarray(picture), scenes.pixels[number])

    @pytest.mark.parametrize("shape", SHAPES)
    def test_shapes_touch_all_sides_and_differ(self, shape: str) -> None:
        own = np.asarray(mask(shape)) > 127
        assert own.any(0).all() or shape == "crescent"
        assert [own[0].any(), own[-1].any(), own[:, 0].any()] == [True] * 3
        others = [np.asarray(mask(other)) > 127 for other in SHAPES if other != shape]
        assert min((own != other).mean() for other in others) > 0.08

    def test_textures_darken_a_part_or_nothing(self) -> None:
        shares = {t: pattern(t, 40, 40, np.random.default_rng(0)).mean() for t in TEXTURES}
        assert shares["plain"] == 0
        assert all(0.15 < shares[texture] < 0.6 for texture in TEXTURES if texture != "plain")

    def test_the_grocery_products(self, grocery: Path) -> None:
        products = read_products(grocery, "val")
        assert len(products) > 50
        for product in products:
            assert product.descriptions
            assert all(photo.shape == (96, 96, 3) for photo in product.photos)


def test_the_recipe_runs_to_its_end_and_again_from_what_is_there(
    grocery_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(CONFIGS, "micro", MICRO)  # type: ignore[misc]
    monkeypatch.setattr(command, "CONFIG", MICRO)
    monkeypatch.setattr(command, "SCENES", 16)
    short = TrainOptions(epochs=0.5, batch=8, save_every=2)
    monkeypatch.setattr(command, "OPTIONS", short)
    monkeypatch.setattr(command, "CONTRAST", replace(short, box_weight=0.0, region_weight=0.0))
    for name, count in (("_HELD_OUT", 4), ("_RETRIEVED", 8), ("_CLASSIFIED", 6), ("_PRODUCTS", 4), ("_VAL", 6)):
        monkeypatch.setattr(command, name, count)
    out = tmp_path / "r.json"
    argv = ["grain", "--work", str(tmp_path / "work"), "--grocery", str(grocery_folder), "--seeds", "0"]
    assert main([*argv, "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    for name in ("unseen_top1", "text_to_image_recall1", "region_description", "product_top1"):
        one, other = found["summary"][name]["grain"]["mean"], found["summary"][name]["contrast"]["mean"]
        assert found["summary"][name]["gain"]["mean"] == pytest.approx(one - other, abs=0.002)
    assert found["seeds"][0]["grain"]["log"][-1]["step"] == 2
    assert "regions" not in found["seeds"][0]["contrast"]["log"][-1]
    assert {"retrieval", "in_k", "wca", "grain"} == found["seeds"][0]["rankers"].keys()
    capsys.readouterr()
    assert main([*argv, "--out", str(out)]) == 0
    again = json.loads(out.read_text())
    assert again["summary"] == found["summary"]


def test_latency_is_paired_and_parity_told(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    tiny_openclip: tuple[Path, Path],
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(CONFIGS, "micro", MICRO)  # type: ignore[misc]
    monkeypatch.setattr(latency, "_PRECISIONS", ("fp32",))
    out = tmp_path / "r.json"
    argv = ["grain-latency", "--size", "micro", "--plain", tiny_openclip[0].stem, "--rounds", "3", "--threads", "1"]
    assert main([*argv, "--out", str(out)]) == 0
    found = json.loads(out.read_text())
    assert max(found["largest_difference"].values()) <= 1e-5
    assert [(row["precision"], row["batch"]) for row in found["results"]] == [("fp32", 1), ("fp32", 8)]
    assert all(row["ratio"]["count"] == 3 for row in found["results"])
    assert "ratio" in capsys.readouterr().out


def test_minutes_of_a_training_that_was_gone_on_with_are_those_of_all_its_parts() -> None:
    assert command.minutes([{"seconds": second} for second in (60, 120, 30, 60)]) == 3
