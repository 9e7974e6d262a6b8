"""What a stage in training can do so far: held-out media of every modality, made and described.

Each evaluation leaves a sheet of pictures, one of frame strips, one of mel pictures with the
recordings beside it, and a list of descriptions.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final, cast

from anyany.messages import AudioPart, Reply
from anyany.pocket.check import all_right
from anyany.pocket.evaluate_cases import balanced
from anyany.pocket.evaluate_kinds import KINDS, Kind
from anyany.pocket.evaluate_runner import first_medium
from anyany.pocket.image_denoiser import save_grid
from anyany.pocket.stills import still
from anyany.pocket.synthesis import SAMPLE_RATE
from anyany.pocket.world import Described
from anyany.system import AnyToAny

NUM_SAMPLES: Final = {"image": 24, "video": 8, "audio": 16}
_COLUMNS: Final = {"image": 8, "video": 1, "audio": 4}
_BUDGET: Final = 48  # tokens of a reply


def world_samples(
    model: AnyToAny, *, draws: bool, describes: bool
) -> Callable[[Path], Mapping[str, float]]:
    """A function that writes sheets of made media and a list of descriptions into a folder.

    Args:
        model: the system in training.
        draws: make held-out media from their canonical captions, in every modality that it makes.
        describes: describe true ones, in every modality that it sees.

    Returns:
        The function; its figures, such as `image_made` and `audio_described`, are the shares with
        every attribute right.
    """
    made = [kind for name, kind in KINDS.items() if draws and name in model.decoders]
    seen = [kind for name, kind in KINDS.items() if describes and name in model.bridge.modalities]

    def sample(folder: Path) -> Mapping[str, float]:
        folder.mkdir(parents=True, exist_ok=True)
        figures: dict[str, float] = {}
        for kind in made:
            figures[f"{kind.modality}_made"] = _make(model, kind, folder)
        lines: list[str] = []
        for kind in seen:
            figures[f"{kind.modality}_described"] = _describe(model, kind, lines)
        if lines:
            (folder / "described.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        return figures

    return sample


def _make(model: AnyToAny, kind: Kind, folder: Path) -> float:
    subjects = _subjects(kind)
    requests = [
        {"prompt": kind.request.format(kind.canonical(subject)), "seed": number}
        for number, subject in enumerate(subjects)
    ]
    replies = _answers(model, requests, {kind.modality})
    media = [first_medium(kind, reply) for reply in replies]
    columns = _COLUMNS[kind.modality]
    save_grid([still(one) for one in media], folder / f"{kind.modality}.png", columns=columns)
    if kind.modality == "audio":
        for number, waveform in enumerate(media):
            AudioPart(waveform[None], SAMPLE_RATE).save(folder / f"audio_{number:02}.wav")
    return _share_right([kind.check(one) for one in media], subjects)


def _describe(model: AnyToAny, kind: Kind, lines: list[str]) -> float:
    subjects = _subjects(kind)
    rng = random.Random(0)
    requests = [
        {"prompt": [kind.part(kind.render(one, rng)), rng.choice(kind.questions)], "seed": 0}
        for one in subjects
    ]
    replies = _answers(model, requests, {"text"})
    lines += [
        f"{kind.canonical(subject)} -> {reply.text}"
        for subject, reply in zip(subjects, replies, strict=True)
    ]
    return _share_right([kind.read(reply.text) for reply in replies], subjects)


def _subjects(kind: Kind) -> list[Any]:
    """Held-out ones, all combinations in turn."""
    number = NUM_SAMPLES[kind.modality]
    return list(balanced(kind, number, "held-out", random.Random("stage samples")))


def _answers(
    model: AnyToAny, requests: Sequence[Mapping[str, Any]], outputs: set[str]
) -> list[Reply]:
    answered = model.generate_batch(requests, outputs=outputs, max_new_tokens=_BUDGET)
    return cast("list[Reply]", list(answered))


def _share_right(seen: Sequence[Described], truths: Sequence[Described]) -> float:
    right = [
        all_right({name: getattr(one, name) == value for name, value in truth.said().items()})
        for one, truth in zip(seen, truths, strict=True)
    ]
    return sum(right) / len(right)
