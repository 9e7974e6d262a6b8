"""Small media made on the spot, whole and of each format that is read or written."""

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import pytest
from media_makers import MAKERS, gradient, moving_square, tone
from PIL import Image

from anyany import media
from anyany.media import InputRecord, Provenance


@pytest.fixture(scope="session")
def corpus() -> dict[str, bytes]:
    """Content by name; what stands before the dot is what `sniff` must say."""
    return {name: make() for name, make in MAKERS.items()}


@pytest.fixture
def picture() -> Image.Image:
    return gradient()


@pytest.fixture
def frames() -> npt.NDArray[np.uint8]:
    return moving_square()


@pytest.fixture
def waveform() -> npt.NDArray[np.float32]:
    return tone()


@pytest.fixture
def provenance() -> Provenance:
    return Provenance(
        model="pocket",
        model_sha256="a" * 64,
        config_sha256="b" * 64,
        seed=7,
        modality="image",
        index=0,
        prompt="eine rote Glocke – „klein“",
        inputs=(InputRecord("image", "c" * 64),),
        versions={"anyany": "0.1.0", "torch": "2.13.0", "python": "3.11.7"},
        settings={"steps": 20, "guidance": 7.5, "outputs": ["image", "text"], "threads": 2},
        request=(
            {
                "role": "user",
                "content": [
                    {"type": "text", "text": "eine rote Glocke – „klein“"},
                    {"type": "image", "sha256": "c" * 64},
                ],
            },
        ),
    )


WRITTEN = (
    *(("image", ending) for ending in (".png", ".webp", ".jpg")),
    *(("video", ending) for ending in (".mp4", ".gif", ".webp")),
    *(("audio", ending) for ending in (".wav", ".flac")),
)
Encode = Callable[[Provenance | None], bytes]


@pytest.fixture(params=WRITTEN, ids=lambda case: "".join(case))
def encode_one(request: pytest.FixtureRequest) -> Encode:
    """Encodes the same content each time, once for every format that is written."""
    kind, ending = request.param
    if kind == "image":
        return lambda record: media.encode_image(gradient(), record, extension=ending)
    if kind == "video":
        return lambda record: media.encode_video(moving_square(), 8, record, extension=ending)
    return lambda record: media.encode_audio(tone(), 16_000, record, extension=ending)
