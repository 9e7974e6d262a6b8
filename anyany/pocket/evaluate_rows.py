"""The rows of an evaluation: each makes its items, by one way through the system, and judges them.

A row takes a `Runner` (the system set up for throughput, the cases' settings, a teller of progress)
and returns a `Row`; its time is taken by the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

import numpy as np
import numpy.typing as npt
from PIL import Image

from anyany.decoders import part_generator, to_pil
from anyany.decoders.image import to_unit_range
from anyany.language import DecodeSettings
from anyany.pocket.captions import parse_caption
from anyany.pocket.check import check_image
from anyany.pocket.evaluate_cases import (
    DrawCase,
    Split,
    describe_cases,
    draw_cases,
    edit_cases,
    pair_of,
    true_pictures,
)
from anyany.pocket.evaluate_scores import Item, Row
from anyany.pocket.image_vae import encode_latents, to_pixels
from anyany.pocket.world import Scene
from anyany.requests import ConditionSource, EngineSettings
from anyany.system import AnyToAny

if TYPE_CHECKING:
    from anyany.messages import Reply
    from anyany.pocket.evaluate import EvaluationConfig

CHECKER_FACTOR: Final = 4  # true renders for each item of another row: 2,000 at 500

Progress: TypeAlias = Callable[[str, int, int], None]  # (row, done, of)


class Runner:
    """The system under evaluation, set up for throughput.

    Bytes may depend on neighbours here (`batch_invariant=False`), which the results record.
    """

    def __init__(self, model: AnyToAny, config: EvaluationConfig, progress: Progress) -> None:
        self.config = config
        self.progress = progress
        settings = EngineSettings(
            language=DecodeSettings(rows=config.micro_batch, batch_invariant=False),
            batch_invariant=False,
            micro_batch=config.micro_batch,
        )
        self.model = AnyToAny(
            model.config,
            model.bridge,
            model.decoders,
            cast("Mapping[str, Any]", model.output_projectors),
            settings=settings,
            folder=model.folder,
        )
        self.decoder = model.decoders["image"]

    @property
    def split(self) -> Split:
        return self.config.split

    def draw_cases(self) -> list[DrawCase]:
        return draw_cases(self.config.num_items, self.split, self.config.seed)

    def draw_direct(self, name: str, preset: str | None) -> list[Image.Image]:
        """Pictures of the draw cases from the decoder's own text encoder."""
        cases, size = self.draw_cases(), self.config.micro_batch
        pictures: list[Image.Image] = []
        for start in range(0, len(cases), size):
            batch = cases[start : start + size]
            pictures += to_pil(
                self.decoder.decode_batch(
                    self.decoder.encode_captions([case.caption for case in batch]),
                    [part_generator(case.seed, "image", 0) for case in batch],
                    batch_invariant=False,
                    micro_batch=len(batch),
                    settings=preset,
                )
            )
            self.progress(name, len(pictures), len(cases))
        return pictures

    def answer(
        self, name: str, requests: Sequence[Mapping[str, Any]], *, outputs: set[str]
    ) -> list[Reply]:
        """Replies of the whole system."""
        replies: list[Reply] = []
        for reply in self.model.generate_batch(requests, outputs=outputs):
            replies.append(cast("Reply", reply))
            self.progress(name, len(replies), len(requests))
        return replies


def _checker(runner: Runner) -> Row:
    number = CHECKER_FACTOR * runner.config.num_items
    items = []
    for done, (scene, picture) in enumerate(
        true_pictures(number, None, runner.config.seed), start=1
    ):
        items.append(Item(scene, check_image(picture), pair_of(scene), made=picture))
        if done % 100 == 0 or done == number:
            runner.progress("checker", done, number)
    return _row("checker", items, "rendered scenes of the whole world, held-out pairs included")


def _vae(runner: Runner) -> Row:
    shown = true_pictures(runner.config.num_items, runner.split, runner.config.seed)
    vae, size = runner.decoder.vae, runner.config.micro_batch
    items: list[Item] = []
    for start in range(0, len(shown), size):
        batch = shown[start : start + size]
        pixels = to_pixels([_array(picture) for _, picture in batch])
        pixels = pixels.to(runner.decoder.device, runner.decoder.dtype)
        restored = vae.decode(encode_latents(vae, pixels)).sample
        made = to_pil(to_unit_range(restored))
        items += [
            Item(scene, check_image(after), pair_of(scene), shown=before, made=after)
            for (scene, before), after in zip(batch, made, strict=True)
        ]
        runner.progress("vae", len(items), len(shown))
    return _row(
        "vae",
        items,
        "true pictures through encoder and decoder of the VAE: the ceiling of every row that draws",
    )


def _direct(runner: Runner) -> Row:
    pictures = runner.draw_direct("direct", None)
    settings = runner.decoder.presets.get()
    return _row("direct", _drawn(runner, pictures), f"shipped preset: {_said(settings)}")


