"""The same bytes whatever the neighbours and their order, per decoder; prints one JSON line.

A few requests are answered alone, together, backwards, and among strangers; every picture is
hashed. What the invariant mode costs is the time of one batch in it over the time without it.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from mix import build_mix

from anyany.language import DecodeSettings
from anyany.requests import EngineSettings
from anyany.system import AnyToAny

THROUGHPUT = EngineSettings(language=DecodeSettings(rows=32), batch_invariant=False, micro_batch=16)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure every decoder of the system."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch", type=int, default=16)
    arguments = parser.parse_args(argv)
    model = AnyToAny.from_pretrained(arguments.model, device="cpu", threads=arguments.threads)
    free = AnyToAny(
        model.config,
        model.bridge,
        model.decoders,
        dict(model.output_projectors.items()),  # type: ignore[arg-type]
        settings=THROUGHPUT,
        folder=model.folder,
    )
    report = {
        type(model.decoders[modality]).__name__: {
            "invariant": _contexts(model, modality),
            "throughput": _contexts(free, modality),
            **_cost(model, free, modality, arguments),
        }
        for modality in model.decoders
    }
    print(json.dumps(report))
    return 0


def _contexts(model: AnyToAny, modality: str) -> dict[str, Any]:
    """How many distinct hashes each request has over all contexts; 1 is invariant."""
    ours = _requests(modality, 4, 0)
    strangers = _requests(modality, 5, 1) + [
        {"prompt": list(job.messages), "outputs": {"text"}, "seed": job.seed}
        for job in build_mix(1, seed=2)
        if not job.draws
    ]
    contexts: dict[str, list[int | None]] = {  # which request stands where; None is a stranger
        "alone": [],
        "together": [0, 1, 2, 3],
        "backwards": [3, 2, 1, 0],
        "among strangers": [None, 2, None, None, 0, None, 3, None, 1, None, None],
    }
    hashes: list[set[str]] = [set() for _ in ours]
    for order in contexts.values():
        if not order:
            for index, request in enumerate(ours):
                hashes[index].add(_hash(next(iter(model.generate_batch([request])))))
            continue
        waiting = iter(strangers)
        batch = [next(waiting) if index is None else ours[index] for index in order]
        for index, reply in zip(order, model.generate_batch(batch), strict=True):
            if index is not None:
                hashes[index].add(_hash(reply))
    return {
        "contexts": list(contexts),
        "distinct_hashes": [len(found) for found in hashes],
        "same": all(len(found) == 1 for found in hashes),
    }


def _cost(
    model: AnyToAny, free: AnyToAny, modality: str, arguments: argparse.Namespace
) -> dict[str, float]:
    requests = _requests(modality, arguments.batch, 3)
    seconds: dict[str, list[float]] = {"invariant_seconds": [], "throughput_seconds": []}
    for system in (model, free):
        list(system.generate_batch(requests[:1]))
    for _ in range(arguments.repeats):
        for name, system in zip(seconds, (model, free), strict=True):
            began = time.perf_counter()
            list(system.generate_batch(requests))
            seconds[name].append((time.perf_counter() - began) / len(requests))
    medians = {name: statistics.median(values) for name, values in seconds.items()}
    ratio = medians["invariant_seconds"] / medians["throughput_seconds"]
    return {**medians, "invariant_over_throughput": ratio}


def _requests(modality: str, number: int, seed: int) -> list[dict[str, Any]]:
    jobs = [job for job in build_mix(number, seed) if job.kind == "text to image"]
    return [
        {"prompt": list(job.messages), "outputs": {"text", modality}, "seed": job.seed}
        for job in jobs
    ]


def _hash(reply: Any) -> str:
    """Of every byte of the reply's media, and of its tokens."""
    digest = hashlib.sha256(repr(reply.token_ids).encode())
    for part in reply.images:
        digest.update(part.image.tobytes())
    for part in reply.videos:
        digest.update(part.frames.tobytes())
    for part in reply.audios:
        digest.update(part.waveform.tobytes())
    return digest.hexdigest()


if __name__ == "__main__":
    sys.exit(main())
