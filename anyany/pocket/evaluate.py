"""`anyany evaluate`: how often the pocket system draws, describes and edits what it was asked for.

Every row meets held-out scenes (or seen ones) with fixed seeds and greedy text, and is judged by
`pocket.check` and the captions' parser, which share nothing with the models. Rows that draw from
the same captions start from the same noise, so that they can be compared case by case.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any, Final, cast

import torch
from PIL import Image

from anyany.decoders import part_generator, to_pil
from anyany.decoders.diffusion_decoder import latent_factor
from anyany.decoders.image import sample_sides, to_unit_range
from anyany.engine import ConditionSource, EngineSettings
from anyany.errors import UsageError
from anyany.language import DecodeSettings
from anyany.pocket.captions import parse_caption
from anyany.pocket.check import check_image
from anyany.pocket.evaluate_cases import (
    SPLITS,
    DrawCase,
    Split,
    describe_cases,
    draw_cases,
    edit_cases,
    pair_of,
    true_pictures,
)
from anyany.pocket.evaluate_scores import (
    Item,
    Row,
    compare_difference,
    compare_ratio,
    summarize,
)
from anyany.pocket.image_vae import encode_latents, to_pixels
from anyany.pocket.render import IMAGE_SIZE
from anyany.pocket.world import Scene
from anyany.records import versions
from anyany.system import AnyToAny

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    from anyany.messages import Reply

FORMAT: Final = 1  # of the results
MICRO_BATCH: Final = 16  # pictures a decoder call
CHECKER_FACTOR: Final = 4  # true renders for each item of another row: 2,000 at 500
MAX_ITEMS: Final = 100_000

Progress = Callable[[str, int, int], None]  # (row, done, of)


@dataclass(frozen=True)
class EvaluationConfig:
    """What is measured.

    Args:
        num_items: of each row; the checker gets CHECKER_FACTOR times as many.
        seed: of the cases and of their noise.
        rows: names among ROWS, in any order.
        split: "held-out" pairs, or "seen" ones, whose pictures training may have drawn.
        strict: only says what the model is: one trained without the captions of held-out pairs.
        micro_batch: pictures a decoder call.

    Raises:
        UsageError: a number or a name is off.
    """

    num_items: int = 500
    seed: int = 0
    rows: tuple[str, ...] = ()
    split: Split = "held-out"
    strict: bool = False
    micro_batch: int = MICRO_BATCH

    def __post_init__(self) -> None:
        if not 1 <= self.num_items <= MAX_ITEMS:
            raise UsageError(f"expected 1 to {MAX_ITEMS} items a row; got {self.num_items}")
        if not 0 <= self.seed < 2**32:
            raise UsageError(f"expected a seed from 0 to 2**32 - 1; got {self.seed}")
        if self.split not in SPLITS:
            raise UsageError(f"expected a split among {', '.join(SPLITS)}; got {self.split!r}")
        if self.micro_batch < 1:
            raise UsageError(f"expected a micro-batch of 1 or more; got {self.micro_batch}")
        strange = [name for name in self.rows if name not in ROWS]
        if strange:
            raise UsageError(f"expected rows among {', '.join(ROWS)}; got {strange[0]!r}")


@dataclass(frozen=True, eq=False)
class Evaluation:
    """What was measured.

    Args:
        results: plain values, as `results.json` holds them.
        rows: with their items and pictures.
    """

    results: Mapping[str, Any]
    rows: Mapping[str, Row]


def evaluate(
    model: AnyToAny,
    config: EvaluationConfig | None = None,
    *,
    progress: Progress | None = None,
) -> Evaluation:
    """Measure a pocket system.

    Args:
        model: any system with image input and an image decoder of 64 x 64 pixels.
        config: what is measured; all rows by default.
        progress: told after every batch.

    Raises:
        UsageError: the system cannot see, or cannot draw, pictures of the world.
    """
    config = config or EvaluationConfig()
    _check_system(model)
    runner = _Runner(model, config, progress or _silent)
    wanted = [name for name in ROWS if not config.rows or name in config.rows]
    rows: dict[str, Row] = {}
    with torch.no_grad():
        for name in wanted:
            began = time.perf_counter()
            row = ROWS[name](runner)
            rows[name] = replace(row, seconds=time.perf_counter() - began)
    return Evaluation(_results(runner, rows), rows)


class _Runner:
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


def _checker(runner: _Runner) -> Row:
    number = CHECKER_FACTOR * runner.config.num_items
    items = []
    for done, (scene, picture) in enumerate(
        true_pictures(number, None, runner.config.seed), start=1
    ):
        items.append(Item(scene, check_image(picture), pair_of(scene), made=picture))
        if done % 100 == 0 or done == number:
            runner.progress("checker", done, number)
    return _row("checker", items, "rendered scenes of the whole world, held-out pairs included")


def _vae(runner: _Runner) -> Row:
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
    return _row("vae", items, "true pictures through encoder and decoder of the VAE: the ceiling "
                "of every row that draws")


def _direct(runner: _Runner) -> Row:
    pictures = runner.draw_direct("direct", None)
    settings = runner.decoder.presets.get()
    return _row("direct", _drawn(runner, pictures), f"shipped preset: {_said(settings)}")


def _reference(runner: _Runner) -> Row:
    pictures = runner.draw_direct("reference", "reference")
    settings = runner.decoder.presets.get("reference")
    return _row("reference", _drawn(runner, pictures), f"reference preset: {_said(settings)}")


def _chain(runner: _Runner) -> Row:
    return _whole_chain(runner, "chain", "signal")


def _caption(runner: _Runner) -> Row:
    return _whole_chain(runner, "caption", "caption")


def _whole_chain(runner: _Runner, name: str, condition: ConditionSource) -> Row:
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
    return _row(name, items, f'"draw ..." through the whole system; the decoder is told {what}', extras)


def _describe(runner: _Runner) -> Row:
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
    return _row("describe", items, "a picture and a request to describe it; an unparsable reply "
                "is wrong in every attribute")


def _edit(runner: _Runner) -> Row:
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
    kept = [
        all(flag for name, flag in item.right.items() if name != item.group) for item in items
    ]
    extras = {
        "the asked attribute changed": sum(item.right[item.group] for item in items) / len(items),
        "the four others kept": sum(kept) / len(kept),
    }
    return _row("edit", items, "the shown picture's pair is of the split, the target is any scene "
                "one attribute away", extras)


ROWS: Final[dict[str, Callable[[_Runner], Row]]] = {
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


def _row(name: str, items: Sequence[Item], note: str, extras: Mapping[str, float] | None = None) -> Row:
    return Row(name, TITLES[name], tuple(items), 0.0, note, extras or {})


def _drawn(runner: _Runner, pictures: Sequence[Image.Image]) -> list[Item]:
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


def _results(runner: _Runner, rows: Mapping[str, Row]) -> dict[str, Any]:
    decoder, model = runner.decoder, runner.model
    comparisons: dict[str, Any] = {}
    for name, base in (("chain", "direct"), ("caption", "direct"), ("chain", "caption")):
        if name in rows and base in rows:
            comparisons[f"{name} / {base}"] = compare_ratio(rows[name].items, rows[base].items)
    if "direct" in rows and "reference" in rows:
        comparisons["direct - reference"] = compare_difference(
            rows["direct"].items, rows["reference"].items
        )
    return {
        "format": FORMAT,
        "model": {"name": model.config.name, "sha256": model.model_sha256},
        "config": {**asdict(runner.config), "rows": list(rows)},
        "presets": asdict(decoder.presets),
        "engine": {
            "batch_invariant": False,
            "micro_batch": runner.config.micro_batch,
            "threads": torch.get_num_threads(),
            "device": model.device.type,
            "dtype": str(decoder.dtype).removeprefix("torch."),
        },
        "machine": {"platform": platform.platform(), "cpus": os.cpu_count()},
        "versions": dict(versions()),
        "rows": {name: summarize(row) for name, row in rows.items()},
        "comparisons": comparisons,
    }


def _check_system(model: AnyToAny) -> None:
    if "image" not in model.decoders or "image" not in model.bridge.modalities:
        raise UsageError(
            "expected a system that sees and draws pictures of the pocket world; "
            f"{model.config.name} takes {', '.join(model.bridge.modalities) or 'no media'} and "
            f"makes {', '.join(model.decoders) or 'no media'}"
        )
    decoder = model.decoders["image"]
    side = sample_sides(decoder.unet)[0] * latent_factor(decoder.vae)
    if side != IMAGE_SIZE:
        raise UsageError(
            f"expected a system that draws {IMAGE_SIZE} x {IMAGE_SIZE} pixels, as the pocket world "
            f"is; {model.config.name} draws {side} x {side}"
        )


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
    import numpy as np

    return np.asarray(picture, dtype=np.uint8)


def _silent(row: str, done: int, total: int) -> None:
    """No progress is told."""
