"""The benchmarks compare like with like: same mix, same replies, same pictures on both sides."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from anyany.language import DecodeSettings
from anyany.pocket.figures import replace_between
from anyany.requests import EngineSettings

BENCHMARKS = Path(__file__).resolve().parents[1] / "benchmarks"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def test_the_mix_is_fixed_and_even(load: Any) -> None:
    mix = load("mix")
    one, other = mix.build_mix(4), mix.build_mix(4)
    assert [job.kind for job in one] == [*mix.KINDS] * 4
    for a, b in zip(one, other, strict=True):
        assert [m.text for m in a.messages] == [m.text for m in b.messages]
        assert (a.kind, a.outputs, a.seed) == (b.kind, b.outputs, b.seed)
    assert sum(job.draws for job in one) == 8
    shown = [job for job in one if any(p.modality == "image" for p in job.messages[-1].parts)]
    assert {job.kind for job in shown} == {"image to text", "edit"}


def test_the_reference_flow_answers_as_the_engine_does(load: Any) -> None:
    mix, flow = load("mix"), load("baselines.reference_flow")
    threads = torch.get_num_threads()
    try:
        settings = EngineSettings(language=DecodeSettings(max_spans=1))
        model = mix.load_pocket("pocket", 1, settings=settings)
        jobs = mix.build_mix(1)
        theirs = flow.ReferenceFlow(model, num_inference_steps=3, guidance_scale=2.0)
        plain = [
            theirs.answer(
                job.messages, draws=job.draws, max_new_tokens=mix.REPLY_TOKENS, seed=job.seed
            )
            for job in jobs
        ]
        steps = {"num_inference_steps": 3, "guidance_scale": 2.0, "scheduler": "ddim"}
        requests = [
            {
                "prompt": list(job.messages),
                "outputs": job.outputs,
                "seed": job.seed,
                "max_new_tokens": mix.REPLY_TOKENS,
                **({"image": steps} if job.draws else {}),
            }
            for job in jobs
        ]
        ours: list[Any] = list(model.generate_batch(requests))
    finally:
        torch.set_num_threads(threads)
    for job, reply, other in zip(jobs, ours, plain, strict=True):
        assert list(reply.token_ids) == other.token_ids, job.kind
        assert len(other.token_ids) == mix.REPLY_TOKENS
        assert (other.picture is not None) == job.draws == bool(reply.images)
        if other.picture is not None:
            levels = np.abs(np.subtract(other.picture, reply.images[0].image, dtype=int))
            assert levels.max() <= 2


def test_the_tables_hold_ratios_of_each_round(load: Any) -> None:
    tables = load("tables")
    results = _results()
    text = tables.markdown(results)
    assert "A quick trial run" in text
    lines = {line.split(" | ")[0].lstrip("| "): line for line in text.splitlines()}
    assert "3.00×" in lines["LLM stage, tokens a second"]
    assert "2.00×" in lines["end to end at equal steps, requests a second"]
    assert "0.50×" in lines["peak memory at equal steps"]
    assert "10.00×" in lines["end to end, shipped preset against the reference flow"]
    assert "Start of the process" not in text  # not measured: not there


def test_the_docs_have_the_place_that_a_run_writes_to(load: Any, tmp_path: Path) -> None:
    run = load("run")
    docs = tmp_path / "benchmarks.md"
    docs.write_text(run.DOCS.read_text(encoding="utf-8"), encoding="utf-8")
    replace_between(docs, "new figures", begin=run.BEGIN, end=run.END)
    assert "new figures" in docs.read_text(encoding="utf-8")


def _results() -> dict[str, Any]:
    def side(seconds: float, language: float, mib: float) -> list[dict[str, Any]]:
        stages = {"encode": 0.1, "language": language, "decode": 1.0}
        one = {"requests": 4, "tokens": 96, "seconds": seconds, "peak_mib": mib, "stages": stages}
        return [one, {**one, "seconds": seconds * 3, "stages": {**stages, "language": language}}]

    return {
        "quick": True,
        "machine": {
            "cpu": "x",
            "cpus": 2,
            "load": 0.0,
            "platform": "y",
            "python": "3",
            "torch": "2",
            "diffusers": "0",
            "transformers": "5",
        },
        "threads": 2,
        "guidance_scale": 7.5,
        "size": {"per_kind": 1, "steps": 4, "rounds": 2},
        "mix": {
            "rounds": {
                "reference": side(10.0, 3.0, 800.0),
                "invariant": side(5.0, 1.0, 400.0),
                "throughput": side(2.0, 0.5, 400.0),
                "invariant, shipped preset": side(1.0, 1.0, 400.0),
                "throughput, shipped preset": side(0.5, 0.5, 400.0),
            },
            "agreement": {
                "replies": 4,
                "pictures": 2,
                **{
                    name: {"same_replies": 4, "pictures_within_2_levels": 2}
                    for name in ("invariant", "throughput")
                },
            },
        },
    }
