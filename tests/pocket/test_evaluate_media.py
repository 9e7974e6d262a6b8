"""The evaluation of a system of all media: true renders in place of made ones, and fresh weights.

The oracle answers every request with the medium or the words that are right, but for the share of
cases that it is told to spoil; so what the rows must say is known.
"""

from __future__ import annotations

import json
import random
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from fresh_pocket import fresh_pocket
from torch import Tensor

from anyany import AnyToAny, Message, Reply
from anyany.decoders import DecoderPresets, DecoderSettings, part_generator, to_frames
from anyany.errors import UsageError
from anyany.messages import MediaPart, TextPart, to_messages
from anyany.pocket.clips import Clip
from anyany.pocket.dialogues import ANNOUNCEMENT
from anyany.pocket.evaluate import Evaluation, EvaluationConfig, evaluate
from anyany.pocket.evaluate_cases import draw_cases
from anyany.pocket.evaluate_kinds import KINDS, Kind
from anyany.pocket.evaluate_rows import ROWS, rows_for
from anyany.pocket.figures import NOT_MEASURED, figures_markdown
from anyany.pocket.report import SHOWN_SOUNDS, report_html
from anyany.pocket.sounds import Sound
from anyany.pocket.world import Described, Scene

CONFIG = EvaluationConfig(num_items=16, num_video=8, seed=3, micro_batch=8)
MEDIA_ROWS = [name for name, spec in ROWS.items() if spec.by_default]
ORACLE_ROWS = tuple(name for name in MEDIA_ROWS if not name.endswith(("vae", "edit", "reference")))
PRESETS = DecoderPresets(
    reference=DecoderSettings(num_inference_steps=2, guidance_scale=1.0),
    fast=DecoderSettings(num_inference_steps=1, guidance_scale=1.0),
    default="fast",
)
FULL: Mapping[type, Described] = {
    Scene: Scene("bell", "red", "small", "left", "white"),
    Clip: Clip("bell", "red", "white", "left"),
    Sound: Sound("bell", "once", "low"),
}


@pytest.fixture(scope="module")
def fresh() -> Iterator[AnyToAny]:
    with fresh_pocket() as model:
        for decoder in model.decoders.values():
            decoder.presets = PRESETS
        yield model


def right_medium(kind: Kind, said: Described) -> Any:
    """A true medium of what was said; the rest is as in FULL."""
    full = kind.subject(**{**FULL[kind.subject].said(), **said.said()})
    return kind.render(full, random.Random(str(full)))


class Oracle:
    """Knows every answer.

    Args:
        spoiled: whether the request of a number gets another thing.
    """

    def __init__(self, spoiled: Callable[[int], bool] = lambda number: False) -> None:
        self.spoiled = spoiled
        self.seeds: dict[str, list[int]] = {}

    def generate_batch(
        self, model: AnyToAny, requests: Sequence[Mapping[str, Any]], *, outputs: set[str]
    ) -> Iterator[Reply]:
        for number, request in enumerate(requests):
            (message,) = to_messages(request["prompt"])
            yield self.answer(message, outputs, self.spoiled(number))

    def answer(self, message: Message, outputs: set[str], spoiled: bool) -> Reply:
        wanted = [KINDS[name] for name in outputs if name != "text"]
        shown = [part for part in message.parts if not isinstance(part, TextPart)]
        words = message.text
        if not wanted:
            kind = KINDS[shown[0].modality]
            said = kind.check(kind.medium(shown[0]))
            return self.reply(f"{kind.canonical(self.maybe_other(said, spoiled))}.")
        made = wanted[0]
        if shown:
            kind = KINDS[shown[0].modality]
            seen = kind.check(kind.medium(shown[0]))
            names = ("thing", "color", "background") if made.modality == "video" else ("thing",)
            known = {name: getattr(seen, name) for name in names}
            target = made.subject(**{**made.read(words).said(), **known})
        else:
            target = made.read(words)
        medium = right_medium(made, self.maybe_other(target, spoiled))
        return self.reply(ANNOUNCEMENT.format(made.canonical(target)), made.part(medium))

    @staticmethod
    def maybe_other(said: Described, spoiled: bool) -> Described:
        if not spoiled:
            return said
        return said.changed("thing", "drum" if getattr(said, "thing", "") == "bell" else "bell")

    @staticmethod
    def reply(words: str, *media: MediaPart) -> Reply:
        return Reply((TextPart(words), *media), words, 0, {})

    def decoder(self, kind: Kind) -> Callable[..., Tensor]:
        def decode_batch(
            captions: Sequence[str], generators: Sequence[torch.Generator], **run: Any
        ) -> Tensor:
            assert run["batch_invariant"] is False
            seeds = self.seeds.setdefault(kind.modality, [])
            seeds += [generator.initial_seed() for generator in generators]
            media = [np.asarray(right_medium(kind, kind.read(one))) for one in captions]
            made = torch.from_numpy(np.stack(media))
            if kind.modality == "audio":
                return made
            return (made.float() / 255).movedim(-1, -3)

        return decode_batch


