"""The rows of an evaluation: each makes its items, by one way through the system, and judges them.

A row is written once for all kinds of media; `ROWS` names every row of every kind and says what a
system must see and make for it. Its time is taken by the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

from anyany.pocket.evaluate_cases import (
    Case,
    describe_cases,
    edit_cases,
    true_media,
    turn_cases,
)
from anyany.pocket.evaluate_kinds import KINDS, Kind, Medium
from anyany.pocket.evaluate_runner import Runner, first_medium
from anyany.pocket.evaluate_scores import Item, Row
from anyany.requests import ConditionSource

CHECKER_FACTOR: Final = 4  # true renders for each item of another row: 2,000 at 500
KEPT_TRUE: Final = 24  # media of the checkers' rows that stay in memory, for the report
_IMAGE, _VIDEO, _AUDIO = KINDS["image"], KINDS["video"], KINDS["audio"]
_NUMBERS: Final = {3: "three", 4: "four", 5: "five"}


@dataclass(frozen=True)
class RowSpec:
    """A row that can be measured.

    Args:
        title: for people.
        run: makes the row: (runner, its name).
        sees: modalities that the system must take.
        makes: modalities that it must make.
        meets: modalities of which one must be taken or made.
        by_default: whether it is measured if no rows are named.
    """

    title: str
    run: Callable[[Runner, str], Row]
    sees: Collection[str] = ()
    makes: Collection[str] = ()
    meets: Collection[str] = ()
    by_default: bool = True

    def fits(self, sees: Collection[str], makes: Collection[str]) -> bool:
        """Whether a system with these modalities can be measured so."""
        met = not self.meets or bool({*sees, *makes} & {*self.meets})
        return met and {*self.sees} <= {*sees} and {*self.makes} <= {*makes}


def _checker(kind: Kind, runner: Runner, name: str) -> Row:
    number = CHECKER_FACTOR * runner.config.num_items
    items = []
    shown = true_media(kind, number, None, runner.config.seed)
    for done, (subject, medium) in enumerate(shown, start=1):
        made = medium if done <= KEPT_TRUE else None
        items.append(Item(subject, kind.check(medium), kind.combination(subject), made=made))
        if done % 100 == 0 or done == number:
            runner.progress(name, done, number)
    note = f"true {kind.nouns} of the whole world, held-out combinations included"
    return _row(name, items, note)


def _vae(kind: Kind, runner: Runner, name: str) -> Row:
    number = runner.number(kind)
    shown = list(true_media(kind, number, runner.split, runner.config.seed))
    decoder, size = runner.decoder(kind), runner.config.micro_batch
    items: list[Item] = []
    for start in range(0, len(shown), size):
        batch = shown[start : start + size]
        made = kind.restore(decoder, [medium for _, medium in batch])
        items += [
            Item(subject, kind.check(after), kind.combination(subject), shown=before, made=after)
            for (subject, before), after in zip(batch, made, strict=True)
        ]
        runner.progress(name, len(items), len(shown))
    note = f"true {kind.nouns} through {kind.round_trip}: the ceiling of every row that makes them"
    return _row(name, items, note)


def _direct(kind: Kind, runner: Runner, name: str, *, preset: str | None = None) -> Row:
    made = runner.draw_direct(kind, name, preset)
    settings = runner.decoder(kind).presets.get(preset)
    cases = runner.draw_cases(kind)
    items = [_judged(kind, case, medium) for case, medium in zip(cases, made, strict=True)]
    note = f"{preset or 'shipped'} preset: {_said(settings)}"
    return _row(name, items, note, _stricter(kind, items))


def _chain(kind: Kind, runner: Runner, name: str, *, condition: ConditionSource) -> Row:
    cases = runner.draw_cases(kind)
    requests = [
        {"prompt": kind.request.format(case.words), "seed": case.seed, "condition": condition}
        for case in cases
    ]
    replies = runner.answer(name, requests, makes=kind)
    items = [
        _judged(
            kind, case, first_medium(kind, reply), prompt=str(request["prompt"]), reply=reply.text
        )
        for case, request, reply in zip(cases, requests, replies, strict=True)
    ]
    said = [kind.read(item.reply) == item.truth for item in items]
    all_of_them = _NUMBERS[len(kind.subject.ATTRIBUTES)]
    extras = {
        f"the reply's words say all {all_of_them}": _share(said),
        **_stricter(kind, items),
    }
    what = "the signal tokens' states" if condition == "signal" else "the reply's own words"
    asked = kind.request.format("...")
    note = f'"{asked}" through the whole system; the decoder is told {what}'
    return _row(name, items, note, extras)


def _describe(kind: Kind, runner: Runner, name: str) -> Row:
    cases = describe_cases(kind, runner.config.num_items, runner.split, runner.config.seed)
    replies = runner.answer(name, [{"prompt": case.prompt(), "seed": 0} for case in cases])
    items = [
        Item(
            case.target,
            kind.read(reply.text),
            case.combination,
            prompt=case.words,
            reply=reply.text,
            shown=case.shown,
        )
        for case, reply in zip(cases, replies, strict=True)
    ]
    note = "a medium and a request to describe it; an unparsable reply is wrong in every attribute"
    return _row(name, items, note)


def _edit(runner: Runner, name: str) -> Row:
    cases = edit_cases(runner.config.num_items, runner.split, runner.config.seed)
    items = _answered(_IMAGE, runner, name, cases)
    kept = [all(flag for name, flag in item.right.items() if name != item.group) for item in items]
    extras = {
        "the asked attribute changed": _share([item.right[item.group] for item in items]),
        "the four others kept": _share(kept),
    }
    note = "the shown picture's pair is of the split, the target is any scene one attribute away"
    return _row(name, items, note, extras)


def _turn(shown: Kind, made: Kind, runner: Runner, name: str) -> Row:
    cases = turn_cases(shown, made, runner.number(made), runner.split, runner.config.seed)
    items = _answered(made, runner, name, cases)
    said = [made.read(item.reply).only(list(item.truth.said())) == item.truth for item in items]
    extras = {"the reply's words say it": _share(said), **_stricter(made, items)}
    note = "the shown medium's combination is of the split; what counts: " + ", ".join(
        made.needed or items[0].truth.said()
    )
    return _row(name, items, note, extras)


def _rows_of(kind: Kind) -> dict[str, RowSpec]:
    modality, makes = kind.modality, (kind.modality,)
    to = f"text → {modality}"
    signal, caption = (partial(_chain, kind, condition=c) for c in ("signal", "caption"))
    reference = partial(_direct, kind, preset="reference")
    rows = {
        "checker": RowSpec(f"checkers on true {kind.nouns}", partial(_checker, kind), meets=makes),
        "vae": RowSpec(f"checkers after {kind.round_trip}", partial(_vae, kind), makes=makes),
        "direct": RowSpec(
            f"{to}, the decoder's own text encoder", partial(_direct, kind), makes=makes
        ),
        "reference": RowSpec(
            f"{to}, likewise, reference preset",
            reference,
            makes=makes,
            by_default=modality == "image",
        ),
        "chain": RowSpec(f"{to}, whole chain", signal, makes=makes),
        "caption": RowSpec(f"{to}, whole chain, told the caption", caption, makes=makes),
        "describe": RowSpec(f"{modality} → text", partial(_describe, kind), sees=makes),
    }
    return {kind.row(name): spec for name, spec in rows.items()}


def _between(shown: Kind, made: Kind, title: str) -> RowSpec:
    return RowSpec(
        title, partial(_turn, shown, made), sees=(shown.modality,), makes=(made.modality,)
    )


ROWS: Final[dict[str, RowSpec]] = {
    **_rows_of(_IMAGE),
    "edit": RowSpec("image + text → image", _edit, sees=("image",), makes=("image",)),
    **_rows_of(_VIDEO),
    **_rows_of(_AUDIO),
    "image-to-audio": _between(_IMAGE, _AUDIO, "image → its sound"),
    "video-to-audio": _between(_VIDEO, _AUDIO, "video → its sound"),
    "audio-to-image": _between(_AUDIO, _IMAGE, "sound → its picture"),
    "image-to-video": _between(_IMAGE, _VIDEO, 'image + "make it move left" → video'),
}


def rows_for(sees: Collection[str], makes: Collection[str]) -> list[str]:
    """The rows in which a system of these modalities can be measured."""
    return [name for name, spec in ROWS.items() if spec.fits(sees, makes)]


def _answered(kind: Kind, runner: Runner, name: str, cases: Sequence[Case]) -> list[Item]:
    """Cases answered by the whole system with a medium of a kind."""
    requests = [{"prompt": case.prompt(), "seed": case.seed} for case in cases]
    replies = runner.answer(name, requests, makes=kind)
    return [
        _judged(kind, case, first_medium(kind, reply), reply=reply.text)
        for case, reply in zip(cases, replies, strict=True)
    ]


def _judged(kind: Kind, case: Case, made: Medium, *, prompt: str = "", reply: str = "") -> Item:
    return Item(
        case.target,
        kind.check(made),
        case.combination,
        group=case.group,
        prompt=prompt or case.words,
        reply=reply,
        shown=case.shown,
        made=made,
        needed=kind.needed,
    )


def _row(
    name: str, items: Sequence[Item], note: str, extras: Mapping[str, float] | None = None
) -> Row:
    return Row(name, ROWS[name].title, tuple(items), 0.0, note, extras or {})


def _stricter(kind: Kind, items: Sequence[Item]) -> dict[str, float]:
    """Where not every attribute counts: the share of items that have all of them right."""
    if not kind.needed:
        return {}
    others = [name for name in kind.subject.ATTRIBUTES if name not in kind.needed]
    share = _share([all(item.right.values()) for item in items])
    return {f"{' and '.join(others)} right, too": share}


def _share(flags: Sequence[bool]) -> float:
    return sum(flags) / len(flags)


def _said(settings: Any) -> str:
    return (
        f"{settings.num_inference_steps} steps of {settings.scheduler}, "
        f"guidance {settings.guidance_scale:g}"
    )
