"""Seeds: each part's noise is its own, whatever stands beside it."""

import hashlib

import pytest
import torch

from anyany.decoders import draw_noise, part_generator
from anyany.decoders.seeding import part_seed


def test_part_seed_is_sha256() -> None:
    digest = hashlib.sha256(b"7/image/0").hexdigest()
    assert part_seed(7, "image", 0) == int(digest[:16], 16) // 2
    assert part_seed(7, "image", 0) == 2_047_380_351_704_359_567  # for ever


@pytest.mark.parametrize("other", [(8, "image", 0), (7, "video", 0), (7, "image", 1)])
def test_every_field_changes_the_noise(other: tuple[int, str, int]) -> None:
    first = draw_noise([part_generator(7, "image", 0)], (4, 3))
    assert not torch.equal(draw_noise([part_generator(*other)], (4, 3)), first)
    assert torch.equal(draw_noise([part_generator(7, "image", 0)], (4, 3)), first)


def test_rows_do_not_know_their_neighbours() -> None:
    shape = (4, 5, 5)
    alone = [draw_noise([part_generator(1, "image", k)], shape) for k in range(3)]
    together = draw_noise([part_generator(1, "image", k) for k in range(3)], shape)
    assert torch.equal(together, torch.cat(alone))
    assert together.shape == (3, 4, 5, 5)
    assert together.dtype == torch.float32


def test_large_and_negative_seeds_are_seeds() -> None:
    assert 0 <= part_seed(-1, "audio", 3) < 2**63
    part_generator(2**80, "audio", 0)
