"""Results of a run as the markdown that docs/benchmarks.md shows."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import median
from typing import Any, Final

_Results = Mapping[str, Any]
_GOALS: Final = {
    "language": "≥ 2×",
    "equal": "≥ 1×",
    "memory": "≤ 1×",
    "shipped": "≥ 5×",
}


def markdown(results: _Results) -> str:
    """All parts that were measured; nothing stands for those that were not."""
    machine = results["machine"]
    lines = [
        f"{machine['cpu']}, {machine['cpus']} CPUs (load {machine['load']:.1f} at the start), "
        f"{results['threads']} threads, {machine['platform']}, Python {machine['python']}, "
        f"torch {machine['torch']}, diffusers {machine['diffusers']}, "
        f"transformers {machine['transformers']}."
    ]
    if results["quick"]:
        lines += ["", "**A quick trial run: these figures mean nothing.**"]
    parts = {
        "mix": _mix,
        "accuracy": _accuracy,
        "overhead": _overhead,
        "reply": _reply,
        "invariance": _invariance,
        "startup": _startup,
        "profile": _profile,
    }
    for name, write in parts.items():
        if name in results:
            lines += ["", *write(results)]
    return "\n".join(lines)


def _mix(results: _Results) -> list[str]:
    rounds: Mapping[str, Sequence[Mapping[str, Any]]] = results["mix"]["rounds"]
    size, agreement = results["size"], results["mix"]["agreement"]
    rows = []
    for name, runs in rounds.items():
        language = median(run["tokens"] / run["stages"]["language"] for run in runs)
        rows.append(
            [
                name,
                f"{median(run['seconds'] for run in runs):.2f}",
                *(
                    f"{median(run['stages'][s] for run in runs):.2f}"
                    for s in ("encode", "language", "decode")
                ),
                f"{language:.0f}",
                f"{median(run['peak_mib'] for run in runs):.0f}",
            ]
        )
    head = ["side", "seconds", "encode", "language", "decode", "tokens/s", "peak MiB"]
    first = agreement["invariant"]
    ratios = [
        ["LLM stage, tokens a second", _GOALS["language"], *_ratios(rounds, _language_speed)],
        ["end to end at equal steps, requests a second", _GOALS["equal"], *_ratios(rounds, _speed)],
        ["peak memory at equal steps", _GOALS["memory"], *_ratios(rounds, _memory)],
        [
            "end to end, shipped preset against the reference flow",
            _GOALS["shipped"],
            *_ratios(rounds, _speed, shipped=True),
        ],
    ]
    return [
        "### The fixed mix against a plain per-request flow",
        "",
        f"{size['per_kind']} each of text → text, image → text, text → image and edit; replies of "
        f"24 tokens; equal steps are DDIM {size['steps']}, guidance "
        f"{results['guidance_scale']:g}; {size['rounds']} rounds, the sides in turn, medians. "
        f"Same replies on both sides: {first['same_replies']} of {agreement['replies']}; pictures "
        f"within 2 of 255 levels: {first['pictures_within_2_levels']} of {agreement['pictures']} "
        f"(throughput mode: {agreement['throughput']['same_replies']} and "
        f"{agreement['throughput']['pictures_within_2_levels']}).",
        "",
        *_table(head, rows),
        "",
        *_table(
            ["ratio to the reference flow", "goal", "invariant (default)", "throughput"], ratios
        ),
    ]


def _ratios(
    rounds: Mapping[str, Sequence[Mapping[str, Any]]], value: Any, *, shipped: bool = False
) -> list[str]:
    """Median over the rounds of each round's own ratio."""
    found = []
    for name in ("invariant", "throughput"):
        ours = rounds[f"{name}, shipped preset" if shipped else name]
        pairs = zip(ours, rounds["reference"], strict=True)
        found.append(f"{median(value(a) / value(b) for a, b in pairs):.2f}×")
    return found


def _language_speed(run: Mapping[str, Any]) -> float:
    return float(run["tokens"] / run["stages"]["language"])


def _speed(run: Mapping[str, Any]) -> float:
    return float(run["requests"] / run["seconds"])


def _memory(run: Mapping[str, Any]) -> float:
    return float(run["peak_mib"])


