"""The full-size benchmark runs on a tiny system and tells every part."""

from __future__ import annotations

import importlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch

from anyany.pocket.figures import replace_between

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def load(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def test_every_part_is_measured(
    load: Any, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bench = load("full_size")
    peaks = ["--peak-tflops", "1", "--bandwidth-gbs", "100"]
    assert bench.main(["--tiny", "-o", str(tmp_path), *peaks]) == 0
    text = capsys.readouterr().out
    assert "these figures mean nothing" in text
    results = json.loads((tmp_path / "results.json").read_text())
    rows = results["rows"]
    parts = {(row["part"], row["what"].split(" ")[0]) for row in rows}
    for modality in ("image", "video", "audio"):
        assert {("encoder", modality), ("input projector", modality)} <= parts
        assert ("output projector", modality) in parts
        for what in ("one guided step", "VAE"):
            own = [r for r in rows if r["part"] == f"{modality} decoder" and what in r["what"]]
            assert [row["batch"] for row in own] == [1, 2, 4]
            flops = [row["work"]["flops"] for row in own]
            assert flops[1] == pytest.approx(2 * flops[0])
    assert {("language model", "prefill"), ("language model", "decode")} <= parts
    assert [row["batch"] for row in rows if row["what"].startswith("decode")] == [1, 2]
    assert sum(row["part"] == "reply" for row in rows) == 2
    assert all(row["seconds"] > 0 for row in rows)
    assert text.count("\n| ") == len(rows) + 1
    assert results["bytes_of_weights"] > 100_000


def test_ceilings_are_the_slower_of_two(load: Any) -> None:
    ceilings = load("ceilings")
    peak = ceilings.find_peak("NVIDIA H200")
    assert peak == ceilings.Peak(989e12, 4.8e12)
    assert ceilings.find_peak("NVIDIA A100-SXM4-80GB").bandwidth == 2.039e12
    assert ceilings.find_peak("Another") is None
    busy, wide = ceilings.Work(989e12, 4.8e9), ceilings.Work(1e9, 13.5e9)
    assert ceilings.ceiling_seconds(busy, peak) == 1.0
    assert ceilings.bound(busy, peak) == "FLOPs"
    assert 1 / ceilings.ceiling_seconds(wide, peak) == pytest.approx(355.6, abs=0.1)
    assert ceilings.bound(wide, peak) == "bandwidth"
    assert ceilings.ceiling_seconds(busy, None) is None
    linear = torch.nn.Linear(8, 16, bias=False)
    assert ceilings.count_flops(lambda: linear(torch.zeros(4, 8))) == 2 * 4 * 8 * 16
    assert ceilings.weight_bytes(linear) == 4 * 8 * 16


def test_what_does_not_fit_is_told(load: Any) -> None:
    bench = load("full_size")

    def run() -> None:
        raise torch.OutOfMemoryError("no")

    meter = bench.Meter(torch.device("cpu"))
    row = meter.row("decoder", "a step", run, repeats=1, weights=8.0)
    assert row.seconds is None
    header = {
        "system": "x",
        "dtype": "bfloat16",
        "device": "CPU",
        "torch": "2",
        "python": "3",
        "bytes_of_weights": 1.0,
        "seconds_to_build": 1.0,
        "tiny": False,
    }
    assert "does not fit" in bench.markdown(header, [row], None)


def test_the_docs_have_the_place_that_a_run_writes_to(load: Any, tmp_path: Path) -> None:
    bench = load("full_size")
    docs = tmp_path / "benchmarks.md"
    docs.write_text(bench.DOCS.read_text(encoding="utf-8"), encoding="utf-8")
    replace_between(docs, "new figures", begin=bench.BEGIN, end=bench.END)
    assert "new figures" in docs.read_text(encoding="utf-8")
