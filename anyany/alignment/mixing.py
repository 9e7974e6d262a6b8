"""Several sources as one: joined end to end, or mixed by weight."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Final

import numpy as np
import numpy.typing as npt

from anyany.alignment.order import derive_seed, epoch_order
from anyany.alignment.samples import Sample, SampleSource
from anyany.errors import UsageError

BLOCK: Final = 1000  # positions in which the weights are met exactly, up to rounding


class JoinedSource:
    """Finite sources one after the other; an epoch shows every sample once.

    Args:
        sources: finite ones.

    Raises:
        UsageError: one is infinite.
    """

    def __init__(self, sources: Sequence[SampleSource]) -> None:
        sizes = [source.num_samples for source in sources]
        if any(size is None for size in sizes):
            raise UsageError("an infinite source cannot be joined to others: mix them by weight")
        self.sources = list(sources)
        self._ends = np.cumsum([size or 0 for size in sizes])

    @property
    def num_samples(self) -> int:
        """All of them."""
        return int(self._ends[-1])

    def sample(self, index: int, epoch: int) -> Sample:
        """The sample at `index`, counted through the sources in order."""
        number = int(np.searchsorted(self._ends, index, side="right"))
        start = int(self._ends[number - 1]) if number else 0
        return self.sources[number].sample(index - start, epoch)


class MixedSource:
    """An infinite stream in which each source has its share.

    Every block of `BLOCK` positions holds each source as often as its weight says, in an order of
    the block's own. A finite source is walked epoch by epoch, each in a permutation of its own.
    Which sample stands at a position is a function of (seed, position) alone.

    Args:
        sources: finite or not.
        weights: one each, above 0; their scale does not matter.
        seed: of the order.

    Raises:
        UsageError: the numbers do not fit.
    """

    num_samples = None

    def __init__(
        self, sources: Sequence[SampleSource], weights: Sequence[float], *, seed: int = 0
    ) -> None:
        if len(sources) != len(weights) or not sources or min(weights) <= 0:
            raise UsageError(
                f"expected a weight above 0 for each of {len(sources)} sources, got {list(weights)}"
            )
        self.sources = list(sources)
        self.seed = seed
        self.counts = _shares(weights)  # of each source in a block

    def sample(self, index: int, epoch: int) -> Sample:
        """The sample at a position of the stream."""
        block, place = divmod(index, BLOCK)
        order = _block_order(tuple(self.counts), self.seed, block)
        number = int(order[place])
        earlier = int((order[:place] == number).sum())
        visit = block * self.counts[number] + earlier
        source = self.sources[number]
        size = source.num_samples
        if size is None:
            return source.sample(visit, 0)
        own_epoch, step = divmod(visit, size)
        own_seed = derive_seed("mixed", self.seed, number)
        return source.sample(int(epoch_order(size, own_seed, own_epoch)[step]), own_epoch)


def _shares(weights: Sequence[float]) -> list[int]:
    """Places of each source in a block: largest remainders, at least one each."""
    exact = np.asarray(weights, dtype=np.float64) / sum(weights) * BLOCK
    counts = np.maximum(np.floor(exact).astype(int), 1)
    while counts.sum() != BLOCK:
        missing = np.sign(BLOCK - counts.sum())
        counts[int(np.argmax(missing * (exact - counts)))] += missing
    return [int(count) for count in counts]


@functools.lru_cache(maxsize=8)
def _block_order(counts: tuple[int, ...], seed: int, block: int) -> npt.NDArray[np.int64]:
    """Which source stands at each place of a block, int64 [BLOCK]."""
    generator = np.random.Generator(np.random.Philox(key=derive_seed("block", seed, block)))
    return generator.permutation(np.repeat(np.arange(len(counts)), counts)).astype(np.int64)
