"""The Ray engine: the same tree as the local one, actors that die, and no open cluster."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import pytest
from batch_faults import PaintFactory, lines, numbered, tree, tries, write_manifest
from batch_kills import actors, started

from anyany.batch import Run, RunOptions, Store, open_manifest
from anyany.batch.inspect import verify
from anyany.batch.items import Item, Task, task_to_json
from anyany.batch.outcomes import Outcome
from anyany.batch.ray_engine import (
    RayWorker,
    check_token,
    outcome_from_json,
    outcome_to_json,
)
from anyany.errors import AnyAnyError, RefusedError, ResourceError

pytest.importorskip("ray")


def test_a_cluster_without_a_token_is_refused() -> None:
    check_token(None, False, {})
    check_token("ray://host:10001", True, {})
    check_token("ray://host:10001", False, {"RAY_AUTH_MODE": "token"})
    for environment in ({}, {"RAY_AUTH_MODE": "disabled"}):
        with pytest.raises(RefusedError, match="RAY_AUTH_MODE=token") as caught:
            check_token("ray://host:10001", False, environment)
        assert caught.value.exit_code == 5


def task(number: int, text: str) -> Task:
    turns = ({"role": "user", "content": [{"type": "text", "text": text}]},)
    return Task(Item(f"r{number}", turns), f"key{number}", number, number)


def spool(work: Path, tasks: list[Task]) -> None:
    """Tasks as the engine hands them to actors."""
    place = 0
    with open(work / "tasks.jsonl", "wb") as file, open(work / "tasks.places", "wb") as places:
        for one in tasks:
            line = task_to_json(one).encode() + b"\n"
            file.write(line)
            places.write(place.to_bytes(8, "little"))
            place += len(line)


def call(worker: RayWorker, *numbers: int) -> list[Any]:
    return [outcome_from_json(text) for text in worker({"id": list(numbers)})["outcome"]]


def test_an_actor_remembers_what_was_tried(tmp_path: Path) -> None:
    """A restarted actor neither repeats what was finished nor dies of one item for ever."""
    notes, work = tmp_path / "notes", tmp_path / "work"
    notes.mkdir()
    work.mkdir()
    spool(work, [task(0, "a"), task(1, "a bug"), task(2, "b")])
    factory = PaintFactory(notes=str(notes))
    first = call(RayWorker(factory, str(work), True), 0, 1)
    assert [outcome.status for outcome in first] == ["done", "failed"]
    before = tries(notes)
    again = call(RayWorker(factory, str(work), True), 0, 1, 2)
    assert [o.status for o in again] == ["done", "failed", "done"]
    assert again[0] == first[0]
    assert tries(notes) == {**before, "r2": 1}
    (work / "marks" / "2.done").unlink()
    for size, status in ((1, "done"), (2, "done"), (3, "failed")):  # died among others, then alone
        (work / "marks" / "2.done").unlink(missing_ok=True)
        (work / "marks" / "2.tries").write_bytes(b"x" * size)
        (outcome,) = call(RayWorker(factory, str(work), True), 2)
        assert outcome.status == status
    assert outcome.error["code"] == "crash"


def test_a_full_disk_stops_the_job_by_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from anyany.batch import worker as worker_module

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "full")

    spool(tmp_path, [task(0, "a")])
    monkeypatch.setattr(worker_module, "write_reply", full)
    (found,) = call(RayWorker(PaintFactory(), str(tmp_path), True), 0)
    assert isinstance(found, ResourceError)


def test_outcomes_travel_as_text() -> None:
    outcome = Outcome(task(0, "ü"), "failed", error={"code": "c", "type": "t", "message": "m"})
    assert outcome_from_json(outcome_to_json(outcome)) == outcome
    assert isinstance(outcome_from_json('{"fatal": ["ResourceError", "x"]}'), AnyAnyError)


@pytest.mark.timeout(600)
def test_a_local_cluster_makes_the_same_tree(tmp_path: Path) -> None:
    """Good, bad and poisonous items on two actors, one of which is killed."""
    notes = tmp_path / "notes"
    notes.mkdir()
    records = [*numbered(40), {"id": "bug", "text": "a bug"}, {"id": "poison", "text": "abort"}]
    records += [{"id": "missing", "images": ["none.png"]}, {"id": "twin", "text": "number 3"}]
    path = write_manifest(tmp_path / "m.jsonl", records)
    given = {"path": path, "out": tmp_path / "out", "seconds": 0.2, "notes": notes}
    with started(**given, engine="ray", workers=2) as process:
        assert process.stdout is not None
        while len(tries(notes)) < 6 and process.poll() is None:
            time.sleep(0.05)
        victims = actors(process.pid)
        if victims:
            os.kill(victims[0], signal.SIGKILL)
        output = process.stdout.read()
        assert process.wait() == 3, output
    assert victims, output
    strange = [line for line in output.splitlines() if not line.startswith('{"event"')]
    assert strange == []  # Ray says nothing of its own
    codes = {
        line["custom_id"]: line["error"]["code"]
        for line in lines(tmp_path / "out" / "errors.jsonl")
    }
    assert codes == {"bug": "internal", "missing": "missing", "poison": "crash"}
    local = tmp_path / "local"
    kept = [record for record in records if record["id"] != "poison"]
    manifest = open_manifest(write_manifest(path, kept))
    Run(manifest, local, PaintFactory(str(tmp_path)), options=RunOptions(workers=0))()
    whole = tree(tmp_path / "out")
    assert {k: v for k, v in whole.items() if k != "errors.jsonl"} == {
        k: v for k, v in tree(local).items() if k != "errors.jsonl"
    }
    assert verify(Store(tmp_path / "out")).faults == []
