"""`anyany evaluate`: how often the pocket system draws, describes and edits what it was asked for.

Every row meets held-out scenes (or seen ones) with fixed seeds and greedy text, and is judged by
`pocket.check` and the captions' parser, which share nothing with the models. Rows that draw from
the same captions start from the same noise, so that they can be compared case by case.
"""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any, Final

import torch

from anyany.decoders.diffusion_decoder import latent_factor
from anyany.decoders.image import sample_sides
from anyany.errors import UsageError
from anyany.pocket.evaluate_cases import SPLITS, Split
from anyany.pocket.evaluate_rows import ROWS, Progress, Runner
from anyany.pocket.evaluate_scores import Row, compare_difference, compare_ratio, summarize
from anyany.pocket.render import IMAGE_SIZE
from anyany.records import versions
from anyany.system import AnyToAny

FORMAT: Final = 1  # of the results
MICRO_BATCH: Final = 16  # pictures a decoder call
MAX_ITEMS: Final = 100_000


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
    runner = Runner(model, config, progress or _silent)
    wanted = [name for name in ROWS if not config.rows or name in config.rows]
    rows: dict[str, Row] = {}
    with torch.no_grad():
        for name in wanted:
            began = time.perf_counter()
            row = ROWS[name](runner)
            rows[name] = replace(row, seconds=time.perf_counter() - began)
    return Evaluation(_results(runner, rows), rows)


def _results(runner: Runner, rows: Mapping[str, Row]) -> dict[str, Any]:
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


def _silent(row: str, done: int, total: int) -> None:
    """No progress is told."""
