"""What decides a run's bytes beside its lines, kept in run.json and compared on resume."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from anyany.batch.items import canonical
from anyany.errors import RefusedError

FORMAT: Final = 1


@dataclass(frozen=True)
class Settings:
    """The settings of a run.

    Args:
        system: what the function said of itself: model, weights, device, threads, micro-batch, ...
        common: what holds for every line that does not say otherwise: decoding, sampling, metadata.
        lines: what turns the manifest into lines: outputs, template, columns.
        seed: of the run.
    """

    system: Mapping[str, Any]
    common: Mapping[str, Any] = field(default_factory=dict)
    lines: Mapping[str, Any] = field(default_factory=dict)
    seed: int = 0

    def flat(self) -> dict[str, Any]:
        """One level of names, for people and for comparison."""
        found: dict[str, Any] = {}
        for group, values in {
            "system": self.system,
            "common": self.common,
            "lines": self.lines,
        }.items():
            found |= {f"{group}.{name}": _plain(value) for name, value in values.items()}
        return {**found, "seed": self.seed}

    def fingerprint(self) -> str:
        """Of everything that decides an item's bytes beside its own line and the run's seed."""
        return hashlib.sha256(canonical([self.system, self.common])).hexdigest()

    def differences(self, recorded: Mapping[str, Any]) -> list[str]:
        """What is not as `flat` was when the run began, in words.

        Args:
            recorded: what run.json has; empty = a new run.
        """
        now = self.flat()
        if not recorded:
            return []
        return [
            f"{name} was {_told(recorded.get(name))}, is {_told(now.get(name))}"
            for name in sorted({*recorded, *now})
            if recorded.get(name) != now.get(name)
        ]

    def refuse_changes(self, recorded: Mapping[str, Any], folder: str) -> None:
        """Stop a resume that would mix two kinds of outputs.

        Raises:
            RefusedError: something differs; all of it is named.
        """
        found = self.differences(recorded)
        if found:
            raise RefusedError(
                f"{folder} was made with other settings: {'; '.join(found)}. Take another folder, "
                "or --force to make its items again"
            )


def _plain(value: Any) -> Any:
    if isinstance(value, Mapping):
        return {str(name): _plain(item) for name, item in value.items()}
    return [_plain(item) for item in value] if isinstance(value, list | tuple) else value


def _told(value: Any) -> str:
    text = "not set" if value is None else str(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
