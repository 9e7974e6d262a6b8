"""The packaged pocket system, loaded once for all files, and a picture that it drew.

The fixtures are imported by the files that use them, for two conftest.py of one name confuse mypy.
"""

import functools
from collections.abc import Iterator

import pytest
import torch

from anyany import AnyToAny, ImagePart


@functools.cache
def packaged() -> AnyToAny:
    """The packaged system on one thread."""
    return AnyToAny.from_pretrained("pocket", device="cpu", threads=None)


@functools.cache
def drawn() -> ImagePart:
    """A picture of two steps."""
    reply = packaged().generate(
        "a small red bell", outputs={"image"}, seed=1, max_new_tokens=24, num_inference_steps=2
    )
    return reply.images[0]


@pytest.fixture(scope="module")
def pocket() -> Iterator[AnyToAny]:
    """The packaged system on one thread; torch's own number is put back afterwards."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield packaged()
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def picture(pocket: AnyToAny) -> ImagePart:
    """A picture that pocket drew."""
    return drawn()