@pytest.fixture
def oracle(fresh: AnyToAny, monkeypatch: pytest.MonkeyPatch) -> Oracle:
    known = Oracle()
    monkeypatch.setattr(
        AnyToAny, "generate_batch", lambda model, r, **k: known.generate_batch(model, r, **k)
    )
    for name, decoder in fresh.decoders.items():
        monkeypatch.setattr(decoder, "encode_captions", lambda captions: captions)
        monkeypatch.setattr(decoder, "decode_batch", known.decoder(KINDS[name]))
    return known


def measured(fresh: AnyToAny, **changes: Any) -> Evaluation:
    return evaluate(fresh, replace(CONFIG, rows=ORACLE_ROWS, **changes))


def test_an_oracle_gets_everything_right_in_every_row(fresh: AnyToAny, oracle: Oracle) -> None:
    found = measured(fresh)
    results = json.loads(json.dumps(found.results))
    assert results["measurable"] == list(ROWS) == rows_for(KINDS, KINDS)
    assert list(results["rows"]) == [name for name in ROWS if name in ORACLE_ROWS]
    for name, row in results["rows"].items():
        assert row["all"] >= (0.98 if "checker" in name else 1.0), name
        few = name.startswith("video.") and not name.endswith(("checker", "describe"))
        few = few or name == "image-to-video"
        assert row["n"] == (64 if "checker" in name else 8 if few else 16), name
        assert all(share == 1.0 for key, share in row["extras"].items()), name
    pairs = (("chain", "direct"), ("caption", "direct"), ("chain", "caption"))
    assert {name: compared["value"] for name, compared in results["comparisons"].items()} == {
        f"{kind.row(one)} / {kind.row(base)}": 1.0 for kind in KINDS.values() for one, base in pairs
    }
    assert set(results["presets"]) == set(KINDS)
    # the same noise as the requests of the chain's rows ask for
    for name, kind in KINDS.items():
        number = 8 if name == "video" else 16
        expected = [
            part_generator(case.seed, kind.modality, 0).initial_seed()
            for case in draw_cases(kind, number, "held-out", 3)
        ]
        assert oracle.seeds[name] == expected
    check_pages(found)


def check_pages(found: Evaluation) -> None:
    """The table and the page of a whole evaluation."""
    table = figures_markdown(found.results)
    unmeasured = [line for line in table.splitlines() if f"| {NOT_MEASURED} |" in line]
    assert len(unmeasured) == 5  # three round trips, the edits, the reference preset
    for line in (
        "| checkers on true sounds, lowest attribute | 100.0% |",
        "| text → video with the decoder's own text encoder: thing, color and motion right | 100",
        "| text → audio through the whole chain, as a ratio to that | 1.000 |",
        "| sound → its picture: the thing right | 100.0% |",
        "n = 16 a row (64 for the checkers, 8 where clips are made)",
        "(thing, color) and (thing, motion) pairs and (thing, count, pitch) triples",
    ):
        assert line in table
    page = report_html(found)
    sounds = [row for name, row in found.rows.items() if name.startswith("audio.")]
    assert len(sounds) == 5
    turned = ("image-to-audio", "video-to-audio", "audio-to-image")
    players = (len(sounds) + len(turned)) * SHOWN_SOUNDS
    assert page.count('<audio controls preload="none" src="data:audio/wav;base64,UklGR') == players
    assert "media-src data:" in page
    assert page.count('<div class="items wide">') == 5 + 5 + 4  # clips, sounds, turned media