def _reference(runner: Runner) -> Row:
    pictures = runner.draw_direct("reference", "reference")
    settings = runner.decoder.presets.get("reference")
    return _row("reference", _drawn(runner, pictures), f"reference preset: {_said(settings)}")


def _chain(runner: Runner) -> Row:
    return _whole_chain(runner, "chain", "signal")


def _caption(runner: Runner) -> Row:
    return _whole_chain(runner, "caption", "caption")


def _whole_chain(runner: Runner, name: str, condition: ConditionSource) -> Row:
    cases = runner.draw_cases()
    requests = [
        {"prompt": f"draw {case.caption}", "seed": case.seed, "condition": condition}
        for case in cases
    ]
    replies = runner.answer(name, requests, outputs={"text", "image"})
    drawn = _drawn(runner, [reply.images[0].image for reply in replies])
    items = [
        replace(item, prompt=str(request["prompt"]), reply=reply.text)
        for item, request, reply in zip(drawn, requests, replies, strict=True)
    ]
    said = [_read(reply.text) == item.truth for reply, item in zip(replies, items, strict=True)]
    what = "the signal tokens' states" if condition == "signal" else "the reply's own words"
    extras = {"the reply's words say all five": sum(said) / len(said)}
    return _row(
        name, items, f'"draw ..." through the whole system; the decoder is told {what}', extras
    )


def _describe(runner: Runner) -> Row:
    cases = describe_cases(runner.config.num_items, runner.split, runner.config.seed)
    requests = [
        {"prompt": _prompt(case.picture, case.question, case.picture_first), "seed": 0}
        for case in cases
    ]
    replies = runner.answer("describe", requests, outputs={"text"})
    items = [
        Item(
            case.scene,
            _read(reply.text),
            pair_of(case.scene),
            prompt=case.question,
            reply=reply.text,
            shown=case.picture,
        )
        for case, reply in zip(cases, replies, strict=True)
    ]
    return _row(
        "describe",
        items,
        "a picture and a request to describe it; an unparsable reply is wrong in every attribute",
    )


def _edit(runner: Runner) -> Row:
    cases = edit_cases(runner.config.num_items, runner.split, runner.config.seed)
    requests = [
        {"prompt": _prompt(case.picture, case.request, case.picture_first), "seed": case.seed}
        for case in cases
    ]
    replies = runner.answer("edit", requests, outputs={"text", "image"})
    items = []
    for case, reply in zip(cases, replies, strict=True):
        made = reply.images[0].image
        items.append(
            Item(
                case.target,
                check_image(made),
                pair_of(case.source),
                group=case.attribute,
                prompt=case.request,
                reply=reply.text,
                shown=case.picture,
                made=made,
            )
        )
    kept = [all(flag for name, flag in item.right.items() if name != item.group) for item in items]
    extras = {
        "the asked attribute changed": sum(item.right[item.group] for item in items) / len(items),
        "the four others kept": sum(kept) / len(kept),
    }
    return _row(
        "edit",
        items,
        "the shown picture's pair is of the split, the target is any scene one attribute away",
        extras,
    )


ROWS: Final[dict[str, Callable[[Runner], Row]]] = {
    "checker": _checker,
    "vae": _vae,
    "direct": _direct,
    "reference": _reference,
    "chain": _chain,
    "caption": _caption,
    "describe": _describe,
    "edit": _edit,
}
TITLES: Final = {
    "checker": "checkers on true renders",
    "vae": "checkers after the VAE round trip",
    "direct": "text → image, the decoder's own text encoder",
    "reference": "text → image, likewise, reference preset",
    "chain": "text → image, whole chain",
    "caption": "text → image, whole chain, told the caption",
    "describe": "image → text",
    "edit": "image + text → image",
}


def _row(
    name: str, items: Sequence[Item], note: str, extras: Mapping[str, float] | None = None
) -> Row:
    return Row(name, TITLES[name], tuple(items), 0.0, note, extras or {})


def _drawn(runner: Runner, pictures: Sequence[Image.Image]) -> list[Item]:
    return [
        Item(
            case.scene,
            check_image(picture),
            pair_of(case.scene),
            group=case.style,
            prompt=case.caption,
            made=picture,
        )
        for case, picture in zip(runner.draw_cases(), pictures, strict=True)
    ]


def _prompt(picture: Image.Image, text: str, picture_first: bool) -> list[object]:
    return [picture, text] if picture_first else [text, picture]


def _read(text: str) -> Scene:
    """What a text says; nothing if it contradicts itself."""
    return parse_caption(text) or Scene()


def _said(settings: Any) -> str:
    return (
        f"{settings.num_inference_steps} steps of {settings.scheduler}, "
        f"guidance {settings.guidance_scale:g}"
    )


def _array(picture: Image.Image) -> npt.NDArray[np.uint8]:
    return np.asarray(picture, dtype=np.uint8)
