"""Counts and times of a server, told in Prometheus' text format; no library behind it."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping
from typing import Final, TypeVar

from anyany.errors import AnyAnyError
from anyany.messages import Reply

_HELP: Final[Mapping[str, str]] = {
    "anyany_requests_total": "Requests by route and status.",
    "anyany_request_seconds": "Seconds from a request's head to the end of its answer.",
    "anyany_rejected_total": "Requests that were turned away.",
    "anyany_wait_seconds": "Seconds that jobs waited for the engine.",
    "anyany_call_jobs": "Jobs of one call of the engine.",
    "anyany_jobs_total": "Jobs by how they ended.",
    "anyany_stage_seconds_total": "Seconds of the engine by stage, as jobs felt them.",
    "anyany_parts_total": "Parts made, by modality.",
    "anyany_tokens_total": "Tokens written.",
    "anyany_queue": "Jobs that wait.",
    "anyany_running": "Jobs at work.",
    "anyany_body_bytes": "Bytes of request bodies in memory.",
    "anyany_stored": "Files, clips and batches that are kept, by kind.",
}
_BUCKETS: Final[Mapping[str, tuple[float, ...]]] = {
    "anyany_request_seconds": (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0),
    "anyany_wait_seconds": (0.003, 0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0),
    "anyany_call_jobs": (1, 2, 4, 8, 16, 32, 64),
}
_Labels = tuple[tuple[str, str], ...]
_Value = TypeVar("_Value")


class Metrics:
    """Counters, histograms and gauges; any thread may tell."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: dict[tuple[str, _Labels], float] = {}
        self._histograms: dict[tuple[str, _Labels], list[float]] = {}  # buckets, sum, count
        self._gauges: dict[tuple[str, _Labels], Callable[[], float]] = {}

    def count(self, name: str, amount: float = 1.0, **labels: str) -> None:
        """Add to a counter."""
        key = name, tuple(sorted(labels.items()))
        with self._lock:
            self._counts[key] = self._counts.get(key, 0.0) + amount

    def observe(self, name: str, value: float, **labels: str) -> None:
        """Put a value into a histogram."""
        bounds = _BUCKETS[name]
        key = name, tuple(sorted(labels.items()))
        with self._lock:
            row = self._histograms.setdefault(key, [0.0] * (len(bounds) + 2))
            for place, bound in enumerate(bounds):
                row[place] += value <= bound
            row[-2] += value
            row[-1] += 1

    def gauge(self, name: str, read: Callable[[], float], **labels: str) -> None:
        """A value that is read when it is asked for."""
        self._gauges[name, tuple(sorted(labels.items()))] = read

    def answered(self, answer: Reply | AnyAnyError) -> None:
        """A job's end."""
        if isinstance(answer, AnyAnyError):
            self.count("anyany_jobs_total", result=type(answer).__name__)
            return
        self.count("anyany_jobs_total", result=answer.finish_reason)
        self.count("anyany_tokens_total", len(answer.token_ids))
        for part in answer.parts:
            self.count("anyany_parts_total", modality=part.modality)
        for stage, seconds in answer.timings.items():
            if stage != "total":
                self.count("anyany_stage_seconds_total", seconds, stage=stage)

    def text(self) -> str:
        """All of it, in Prometheus' text format 0.0.4."""
        with self._lock:
            counts, histograms = dict(self._counts), {k: [*v] for k, v in self._histograms.items()}
        lines: list[str] = []
        for name, about in _HELP.items():
            rows: list[str] = []
            for (_, labels), value in _of(name, counts):
                rows.append(f"{name}{_told(labels)} {value:g}")
            for (_, labels), row in _of(name, histograms):
                rows += _histogram(name, labels, row)
            for (_, labels), read in _of(name, self._gauges):
                rows.append(f"{name}{_told(labels)} {read():g}")
            if rows:
                kind = "counter" if name.endswith("_total") else "gauge"
                kind = "histogram" if name in _BUCKETS else kind
                lines += [f"# HELP {name} {about}", f"# TYPE {name} {kind}", *rows]
        return "\n".join(lines) + "\n"


def _of(
    name: str, values: Mapping[tuple[str, _Labels], _Value]
) -> list[tuple[tuple[str, _Labels], _Value]]:
    return sorted(((k, v) for k, v in values.items() if k[0] == name), key=lambda item: item[0])


def _histogram(name: str, labels: _Labels, row: list[float]) -> list[str]:
    bounds = [f"{bound:g}" for bound in _BUCKETS[name]]
    lines = [
        f"{name}_bucket{_told((*labels, ('le', bound)))} {value:g}"
        for bound, value in zip([*bounds, "+Inf"], [*row[:-2], row[-1]], strict=True)
    ]
    return [
        *lines,
        f"{name}_sum{_told(labels)} {row[-2]:g}",
        f"{name}_count{_told(labels)} {row[-1]:g}",
    ]


def _told(labels: _Labels) -> str:
    inner = ",".join(f'{name}="{_escaped(value)}"' for name, value in labels)
    return f"{{{inner}}}" if inner else ""


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
