"""LFM2's decoder for trees: what a convolution sees, and where its state is kept."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import transformers

from rar.export.mllm.families.lfm2vl import HybridDecoder, before

WIDTH, HEADS, SHARED = 96, 6, 2


@pytest.fixture(scope="module", params=[False, True], ids=["plain", "bias"])
def decoder(request: pytest.FixtureRequest) -> HybridDecoder:
    """Convolutions of a width that is one and a half times that of a layer's keys and values."""
    torch.manual_seed(0)
    config = transformers.Lfm2Config(
        hidden_size=WIDTH, intermediate_size=64, num_hidden_layers=3, num_attention_heads=HEADS,
        num_key_value_heads=SHARED, layer_types=["conv", "full_attention", "conv"], block_auto_adjust_ff_dim=False,
        vocab_size=50, initializer_range=0.2, conv_bias=request.param, conv_L_cache=4,
    )  # fmt: skip
    model = transformers.AutoModel.from_config(config).eval()
    if request.param:
        for layer in (model.layers[0], model.layers[2]):
            torch.nn.init.normal_(layer.conv.conv.bias)
    return HybridDecoder(model, torch.nn.Linear(WIDTH, 50)).eval()


def own(decoder: HybridDecoder, embeds: torch.Tensor) -> torch.Tensor:
    """Logits [N, L, V] of transformers."""
    language: Any = decoder.language
    with torch.inference_mode():
        return torch.as_tensor(decoder.head(language(inputs_embeds=embeds, use_cache=False).last_hidden_state))


def run(decoder: HybridDecoder, embeds: torch.Tensor, mask: torch.Tensor, places: list[int], past: Any = None) -> Any:
    batch, length = embeds.shape[:2]
    empty = torch.zeros(batch, SHARED, 0, WIDTH // HEADS)
    with torch.inference_mode():
        return decoder(
            embeds,
            mask.expand(batch, 1, length, -1),
            torch.tensor(places).expand(batch, length),
            torch.arange(length).expand(batch, length),
            *(past or [empty] * (2 * decoder.layers)),
        )


def test_tokens_before_are_the_nearest_that_are_seen() -> None:
    # A stem of two tokens, a branch of two and one of one; one token of a cache that only the stem's rows see.
    seen = torch.tensor(
        [[1, 1, 0, 0, 0, 0], [1, 1, 1, 0, 0, 0], [1, 1, 1, 1, 0, 0], [1, 1, 1, 1, 1, 0], [1, 1, 1, 0, 0, 1]]
    )
    nearest, second = before(seen.bool()[None, None], 2)
    assert nearest.tolist() == [[1, 2, 3, 4, 3]]
    assert second.tolist() == [[0, 1, 2, 3, 2]]


def test_tokens_before_are_found_on_the_mask_s_own_device() -> None:
    mask = torch.ones(1, 1, 2, 3, dtype=torch.bool, device="meta")
    assert [found.device.type for found in before(mask, 2)] == ["meta", "meta"]


def test_a_wide_convolution_is_kept_in_two_slots_and_continues(decoder: HybridDecoder) -> None:
    assert decoder.layers == 2 + 1 + 2
    embeds = torch.randn(2, 7, WIDTH, generator=torch.Generator().manual_seed(1))
    expected = own(decoder, embeds)
    logits, *kept = run(decoder, embeds[:, :4], torch.ones(4, 4).tril().bool(), [0, 1, 2, 3])
    torch.testing.assert_close(logits, expected[:, :4], atol=1e-4, rtol=1e-4)
    for place in range(4, 7):
        step = embeds[:, place : place + 1]
        logits, *new = run(decoder, step, torch.ones(1, place + 1).bool(), [place], kept)
        torch.testing.assert_close(logits, expected[:, place : place + 1], atol=1e-4, rtol=1e-4)
        kept = [torch.cat(pair, 2) for pair in zip(kept, new, strict=True)]


def test_what_is_hidden_in_a_cache_changes_nothing(decoder: HybridDecoder) -> None:
    embeds = torch.randn(1, 5, WIDTH, generator=torch.Generator().manual_seed(2))
    _, *kept = run(decoder, embeds[:, :4], torch.ones(4, 4).tril().bool(), [0, 1, 2, 3])
    # Padding between what is seen and the new token, as in a cache with room.
    room = [torch.cat([part, torch.full_like(part[:, :, :2], 7.0)], 2) for part in kept]
    seen = torch.tensor([[True] * 4 + [False] * 2 + [True]])
    logits, *_ = run(decoder, embeds[:, 4:], seen, [4], room)
    torch.testing.assert_close(logits, own(decoder, embeds)[:, 4:], atol=1e-4, rtol=1e-4)


def test_branches_side_by_side_do_not_see_each_other(decoder: HybridDecoder) -> None:
    stem, first, second = torch.randn(3, 1, 3, WIDTH, generator=torch.Generator().manual_seed(3))
    mask = torch.ones(9, 9).tril().bool()
    mask[6:, 3:6] = False
    logits, *_ = run(decoder, torch.cat([stem, first, second], 1), mask, [0, 1, 2, 3, 4, 5, 3, 4, 5])
    torch.testing.assert_close(logits[:, :6], own(decoder, torch.cat([stem, first], 1)), atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(logits[:, 6:], own(decoder, torch.cat([stem, second], 1))[:, 3:], atol=1e-4, rtol=1e-4)


def test_branches_continue_a_kept_head(decoder: HybridDecoder) -> None:
    head, stem, first, second = torch.randn(4, 1, 3, WIDTH, generator=torch.Generator().manual_seed(4))
    _, *kept = run(decoder, head, torch.ones(3, 3).tril().bool(), [0, 1, 2])
    mask = torch.ones(9, 12).tril(3).bool()
    mask[6:, 6:9] = False
    logits, *_ = run(decoder, torch.cat([stem, first, second], 1), mask, [3, 4, 5, 6, 7, 8, 6, 7, 8], kept)
    for begin, branch in ((3, first), (6, second)):
        wanted = own(decoder, torch.cat([head, stem, branch], 1))[:, 6:]
        torch.testing.assert_close(logits[:, begin : begin + 3], wanted, atol=1e-4, rtol=1e-4)
