"""`anyany evaluate`: how often the pocket system makes, describes and turns what it was asked for.

Every row meets held-out scenes, clips and sounds (or seen ones) with fixed seeds and greedy text,
and is judged by the checkers and the captions' parsers, which share nothing with the models. Rows
that make media from the same captions start from the same noise, so that they can be compared case
by case. A system without a modality lacks its rows.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import torch

from anyany.errors import UsageError
from anyany.pocket.evaluate_cases import SPLITS, Split
from anyany.pocket.evaluate_kinds import KINDS
from anyany.pocket.evaluate_rows import ROWS, rows_for
from anyany.pocket.evaluate_runner import Progress, Runner
from anyany.pocket.evaluate_scores import Row, compare_difference, compare_ratio, summarize
from anyany.records import versions
from anyany.system import AnyToAny

FORMAT: Final = 2  # of the results
MICRO_BATCH: Final = 16  # media a decoder call
MAX_ITEMS: Final = 100_000


@dataclass(frozen=True)
class EvaluationConfig:
    """What is measured.

    Args:
        num_items: of each row; the checkers get CHECKER_FACTOR times as many.
        num_video: of each row that makes clips, which take longest; None = as `num_items`.
        seed: of the cases and of their noise.
        rows: names among ROWS, in any order; none = all that the system has by default.
        split: "held-out" combinations, or "seen" ones, whose media training may have shown.
        strict: only says what the model is: one trained without the captions of held-out media.
        micro_batch: media a decoder call.

    Raises:
        UsageError: a number or a name is off.
    """

    num_items: int = 500
    num_video: int | None = None
    seed: int = 0
    rows: tuple[str, ...] = ()
    split: Split = "held-out"
    strict: bool = False
    micro_batch: int = MICRO_BATCH

    def __post_init__(self) -> None:
        for number in (self.num_items, self.num_video):
            if number is not None and not 1 <= number <= MAX_ITEMS:
                raise UsageError(f"expected 1 to {MAX_ITEMS} items a row; got {number}")
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
        rows: with their items and media.
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
        model: any system that sees and makes media of the world's sizes.
        config: what is measured; all rows by default.
        progress: told after every batch.

    Raises:
        UsageError: the system cannot see, or cannot make, media of the world, or lacks what a named
            row needs.
    """
    config = config or EvaluationConfig()
    measurable = _measurable(model)
    strange = [name for name in config.rows if name not in measurable]
    if strange:
        raise UsageError(
            f"expected rows among {', '.join(measurable)}, as {model.config.name} has them; "
            f"got {strange[0]!r}"
        )
    runner = Runner(model, config, progress or _silent)
    rows: dict[str, Row] = {}
    with torch.no_grad():
        for name in measurable:
            if name in config.rows or (not config.rows and ROWS[name].by_default):
                began = time.perf_counter()
                row = ROWS[name].run(runner, name)
                rows[name] = replace(row, seconds=time.perf_counter() - began)
    return Evaluation(_results(runner, rows, measurable), rows)


def _results(runner: Runner, rows: Mapping[str, Row], measurable: list[str]) -> dict[str, Any]:
    model = runner.model
    decoders = {name: model.decoders[name] for name in KINDS if name in model.decoders}
    return {
        "format": FORMAT,
        "model": {"name": model.config.name, "sha256": model.model_sha256},
        "config": {**asdict(runner.config), "rows": list(rows)},
        "measurable": measurable,
        "presets": {name: asdict(decoder.presets) for name, decoder in decoders.items()},
        "engine": {
            "batch_invariant": False,
            "micro_batch": runner.config.micro_batch,
            "threads": torch.get_num_threads(),
            "device": model.device.type,
            "dtype": str(next(iter(decoders.values())).dtype).removeprefix("torch."),
        },
        "machine": {"platform": platform.platform(), "cpus": os.cpu_count()},
        "versions": dict(versions()),
        "rows": {name: summarize(row) for name, row in rows.items()},
        "comparisons": _comparisons(rows),
    }


def _comparisons(rows: Mapping[str, Row]) -> dict[str, Any]:
    """Rows of the same cases and the same noise, side by side."""
    found: dict[str, Any] = {}
    for kind in KINDS.values():
        chain, caption, direct, reference = map(
            kind.row, ("chain", "caption", "direct", "reference")
        )
        for name, base in ((chain, direct), (caption, direct), (chain, caption)):
            if name in rows and base in rows:
                found[f"{name} / {base}"] = compare_ratio(rows[name].items, rows[base].items)
        if direct in rows and reference in rows:
            found[f"{direct} - {reference}"] = compare_difference(
                rows[direct].items, rows[reference].items
            )
    return found


def _measurable(model: AnyToAny) -> list[str]:
    """The rows that a system has, if its media are of the world's sizes."""
    sees = [name for name in KINDS if name in model.bridge.modalities]
    makes = [name for name in KINDS if name in model.decoders]
    if not set(sees) & set(makes):
        raise UsageError(
            "expected a system that sees and makes media of the pocket world; "
            f"{model.config.name} takes {', '.join(sees) or 'no media'} and "
            f"makes {', '.join(makes) or 'no media'}"
        )
    for name in makes:
        kind = KINDS[name]
        made = kind.made_size(model.decoders[kind.modality])
        if made != kind.size:
            raise UsageError(
                f"expected a system that makes {kind.size}, as the pocket world is; "
                f"{model.config.name} makes {made}"
            )
    return rows_for(sees, makes)


def _silent(row: str, done: int, total: int) -> None:
    """No progress is told."""
