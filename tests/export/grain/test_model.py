"""The network: published shapes, the roles of its queries, and texts that do not see what follows them."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from tiny_grain import MICRO

from rar.export.grain.config import SIZES
from rar.export.grain.model import Grain


@pytest.mark.parametrize(
    ("size", "visual", "text", "backbone_keys"),
    [("vit-s16", 21.7, 63.6, 349), ("vit-b16", 85.8, 63.8, 349), ("vit-l14", 303.2, 64.0, 541)],
)
def test_published_sizes_have_their_parameters(size: str, visual: float, text: float, backbone_keys: int) -> None:
    with torch.device("meta"):
        network = Grain(SIZES[size])
    count = {name: sum(p.numel() for p in part.parameters()) / 1e6 for name, part in network.backbone.named_children()}
    whole = sum(p.numel() for p in network.backbone.parameters()) / 1e6
    # The released backbone has an image projection on top, which nothing uses.
    projection = SIZES[size].width * SIZES[size].embed / 1e6
    assert count["visual"] == pytest.approx(visual, abs=0.06)
    assert whole - count["visual"] + projection == pytest.approx(text, abs=0.06)
    assert len(network.backbone.state_dict()) + 1 == backbone_keys
    # And the released decoder has 11.3 M of unused classes and 0.3 M of places among its 38.2 M.
    decoder = sum(p.numel() for p in network.decoder.parameters()) / 1e6
    assert decoder + 22048 * 513 / 1e6 + 517 * 512 / 1e6 == pytest.approx(38.2, abs=0.35)
    assert len(network.decoder.state_dict()) + 4 == 126


def test_shapes_and_ranges(network: Grain) -> None:
    with torch.no_grad():
        seen = network.see(torch.randn(5, 3, 32, 32))
        texts = network.read(torch.randint(1, 400, (4, 9)))
    assert seen.images.shape == (5, 24)
    assert seen.regions.shape == (5, 3, 24)
    assert seen.boxes.shape == (2, 5, 3, 4)
    for vectors in (seen.images, seen.regions, texts):
        torch.testing.assert_close(vectors.norm(dim=-1), torch.ones(vectors.shape[:-1]))
    assert 0 < seen.boxes.min() < seen.boxes.max() < 1


def test_the_image_query_is_the_last(network: Grain) -> None:
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        before = network.see(pixels)
        # Only projections that one kind of query uses are changed.
        network.decoder.img_proj.normal_()
        turned = network.see(pixels)
        network.decoder.obj_proj.normal_()
        both = network.see(pixels)
        states = network.decoder(network.backbone.visual.forward_features(pixels))
    assert not torch.allclose(before.images, turned.images)
    torch.testing.assert_close(before.regions, turned.regions)
    torch.testing.assert_close(turned.images, both.images)
    assert not torch.allclose(turned.regions, both.regions)
    assert states[1].shape[1] == network.decoder.query_embed.num_embeddings - 1


def test_queries_differ_by_their_embedding_alone(network: Grain) -> None:
    pixels = torch.randn(1, 3, 32, 32)
    with torch.no_grad():
        before = network.see(pixels)
        network.decoder.query_embed.weight.copy_(network.decoder.query_embed.weight[[1, 0, 2, 3]])
        swapped = network.see(pixels)
    torch.testing.assert_close(swapped.regions, before.regions[:, [1, 0, 2]], atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(swapped.images, before.images, atol=1e-5, rtol=1e-4)


def test_a_text_does_not_see_what_follows_its_end(network: Grain) -> None:
    end = MICRO.vocabulary - 1
    ids = torch.tensor([[end - 1, 5, 6, end, 0, 0, 0, 0], [end - 1, 7, end, 0, 0, 0, 0, 0]])
    other = ids.clone()
    other[:, 4:] = 99
    with torch.no_grad():
        torch.testing.assert_close(network.read(ids), network.read(other))
        torch.testing.assert_close(network.read(ids), network.read(ids[:, :4]), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("count", [1, 3, 10])
def test_texts_trained_in_groups_are_those_read_at_once(count: int, network: Grain) -> None:
    chance, end = torch.Generator().manual_seed(count), MICRO.vocabulary - 1
    ids = torch.randint(1, 400, (count, 12), generator=chance)
    for row, length in enumerate(torch.randint(1, 12, (count,), generator=chance).tolist()):
        ids[row, length], ids[row, length + 1 :] = end, 0
    with torch.no_grad():
        _, texts, _ = network(torch.randn(2, 3, 32, 32), ids)
        torch.testing.assert_close(texts, network.read(ids), atol=1e-6, rtol=1e-5)


def test_a_picture_is_seen_alike_in_any_batch(network: Grain) -> None:
    pixels = torch.randn(5, 3, 32, 32)
    with torch.no_grad():
        together = network.see(pixels)
        alone = network.see(pixels[2:3])
    torch.testing.assert_close(together.regions[2:3], alone.regions, atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(together.boxes[:, 2:3], alone.boxes, atol=1e-6, rtol=1e-5)


def test_training_differs_from_evaluation_by_dropout_alone() -> None:
    torch.manual_seed(0)
    network = Grain(replace(MICRO, dropout=0.0))
    pixels = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(network.train().see(pixels).images, network.eval().see(pixels).images)
