"""Any set of modalities in, any set out: all 225 pairs of sets, through `generate_batch`.

The system is the packaged pocket: what is asked must come, well formed and decodable, whatever the
model would rather have said. Every output set is met once at the decoders' own sizes and in the
mode that promises bytes; all 225 pairs are met in the batched mode, with clips and sounds as short
as the requests say.
"""

import itertools
import random
from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np
import pytest
import torch

from anyany import AnyToAny, Reply
from anyany.language import DecodeSettings
from anyany.messages import MODALITIES, Modality
from anyany.pocket.clips import draw_clip
from anyany.pocket.samples import medium
from anyany.pocket.sounds import draw_sound
from anyany.pocket.world import draw_scene
from anyany.requests import EngineSettings

SETS: list[tuple[Modality, ...]] = [
    chosen
    for size in range(1, len(MODALITIES) + 1)
    for chosen in itertools.combinations(MODALITIES, size)
]
RUN = {"num_inference_steps": 2, "guidance_scale": 1.0}
WHOLE: Mapping[str, Mapping[str, Any]] = dict.fromkeys(("image", "video", "audio"), RUN)
SHORT = {**WHOLE, "video": {**RUN, "num_frames": 2}, "audio": {**RUN, "seconds": 0.32}}


@pytest.fixture(scope="module")
def system() -> Iterator[AnyToAny]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield AnyToAny.from_pretrained("pocket", device="cpu", threads=None)
    torch.set_num_threads(before)


def prompt(inputs: tuple[Modality, ...], rng: random.Random) -> list[Any]:
    """One part of each modality, in any order."""
    made: dict[Modality, Any] = {
        "text": "a bell",
        "image": medium(draw_scene(rng), 0),
        "video": medium(draw_clip(rng), 0),
        "audio": medium(draw_sound(rng), 0),
    }
    parts = [made[modality] for modality in inputs]
    rng.shuffle(parts)
    return parts


def check(reply: Reply, outputs: tuple[Modality, ...], *, frames: int, samples: int) -> None:
    """Exactly the asked modalities, each part whole."""
    made = {part.modality for part in reply.parts}
    assert made - {"text"} == set(outputs) - {"text"}
    assert ("text" in outputs) or "text" not in made
    for image in reply.images:
        assert image.image.size == (64, 64)
    for video in reply.videos:
        assert video.frames.shape == (frames, 64, 64, 3)
        assert video.frames.dtype == np.uint8
    for audio in reply.audios:
        assert audio.waveform.shape == (1, samples)
        assert np.isfinite(audio.waveform).all()


def requests(
    pairs: list[tuple[tuple[Modality, ...], tuple[Modality, ...]]],
    run: Mapping[str, Mapping[str, Any]],
) -> list[dict[str, Any]]:
    rng = random.Random(0)
    return [
        {
            "prompt": prompt(inputs, rng),
            "outputs": outputs,
            "seed": number,
            "max_new_tokens": 24,
            **{modality: run[modality] for modality in outputs if modality != "text"},
        }
        for number, (inputs, outputs) in enumerate(pairs)
    ]


def test_every_output_set_comes_whole(system: AnyToAny) -> None:
    pairs = [(chosen, chosen) for chosen in SETS]
    for (_, outputs), reply in zip(
        pairs, system.generate_batch(requests(pairs, WHOLE)), strict=True
    ):
        assert isinstance(reply, Reply)
        check(reply, outputs, frames=8, samples=32_000)


def test_all_225_pairs_of_sets(system: AnyToAny, monkeypatch: pytest.MonkeyPatch) -> None:
    language = DecodeSettings(rows=32, batch_invariant=False)
    monkeypatch.setattr(system, "settings", EngineSettings(language, batch_invariant=False))
    pairs = list(itertools.product(SETS, SETS))
    assert len(pairs) == 225
    met = 0
    for (_, outputs), reply in zip(
        pairs, system.generate_batch(requests(pairs, SHORT)), strict=True
    ):
        assert isinstance(reply, Reply)
        check(reply, outputs, frames=2, samples=5120)
        met += 1
    assert met == 225
