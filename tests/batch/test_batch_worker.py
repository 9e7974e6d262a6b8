"""A worker's three steps: what is made is handed on at once, and a failure costs no neighbour."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from batch_faults import PaintFactory, numbered, write_manifest

from anyany.batch import Run, RunOptions, open_manifest
from anyany.batch.items import Item, Task
from anyany.batch.outcomes import Outcome
from anyany.batch.worker import Carrier
from anyany.errors import AnyAnyError
from anyany.messages import Reply, TextPart


class Scripted:
    """Answers what it is told to, and keeps what it was asked.

    Args:
        raises_at: the task at which it raises, among others and alone.
        ends_at: the task before which it ends without a word.
    """

    def __init__(self, raises_at: int = -1, ends_at: int = -1) -> None:
        self.raises_at = raises_at
        self.ends_at = ends_at
        self.asked: list[list[int]] = []
        self.made: list[int] = []

    def describe(self) -> dict[str, Any]:
        return {"name": "scripted", "outputs": ["text"]}

    def prepare(self, task: Task) -> Any:
        return task.number

    def answer(self, prepared: Sequence[Any]) -> Iterator[Reply | AnyAnyError]:
        self.asked.append(list(prepared))
        for number in prepared:
            if number == self.raises_at:
                raise RuntimeError("a bug")
            if number == self.ends_at:
                return
            self.made.append(number)
            yield Reply((TextPart(str(number)),), raw_text="", seed=0, timings={})


def tasks(count: int) -> list[Task]:
    turns = ({"role": "user", "content": [{"type": "text", "text": "x"}]},)
    return [Task(Item(f"r{n}", turns), f"key{n}", n, n) for n in range(count)]


def test_answers_are_handed_on_one_by_one(tmp_path: Path) -> None:
    function = Scripted()
    carrier = Carrier(function, tmp_path, "w")
    computed = carrier.compute(carrier.read(tasks(3)))
    assert next(computed)[0].number == 0
    assert function.made == [0]
    assert [task.number for task, _, _ in computed] == [1, 2]
    assert function.asked == [[0, 1, 2]]


def test_what_came_before_an_exception_is_kept(tmp_path: Path) -> None:
    function = Scripted(raises_at=2)
    outcomes = Carrier(function, tmp_path, "w").carry(tasks(5))
    assert [outcome.status for outcome in outcomes] == ["done", "done", "failed", "done", "done"]
    assert function.asked == [[0, 1, 2, 3, 4], [2], [3], [4]]
    assert function.made == [0, 1, 3, 4]
    assert outcomes[2].error == {
        "code": "internal",
        "type": "InternalError",
        "message": "internal error (RuntimeError): worth a bug report",
    }


def test_an_answer_that_does_not_come_is_a_failure(tmp_path: Path) -> None:
    outcomes = Carrier(Scripted(ends_at=1), tmp_path, "w").carry(tasks(3))
    assert [outcome.status for outcome in outcomes] == ["done", "failed", "done"]


def test_items_are_finished_while_their_window_is_at_work(tmp_path: Path) -> None:
    """A kill in the middle of a window of slow items loses none that were made."""
    path = write_manifest(tmp_path / "m.jsonl", numbered(6))
    seen: list[int] = []

    def watch(event: dict[str, Any]) -> None:
        if event["event"] == "progress":
            seen.append(event["done"])

    factory = PaintFactory(str(tmp_path), 0.6)
    options = RunOptions(workers=1)
    summary = Run(open_manifest(path), tmp_path / "out", factory, options=options, on_event=watch)()
    assert summary.counts.done == 6
    assert {1, 2, 3} & set(seen)


def test_outcomes_name_their_seconds(tmp_path: Path) -> None:
    (outcome,) = Carrier(Scripted(), tmp_path, "w").carry(tasks(1))
    assert isinstance(outcome, Outcome)
    assert outcome.seconds["share"] >= 0
