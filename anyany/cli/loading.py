"""Load a system for a verb, without other libraries' bars on the terminal."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Literal, cast

from anyany.cli.terminal import notes

if TYPE_CHECKING:
    from anyany.requests import EngineSettings
    from anyany.residency import ResidencyKind
    from anyany.system import AnyToAny


def load_system(
    source: str,
    *,
    device: str = "auto",
    dtype: str | None = None,
    threads: int,
    residency: str = "resident",
    settings: EngineSettings | None = None,
    weights: str | None = None,
) -> AnyToAny:
    """Load a system and note where it runs.

    Args:
        source: as `AnyToAny.from_pretrained` takes it.
        device: likewise.
        dtype: likewise.
        threads: of torch on the CPU.
        residency: likewise.
        settings: likewise.
        weights: likewise.

    Raises:
        CheckpointError, ConfigError, UsageError: as `AnyToAny.from_pretrained`.
    """
    from transformers.utils import logging as transformers_logging

    from anyany.system import AnyToAny

    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    model = AnyToAny.from_pretrained(
        source,
        device=device,
        dtype=dtype,
        threads=threads,
        residency=cast("ResidencyKind", residency),
        settings=settings,
        weights=cast("Literal['dummy'] | None", weights),
    )
    if weights is not None:
        notes.warning("random weights: what it says and makes means nothing")
    kind = str(model.language.dtype).removeprefix("torch.")
    plural = "" if threads == 1 else "s"
    shared = f", {threads} thread{plural}" if model.device.type == "cpu" else ""
    notes.info("%s on %s, %s%s", model.config.name, model.device, kind, shared)
    card = model.config.card
    notes.log(logging.WARNING if "non-commercial" in card.lower() else logging.DEBUG, "%s", card)
    return model
