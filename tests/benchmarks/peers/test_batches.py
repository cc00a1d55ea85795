"""Programs of fixed sizes serve any number of pictures."""

from __future__ import annotations

import numpy as np

from rar.benchmarks.peers.batches import ByBatch, Embed, Floats


def test_a_batch_goes_to_the_smallest_program_that_holds_it_and_is_filled_up() -> None:
    opened, ran = [], []

    def opener(size: int) -> Embed:
        opened.append(size)

        def embed(pixels: Floats) -> Floats:
            assert len(pixels) == size
            ran.append(size)
            return pixels.reshape(size, -1)[:, :1]

        return embed

    embed = ByBatch(opener, (1, 8))
    pixels = np.arange(20, dtype=np.float32).reshape(20, 1, 1, 1).repeat(3, 1)
    assert opened == []
    np.testing.assert_array_equal(embed(pixels[:1])[:, 0], [0])
    np.testing.assert_array_equal(embed(pixels)[:, 0], np.arange(20))
    assert opened == [1, 8]
    assert ran == [1, 8, 8, 8]
