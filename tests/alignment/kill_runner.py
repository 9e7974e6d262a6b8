"""Runs in a fresh process, forks a child for every run, and lets children die by SIGKILL.

    python kill_runner.py FOLDER

Prints one line of JSON: "train", one run killed ten times beside one that never was; "save", twenty
kills while a checkpoint is written; "ranks", one process with two micro-batches and two with one
each. Forking keeps the cost of importing torch to one process.
"""

import dataclasses
import functools
import json
import os
import random
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from types import FrameType
from typing import Any

import torch
import torch._dynamo  # the optimizer imports it late: 1.5 s that each child would pay
import torch.distributed as dist
from toy_task import CONFIG, ToyTask, curve

from anyany.alignment import checkpoints
from anyany.alignment.trainer import TrainConfig, train


def forked(work: Callable[[], None]) -> int:
    """Run in a child; its exit code, negative for a signal."""
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work()
            code = 0
        finally:
            os._exit(code)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def train_toy(
    folder: Path, *, config: TrainConfig = CONFIG, killed_at: tuple[int, int] | None = None
) -> None:
    """Train in this folder, to the end or to the kill."""
    train(ToyTask(killed_at=killed_at), config, folder)


def kill_at_line(number: int) -> Callable[[FrameType, str, Any], Any]:
    """A trace function that kills at the n-th line run in checkpoints.py (0: counts only)."""
    count = 0

    def trace(frame: FrameType, event: str, _: Any) -> Any:
        nonlocal count
        if frame.f_code.co_filename != checkpoints.__file__:
            return None
        count += event == "line"
        if number and count >= number:
            os.kill(os.getpid(), signal.SIGKILL)
        trace.count = count  # type: ignore[attr-defined]
        return trace

    return trace


def train_killed_mid_save(folder: Path, line: int) -> None:
    """Train on, and die at a line of the second save."""
    original, saves = checkpoints.save, 0

    def save(*args: Any, **kwargs: Any) -> Path:
        nonlocal saves
        saves += 1
        if saves == 2:
            sys.settrace(kill_at_line(line))
        return original(*args, **kwargs)

    checkpoints.save = save
    train(ToyTask(), CONFIG, folder)


def kill_training(folder: Path) -> dict[str, Any]:
    """Ten kills of one run: mid-epoch, mid-accumulation, mid-save at random points."""
    assert forked(lambda: train_toy(folder / "whole")) == 0
    rng, codes, kinds = random.Random(0), [], []
    for kill in range(10):
        if kill % 3 == 2:
            line = rng.randrange(1, 150)
            work = functools.partial(train_killed_mid_save, folder / "killed", line)
            kinds.append("save")
        else:
            at = (rng.randrange(4, 7), rng.choice((1, 2)) if kill % 3 else 0)
            work = functools.partial(train_toy, folder / "killed", killed_at=at)
            kinds.append("accumulation" if at[1] else "step")
        codes.append(forked(work))
    finished = forked(lambda: train_toy(folder / "killed"))
    whole = checkpoints.load_latest(folder / "whole")
    killed = checkpoints.load_latest(folder / "killed")
    assert whole is not None
    assert killed is not None
    different = [
        f"{group}/{name}"
        for group, named in whole.tensors.items()
        for name, tensor in named.items()
        if not torch.equal(tensor, killed.tensors[group][name])
    ]
    return {
        "codes": codes,
        "kinds": kinds,
        "finished": finished,
        "steps": [whole.step, killed.step],
        "tensors": sum(map(len, whole.tensors.values())),
        "different": different,
        "same_curve": curve(folder / "whole") == curve(folder / "killed"),
        "lines": len(curve(folder / "killed")),
    }


def kill_saves(folder: Path) -> dict[str, Any]:
    """Twenty kills at random lines of a save; after each the newest whole checkpoint must load."""
    big = torch.arange(50_000, dtype=torch.float32)

    def save(step: int) -> None:
        tensors = {"parameters": {"a": big + step}, "optimizer": {"b": big - step}}
        checkpoints.save(folder, step, tensors=tensors, record={"step": step}, keep=2)

    save(0)
    counter = kill_at_line(0)
    sys.settrace(counter)
    save(1)
    sys.settrace(None)
    lines = counter.count  # type: ignore[attr-defined]
    rng, loaded, right, codes = random.Random(1), [], [], []

    def die(step: int, line: int) -> None:
        sys.settrace(kill_at_line(line))
        save(step)

    for step in range(2, 22):
        line = rng.randrange(1, lines + 1)
        codes.append(forked(functools.partial(die, step, line)))
        found = checkpoints.load_latest(folder)
        assert found is not None
        loaded.append(found.step)
        right.append(torch.equal(found.tensors["parameters"]["a"], big + found.step))
    return {"lines": lines, "loaded": loaded, "right": right, "codes": codes}


def compare_ranks(folder: Path) -> dict[str, Any]:
    """The same samples in one process and in two, and a run that goes from one to two."""
    alone = dataclasses.replace(CONFIG, accumulation=2, steps=10, save_every=5, epochs=None)
    shared = dataclasses.replace(alone, accumulation=1)

    def ranked(name: str, rank: int) -> None:
        dist.init_process_group(
            "gloo", init_method=f"file://{folder / name}.rendezvous", rank=rank, world_size=2
        )
        task = ToyTask()
        train(task, shared, folder / name, allow_changed=True)
        (folder / f"{name}-{rank}.json").write_text(json.dumps(task.seen))
        dist.destroy_process_group()

    def in_two(name: str) -> int:
        return forked(lambda: _both(functools.partial(ranked, name)))

    def first_half() -> None:
        task = ToyTask(signals={9: signal.SIGTERM})
        train(task, alone, folder / "grown")
        (folder / "grown-half.json").write_text(json.dumps(task.seen))

    codes = [
        forked(lambda: train_toy(folder / "alone", config=alone)),
        in_two("two"),
        forked(first_half),
        in_two("grown"),
    ]
    found = {name: checkpoints.load_latest(folder / name) for name in ("alone", "two", "grown")}
    tensors = {name: item.tensors["parameters"] for name, item in found.items() if item is not None}
    tensors["start"] = dict(ToyTask().module.named_parameters())

    def furthest(name: str) -> float:
        pairs = [(tensors["alone"][key], tensors[name][key]) for key in tensors["alone"]]
        return max(float((one.detach() - two.detach()).abs().max()) for one, two in pairs)

    seen = [json.loads((folder / f"grown-{part}.json").read_text()) for part in ("half", 0, 1)]
    return {
        "codes": codes,
        "moved": furthest("start"),
        "apart": furthest("two"),
        "seen": seen,
    }


def _both(work: Callable[[int], None]) -> None:
    child = os.fork()
    if child == 0:
        code = 1
        try:
            work(1)
            code = 0
        finally:
            os._exit(code)
    work(0)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


if __name__ == "__main__":
    parts = {"train": kill_training, "save": kill_saves, "ranks": compare_ranks}
    found = {}
    for name, part in parts.items():
        (Path(sys.argv[1]) / name).mkdir()
        found[name] = part(Path(sys.argv[1]) / name)
    print(json.dumps(found))
