import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from anyany.alignment.order import Draws, derive_seed, epoch_order, samples_at


@settings(max_examples=50, deadline=None)
@given(size=st.integers(1, 40), start=st.integers(0, 200), length=st.integers(0, 90))
def test_the_stream_is_epoch_after_epoch_of_permutations(
    size: int, start: int, length: int
) -> None:
    epochs, indices = samples_at(start, start + length, num_samples=size, seed=3)
    whole = np.concatenate([epoch_order(size, 3, epoch) for epoch in range(300 // size + 1)])
    assert indices == whole[start : start + length].tolist()
    assert epochs == [position // size for position in range(start, start + length)]


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = [tuple(epoch_order(50, seed, epoch)) for seed in (0, 1) for epoch in (0, 1)]
    assert len(set(orders)) == 4
    assert all(sorted(order) == list(range(50)) for order in orders)


def test_an_infinite_set_counts_up() -> None:
    assert samples_at(5, 8, num_samples=None, seed=0) == ([0, 0, 0], [5, 6, 7])


def test_seeds_tell_their_keys_apart() -> None:
    keys: list[tuple[int | str, ...]] = [(1, 23), (12, 3), ("1", 23), (1, "23"), (123,), ()]
    assert len({derive_seed(*key) for key in keys}) == len(keys)
    assert derive_seed("a", 1) == 2125957440892058690  # on every machine
    number: int = np.int64(1)  # type: ignore[assignment]
    assert derive_seed("a", number) == derive_seed("a", 1)
    assert all(0 <= derive_seed(key) < 2**63 for key in range(50))


def draws(indices: list[int], *, epoch: int = 0, seed: int = 0, purpose: str = "loss") -> Draws:
    return Draws(seed, purpose, epochs=[epoch] * len(indices), indices=indices)


def all_kinds(source: Draws) -> list[torch.Tensor]:
    numbers = [source.normal(3, 2), source.uniform(), source.integers(1000, 4), source.normal(5)]
    extra = [torch.from_numpy(g.random(2)) for g in source.numpy_generators]
    return [*numbers, torch.stack(extra)]


def test_a_samples_randomness_does_not_depend_on_its_neighbours() -> None:
    together, alone = all_kinds(draws([4, 7, 9])), all_kinds(draws([7]))
    for many, one in zip(together, alone, strict=True):
        assert torch.equal(many[1:2], one)


@pytest.mark.parametrize("other", [{"epoch": 1}, {"seed": 1}, {"purpose": "batch"}])
def test_every_key_changes_the_draws(other: dict[str, int]) -> None:
    first, second = draws([4, 7]), draws([4, 7], **other)  # type: ignore[arg-type]
    assert not torch.equal(first.normal(3), second.normal(3))
    rows = first.normal(3)
    assert not torch.equal(rows[0], rows[1])


def test_the_draws_have_their_ranges() -> None:
    source = draws(list(range(2000)))
    normal, uniform, integers = source.normal(8), source.uniform(8), source.integers(5, 8)
    assert normal.shape == (2000, 8)
    assert abs(float(normal.mean())) < 0.05
    assert float(normal.std()) == pytest.approx(1, abs=0.03)
    assert 0 <= float(uniform.min()) < float(uniform.max()) < 1
    assert float(uniform.mean()) == pytest.approx(0.5, abs=0.02)
    assert set(integers.flatten().tolist()) == {0, 1, 2, 3, 4}
    assert source.uniform().shape == (2000,)