def _accuracy(results: _Results) -> list[str]:
    found = results["accuracy"]
    difference = found["difference"]
    low, high = difference["interval"]
    fast, reference = found["presets"]["fast"], found["presets"]["reference"]
    return [
        "### Paired accuracy of the shipped preset (goal: within 1 point)",
        "",
        f"{found['n']} held-out captions, same noise, decoder's own text encoder, all attributes "
        f"right: {_preset(fast)} {difference['all']:.1%}, {_preset(reference)} "
        f"{difference['base_all']:.1%}; difference {100 * difference['value']:+.1f} points "
        f"(95% interval {100 * low:+.1f} to {100 * high:+.1f}).",
    ]


def _preset(settings: Mapping[str, Any]) -> str:
    return (
        f"{settings['num_inference_steps']} steps of {settings['scheduler']} at guidance "
        f"{settings['guidance_scale']:g}"
    )


def _overhead(results: _Results) -> list[str]:
    rows = [
        [
            f"{name}, {one['steps']} steps",
            f"{1000 * one['loop_seconds']:.1f}",
            f"{1000 * one['decoder_seconds']:.1f}",
            f"{1000 * one['decode_stage_seconds']:.1f} ({one['decode_stage_overhead']:+.1%})",
            f"{1000 * one['generate_seconds']:.1f} ({one['generate_overhead']:+.1%})",
        ]
        for name, one in results["overhead"].items()
    ]
    return [
        "### Overhead of `generate` for one picture over the bare denoising loop (goal: ≤ 10%)",
        "",
        "Milliseconds, medians; `generate` also writes the reply's text, decodes latents and "
        "records provenance.",
        "",
        *_table(["preset", "bare loop", "with the VAE", "decode stage", "generate"], rows),
    ]


def _reply(results: _Results) -> list[str]:
    found = results["reply"]
    seconds = found["seconds"]
    stages = ", ".join(f"{name} {value:.2f}" for name, value in found["stages"].items())
    steps = ", ".join(f"{name} {value}" for name, value in found["steps"].items())
    return [
        f"### One reply with {', '.join(found['modalities'])} (goal: ≤ 10 s, floor 25 s)",
        "",
        f"{median(seconds):.2f} s, the median of {len(seconds)} warm runs ({min(seconds):.2f} to "
        f"{max(seconds):.2f}). Seconds by stage: {stages}. Denoising steps: {steps}.",
    ]


def _invariance(results: _Results) -> list[str]:
    rows = [
        [
            name,
            _contexts(one["invariant"]),
            _contexts(one["throughput"]),
            f"{1000 * one['invariant_seconds']:.0f} / {1000 * one['throughput_seconds']:.0f}",
            f"{one['invariant_over_throughput']:.2f}×",
        ]
        for name, one in results["invariance"].items()
    ]
    head = ["decoder", "invariant mode: same SHA-256", "throughput mode", "ms a picture", "cost"]
    return [
        "### Bytes whatever the neighbours and their order",
        "",
        "Each request alone, together, backwards and among strangers.",
        "",
        *_table(head, rows),
    ]


def _contexts(one: Mapping[str, Any]) -> str:
    same = sum(count == 1 for count in one["distinct_hashes"])
    return f"{same} of {len(one['distinct_hashes'])} requests"


def _startup(results: _Results) -> list[str]:
    rows = [
        [name, f"{one['first']:.2f}", f"{median(one['runs']):.2f}"]
        for name, one in results["startup"].items()
    ]
    return [
        "### Start of the process (goal: < 10 s to a saved picture)",
        "",
        *_table(["", "seconds, first", "median"], rows),
    ]


def _profile(results: _Results) -> list[str]:
    found = results["profile"]
    rows = [
        [name, f"{value:.2f}", f"{value / found['total']:.1%}", str(found["calls"].get(name, ""))]
        for name, value in sorted(found["seconds"].items(), key=lambda item: -item[1])
    ]
    return [
        "### Where the time goes: the mix, invariant mode, shipped preset",
        "",
        *_table(["", "seconds", "share", "calls"], rows),
    ]


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    return [
        "| " + " | ".join(head) + " |",
        "|" + "---|" * len(head),
        *("| " + " | ".join(row) + " |" for row in rows),
    ]