def test_what_is_wrong_is_counted(fresh: AnyToAny, oracle: Oracle) -> None:
    oracle.spoiled = lambda number: number % 4 == 0
    rows = ("video.direct", "video.chain", "audio.describe", "image-to-audio", "audio-to-image")
    results = evaluate(fresh, replace(CONFIG, rows=rows)).results
    for name in rows[1:]:
        row = results["rows"][name]
        assert row["all"] == 0.75, name
        assert row["attributes"]["thing"] == 0.75
    assert set(results["rows"]["image-to-audio"]["attributes"]) == {"thing"}
    assert results["comparisons"]["video.chain / video.direct"]["value"] == 0.75


def test_a_wrong_background_does_not_count_in_a_made_clip(
    fresh: AnyToAny, oracle: Oracle, monkeypatch: pytest.MonkeyPatch
) -> None:
    grounds = {"white": "gray", "gray": "beige", "beige": "pink", "pink": "white"}

    def decode_batch(captions: Sequence[str], *_: object, **__: object) -> Tensor:
        kind = KINDS["video"]
        said = [kind.read(caption) for caption in captions]
        clips = [one.changed("background", grounds[one.said()["background"]]) for one in said]
        made = torch.from_numpy(np.stack([right_medium(kind, clip) for clip in clips]))
        return (made.float() / 255).movedim(-1, -3)

    monkeypatch.setattr(fresh.decoders["video"], "decode_batch", decode_batch)
    results = evaluate(fresh, replace(CONFIG, rows=("video.direct",))).results
    row = results["rows"]["video.direct"]
    assert row["all"] == 1.0
    assert row["attributes"]["background"] == 0.0
    assert row["extras"] == {"background right, too": 0.0}


def test_fresh_weights_go_through_every_way(fresh: AnyToAny) -> None:
    rows = (
        "video.vae",
        "video.direct",
        "video.reference",
        "audio.vae",
        "audio.direct",
        "audio.caption",
        "audio.describe",
        "image-to-video",
    )
    config = EvaluationConfig(num_items=2, seed=5, micro_batch=2, rows=rows)
    found = evaluate(fresh, config)
    assert set(found.rows) == set(rows)
    for name, row in found.rows.items():
        assert len(row.items) == 2
        for item in row.items:
            if name.startswith("video.") or name == "image-to-video":
                assert item.made.shape == (8, 64, 64, 3)
            elif name != "audio.describe":
                assert item.made.shape == (32_000,)
    assert set(found.results["comparisons"]) == {
        "audio.caption / audio.direct",
        "video.direct - video.reference",
    }
    report_html(found)
    decoder = fresh.decoders["video"]
    cases = draw_cases(KINDS["video"], 2, "held-out", 5)
    made = decoder.decode_batch(
        decoder.encode_captions([case.words for case in cases]),
        [part_generator(case.seed, "video", 0) for case in cases],
        batch_invariant=False,
        micro_batch=2,
    )
    for item, frames in zip(found.rows["video.direct"].items, to_frames(made), strict=True):
        assert np.abs(item.made.astype(int) - frames.astype(int)).max() <= 1


def test_true_sounds_and_clips_come_back_through_parts_that_change_nothing(
    fresh: AnyToAny, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Pixels go through the autoencoder frame by frame, in order."""

    class Same:
        def __init__(self, value: Tensor) -> None:
            self.mean = self.sample = value
            self.latent_dist = self

    kind = KINDS["video"]
    vae = fresh.decoders["video"].vae
    monkeypatch.setattr(vae, "encode", Same)
    monkeypatch.setattr(vae, "decode", Same)
    clips = [right_medium(kind, Clip(motion=motion)) for motion in ("left", "growing")]
    for before, after in zip(clips, kind.restore(fresh.decoders["video"], clips), strict=True):
        assert np.array_equal(before, after)


def test_a_system_of_other_sizes_is_refused(
    fresh: AnyToAny, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(fresh.decoders["video"], "num_frames", 16)
    with pytest.raises(UsageError, match="expected a system that makes 8 frames of 64 x 64 pixels"):
        evaluate(fresh, CONFIG)


def test_rows_are_those_of_the_modalities() -> None:
    assert rows_for(["image", "audio"], ["image"]) == [
        *("checker", "vae", "direct", "reference", "chain", "caption", "describe", "edit"),
        *("audio.checker", "audio.describe", "audio-to-image"),
    ]
    assert rows_for(["image"], ["video"]) == [
        *("checker", "describe"),
        *(f"video.{n}" for n in ("checker", "vae", "direct", "reference", "chain", "caption")),
        "image-to-video",
    ]
