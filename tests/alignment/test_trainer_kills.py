"""Real SIGKILLs and several processes; the work is done by kill_runner.py in a fresh process."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from toy_task import NUM_SAMPLES

from anyany.alignment.order import epoch_order

HERE = Path(__file__).parent


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    environment = {
        **os.environ,
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "PYTHONPATH": f"{HERE.parents[1]}{os.pathsep}{os.environ.get('PYTHONPATH', '')}",
    }
    done = subprocess.run(
        [sys.executable, str(HERE / "kill_runner.py"), str(tmp_path_factory.mktemp("runs"))],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    return dict(json.loads(done.stdout.splitlines()[-1]))


def test_ten_kills_leave_no_trace(found: dict[str, Any]) -> None:
    found = found["train"]
    assert found["codes"] == [-9] * 10
    assert set(found["kinds"]) == {"step", "accumulation", "save"}
    assert found["finished"] == 0
    assert found["steps"] == [40, 40]
    assert found["tensors"] == 4 + 3 + 3 * 4 + 4  # parameters, buffers, AdamW, EMA
    assert found["different"] == []
    assert found["same_curve"]
    assert found["lines"] == 40


def test_twenty_kills_while_saving_always_leave_a_whole_checkpoint(found: dict[str, Any]) -> None:
    found = found["save"]
    assert found["lines"] > 50
    assert found["codes"] == [-9] * 20
    assert all(found["right"])
    assert found["loaded"] == sorted(found["loaded"])
    assert len(set(found["loaded"])) > 1  # some kills came after the rename, some before


def test_two_processes_are_one_with_twice_the_accumulation(found: dict[str, Any]) -> None:
    found = found["ranks"]
    assert found["codes"] == [0] * 4
    assert found["moved"] > 1e-2
    assert found["apart"] < 1e-5
    stream, first, second = found["seen"]
    for start in range(0, len(first), 4):
        stream += first[start : start + 4] + second[start : start + 4]
    orders = [list(epoch_order(NUM_SAMPLES, 0, epoch)) for epoch in range(3)]
    assert stream == [index for order in orders for index in order][: len(stream)]
    assert len(stream) == 80
