"""The packaged pocket system, loaded once."""

from collections.abc import Iterator

import pytest
import torch

from anyany import AnyToAny
from anyany.messages import ImagePart


@pytest.fixture(scope="session")
def pocket() -> Iterator[AnyToAny]:
    """The packaged system on one thread."""
    before = torch.get_num_threads()
    yield AnyToAny.from_pretrained("pocket", device="cpu", threads=1)
    torch.set_num_threads(before)


@pytest.fixture(scope="session")
def picture(pocket: AnyToAny) -> ImagePart:
    """A picture that pocket drew, in two steps."""
    reply = pocket.generate(
        "a small red bell", outputs={"image"}, seed=1, max_new_tokens=24, num_inference_steps=2
    )
    return reply.images[0]
