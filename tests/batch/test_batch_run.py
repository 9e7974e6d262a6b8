"""A run: the same tree however it is carried out, and one line for whatever fails."""

from __future__ import annotations

import errno
import json
import os
from pathlib import Path
from typing import Any

import pytest
from batch_faults import PaintFactory, lines, numbered, tree, tries, write_manifest

from anyany.batch import DryFactory, Factory, Run, RunOptions, Store, Summary, open_manifest
from anyany.batch import engines as engines_module
from anyany.batch import ledger as ledger_module
from anyany.batch import outcomes as outcomes_module
from anyany.batch import store as store_module
from anyany.batch.inspect import verify
from anyany.errors import RefusedError, ResourceError, UsageError


def run(
    path: Path,
    out: Path,
    factory: Factory | None = None,
    *,
    workers: int = 0,
    events: list[dict[str, Any]] | None = None,
    shard: tuple[int, int] | None = None,
    limit: int | None = None,
    seed: int = 0,
    common: dict[str, Any] | None = None,
    **options: Any,
) -> Summary:
    """A run with the painting function, in this process unless told otherwise."""
    manifest = open_manifest(path, shard=shard, limit=limit)
    return Run(
        manifest,
        out,
        factory or PaintFactory(root=str(path.parent)),
        common=common or {},
        seed=seed,
        options=RunOptions(workers=workers, **options),
        on_event=(events if events is not None else []).append,
    )()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """No waiting between tries."""
    monkeypatch.setattr(engines_module, "BACK_OFF", 0.0)


def test_every_item_has_its_folder_and_its_line(tmp_path: Path) -> None:
    path = write_manifest(
        tmp_path / "m.jsonl", [*numbered(20), {"id": "B", "text": "x", "seed": 5}]
    )
    events: list[dict[str, Any]] = []
    summary = run(path, tmp_path / "out", events=events)
    assert (summary.exit_code, summary.counts.done, summary.counts.total) == (0, 21, 21)
    found = lines(tmp_path / "out" / "results.jsonl")
    assert [line["custom_id"] for line in found] == ["B", *(f"r{i:05d}" for i in range(20))]
    first = found[0]
    assert first["error"] is None
    assert first["response"]["status_code"] == 200
    message = first["response"]["body"]["choices"][0]["message"]
    assert message["content"] == "x!"
    assert message["parts"][1] == {"type": "image", "file": "B/image_0.png"}
    reply = json.loads((tmp_path / "out" / "B" / "reply.json").read_text())
    assert reply["seed"] == 5 == first["response"]["body"]["seed"]
    assert (tmp_path / "out" / "errors.jsonl").read_text() == ""
    assert events[-1]["event"] == "progress"
    assert events[-1]["done"] == 21
    assert verify(Store(tmp_path / "out")).faults == []
    assert sorted(os.listdir(tmp_path / "out" / ".anyany")) == [
        *("ledger.jsonl", "lists.json", "locks", "run.json")
    ]


@pytest.mark.usefixtures("quick")
def test_the_tree_does_not_depend_on_how_it_is_made(tmp_path: Path) -> None:
    """Workers, order, windows, shards, limits: the same bytes."""
    records = [*numbered(30), {"id": "bad", "text": "oom"}]
    records[3]["seed"] = 9
    path = write_manifest(tmp_path / "m.jsonl", records)
    path.with_name("r.jsonl").write_text("".join(reversed(path.read_text().splitlines(True))))
    run(path, tmp_path / "one")
    expected = tree(tmp_path / "one")
    run(path, tmp_path / "two", workers=2)
    run(tmp_path / "r.jsonl", tmp_path / "reversed")
    for k in (1, 2, 3):
        run(path, tmp_path / "shards", shard=(k, 3))
    for limit in (4, 20, 31):
        run(path, tmp_path / "limits", limit=limit)
    assert len(expected) == 2 * 30 + 2
    for other in ("two", "reversed", "shards", "limits"):
        assert tree(tmp_path / other) == expected, other


def test_a_second_run_has_nothing_to_do(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    factory = PaintFactory(notes=str(notes))
    path = write_manifest(tmp_path / "m.jsonl", numbered(10))
    run(path, tmp_path / "out", factory, limit=4)
    assert len(tries(notes)) == 4
    summary = run(path, tmp_path / "out", factory)
    assert (summary.counts.skipped, summary.counts.done) == (4, 6)
    before = tree(tmp_path / "out")
    summary = run(path, tmp_path / "out", factory)
    assert (summary.counts.skipped, summary.counts.done, summary.exit_code) == (10, 0, 0)
    assert set(tries(notes).values()) == {1}
    assert tree(tmp_path / "out") == before


def test_what_changed_is_done_again(tmp_path: Path) -> None:
    """A line, an input's content, a file that is gone: each item alone."""
    (tmp_path / "a.png").write_bytes(b"first")
    records = [{"id": "i", "images": ["a.png"]}, *numbered(3)]
    path = write_manifest(tmp_path / "m.jsonl", records)
    run(path, tmp_path / "out")
    before = tree(tmp_path / "out")
    records[1]["text"] = "something else"
    write_manifest(path, records)
    (tmp_path / "a.png").write_bytes(b"other")
    (tmp_path / "out" / "r00002" / "image_0.png").write_bytes(b"torn")
    summary = run(path, tmp_path / "out")
    assert (summary.counts.done, summary.counts.skipped, summary.counts.changed) == (3, 1, 2)
    after = tree(tmp_path / "out")
    changed = {name.split("/")[0] for name in after if after[name] != before[name]}
    assert changed == {"i", "r00000", "results.jsonl"}
    assert verify(Store(tmp_path / "out")).faults == []


def test_other_settings_are_refused_with_a_diff(tmp_path: Path) -> None:
    path = write_manifest(tmp_path / "m.jsonl", numbered(3))
    run(path, tmp_path / "out", common={"steps": 2})
    before = tree(tmp_path / "out")
    with pytest.raises(RefusedError, match=r"common\.steps was 2, is 3") as caught:
        run(path, tmp_path / "out", common={"steps": 3})
    assert caught.value.exit_code == 5
    with pytest.raises(RefusedError, match=r"seed was 0, is 1; system\.name was paint, is other"):
        run(path, tmp_path / "out", PaintFactory(name="other"), common={"steps": 2}, seed=1)
    assert tree(tmp_path / "out") == before
    summary = run(path, tmp_path / "out", common={"steps": 3}, force=True)
    assert summary.counts.done == 3
    assert run(path, tmp_path / "out", common={"steps": 3}).counts.skipped == 3
    run(path, tmp_path / "new", common={"steps": 3})
    assert tree(tmp_path / "out") == tree(tmp_path / "new") != before


def test_identical_items_are_computed_once(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    factory = PaintFactory(notes=str(notes), root=str(tmp_path))
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(b"the same bytes")
    records: list[dict[str, Any]] = [{"id": f"t{i}", "text": "same"} for i in range(5)]
    records += [{"id": f"i{n[0]}", "images": [n]} for n in ("a.png", "b.png")]
    records += [{"id": "own", "text": "same", "seed": 1}]
    path = write_manifest(tmp_path / "m.jsonl", records)
    summary = run(path, tmp_path / "out", factory, workers=1)
    assert (summary.counts.done, summary.counts.copied) == (8, 5)
    assert len(tries(notes)) == 3
    files = tree(tmp_path / "out")
    assert len({files[f"t{i}/image_0.png"] for i in range(5)}) == 1
    assert files["ia/image_0.png"] == files["ib/image_0.png"]
    records.append({"id": "later", "text": "same"})
    summary = run(write_manifest(path, records), tmp_path / "out", factory)
    assert (summary.counts.done, summary.counts.copied) == (1, 1)
    assert len(tries(notes)) == 3
    assert verify(Store(tmp_path / "out")).faults == []


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize("workers", [0, 1])
def test_what_fails_fails_alone(workers: int, tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"broken")
    (tmp_path / "empty.png").touch()
    records = [
        *numbered(8),
        {"id": "corrupt", "images": ["broken.png"]},
        {"id": "empty", "images": ["empty.png"]},
        {"id": "missing", "images": ["none.png"]},
        {"id": "bug", "text": "a bug"},
        {"id": "oom", "text": "oom"},
        {"id": "late", "text": "memory once"},
    ]
    notes = tmp_path / "notes"
    notes.mkdir()
    path = write_manifest(tmp_path / "m.jsonl", records)
    factory = PaintFactory(root=str(tmp_path), notes=str(notes))
    summary = run(path, tmp_path / "out", factory, workers=workers)
    assert (summary.counts.done, summary.counts.failed, summary.exit_code) == (9, 5, 3)
    found = {line["custom_id"]: line["error"] for line in lines(tmp_path / "out" / "errors.jsonl")}
    codes = {name: (error["code"], error["type"]) for name, error in found.items()}
    assert codes == {
        "bug": ("internal", "InternalError"),
        "corrupt": ("corrupt", "MediaError"),
        "empty": ("empty", "MediaError"),
        "missing": ("missing", "MediaError"),
        "oom": ("resource", "ResourceError"),
    }
    assert found["bug"]["message"] == "internal error (RuntimeError): worth a bug report"
    assert tries(notes)["oom"] in (3, 4)  # once more where the bug spoilt a window
    attempts = {record["id"]: record["attempts"] for record in Store(tmp_path / "out").records()}
    assert (attempts["oom"], attempts["late"], attempts["missing"]) == (3, 2, 1)
    again = run(path, tmp_path / "out", factory, workers=workers)
    assert (again.counts.skipped_failed, again.exit_code) == (5, 3)
    (tmp_path / "none.png").write_bytes(b"found")
    healed = run(path, tmp_path / "out", factory, workers=workers)
    assert (healed.counts.done, healed.counts.skipped_failed) == (1, 4)
    retried = run(path, tmp_path / "out", factory, workers=workers, retry_failed=True)
    assert (retried.counts.failed, retried.counts.skipped) == (4, 10)
    assert verify(Store(tmp_path / "out")).faults == []


@pytest.mark.parametrize("most", ["0", "1%", None])
def test_too_many_failures_stop_the_run(most: str | None, tmp_path: Path) -> None:
    records = [{"id": f"r{i:04d}", "images": ["none.png"], "text": str(i)} for i in range(1500)]
    path = write_manifest(tmp_path / "m.jsonl", records)
    summary = run(path, tmp_path / "out", max_failures=most)
    assert summary.stopped_by_failures == (most is not None)
    if most is None:
        assert summary.counts.failed == 1500
    else:
        assert {"0": 0, "1%": 15}[most] < summary.counts.failed < 1500
    assert summary.exit_code == 3
    assert len(lines(tmp_path / "out" / "errors.jsonl")) == summary.counts.failed


def test_poison_is_set_aside_after_two_deaths(tmp_path: Path) -> None:
    notes = tmp_path / "notes"
    notes.mkdir()
    records = [
        *numbered(12),
        {"id": "poison", "text": "abort"},
        {"id": "killer", "text": "sigkill"},
    ]
    path = write_manifest(tmp_path / "m.jsonl", records)
    events: list[dict[str, Any]] = []
    summary = run(path, tmp_path / "out", PaintFactory(notes=str(notes)), workers=1, events=events)
    assert (summary.counts.done, summary.counts.failed, summary.exit_code) == (12, 2, 3)
    found = {
        line["custom_id"]: line["error"]["code"]
        for line in lines(tmp_path / "out" / "errors.jsonl")
    }
    assert found == {"killer": "crash", "poison": "crash"}
    assert tries(notes)["poison"] <= 3
    assert sum(event["event"] == "worker_died" for event in events) <= 5
    assert verify(Store(tmp_path / "out")).faults == []


def test_a_function_that_cannot_be_built_is_one_error(tmp_path: Path) -> None:
    path = write_manifest(tmp_path / "m.jsonl", numbered(3))
    for workers in (0, 1):
        with pytest.raises(ResourceError, match="there is no room for the model"):
            run(path, tmp_path / "out", PaintFactory(broken=True), workers=workers)


def test_outputs_that_the_system_cannot_make_are_refused_first(tmp_path: Path) -> None:
    path = write_manifest(tmp_path / "m.jsonl", numbered(3))
    manifest = open_manifest(path, outputs=("audio",))
    with pytest.raises(UsageError, match="--to: expected outputs among text, image; got audio"):
        Run(manifest, tmp_path / "out", PaintFactory(), options=RunOptions(workers=0))()


def test_a_foreign_folder_is_left_alone(tmp_path: Path) -> None:
    path = write_manifest(tmp_path / "m.jsonl", numbered(3))
    out = tmp_path / "out"
    out.mkdir()
    (out / "mine.txt").write_text("precious")
    with pytest.raises(UsageError, match="holds other files"):
        run(path, out, DryFactory())
    assert tree(out).keys() == {"mine.txt"}
    with pytest.raises(UsageError, match="expected a folder, got the file"):
        run(path, out / "mine.txt", DryFactory())


class Disk:
    """Writes that fail from some byte on, as on a full disk."""

    def __init__(self, room: int) -> None:
        self.room = room

    def check(self, size: int) -> None:
        self.room -= size
        if self.room < 0:
            raise OSError(errno.ENOSPC, "full")


@pytest.mark.parametrize("point", ["files", "flush", "rename", "ledger", "results"])
def test_a_full_disk_loses_nothing(
    point: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_manifest(tmp_path / "m.jsonl", numbered(30))
    run(path, tmp_path / "expected")
    disk = Disk(8)
    owner: Any
    owner, name = {
        "files": (outcomes_module, "_write"),
        "flush": (outcomes_module, "flush"),
        "rename": (store_module.RunStore, "_take_over"),
        "ledger": (ledger_module.Ledger, "sync"),
        "results": (store_module.RunStore, "_write_lines"),
    }[point]
    if point in ("ledger", "results"):
        disk.room = 0
    original = getattr(owner, name)

    def failing(*values: Any, **named: Any) -> Any:
        try:
            disk.check(1)
        except OSError as error:
            if point in ("files", "flush"):
                raise
            ledger_module.raise_if_full(error, "a file")
        return original(*values, **named)

    monkeypatch.setattr(engines_module, "FIRST_WINDOW", 2)
    monkeypatch.setattr(outcomes_module, "FEW", 1000)
    monkeypatch.setattr(owner, name, failing)
    with pytest.raises(ResourceError, match="the disk is full: make room and run the same again"):
        run(path, tmp_path / "out")
    monkeypatch.undo()
    partial = tree(tmp_path / "out")
    expected = tree(tmp_path / "expected")
    assert all(expected[name] == value for name, value in partial.items())
    assert "results.jsonl" not in partial
    run(path, tmp_path / "out")
    assert tree(tmp_path / "out") == expected
    assert verify(Store(tmp_path / "out")).faults == []


def test_a_cut_ledger_is_made_whole(tmp_path: Path) -> None:
    """From any state of the ledger the same tree comes; here every kind of cut, few of them."""
    path = write_manifest(tmp_path / "m.jsonl", numbered(12))
    run(path, tmp_path / "out")
    expected = tree(tmp_path / "out")
    ledger = tmp_path / "out" / ".anyany" / "ledger.jsonl"
    whole = ledger.read_bytes()
    for cut in (0, 1, 700, 1500, len(whole) // 2, len(whole) - 1, len(whole)):
        ledger.write_bytes(whole[:cut])
        summary = run(path, tmp_path / "out")
        assert summary.counts.skipped == whole[:cut].count(b"\n")
        assert tree(tmp_path / "out") == expected


def test_a_run_in_a_locked_folder_is_refused(tmp_path: Path) -> None:
    from anyany.batch.lock import Lock

    path = write_manifest(tmp_path / "m.jsonl", numbered(3))
    run(path, tmp_path / "out")
    lock = Lock(tmp_path / "out" / ".anyany" / "locks")
    with pytest.raises(RefusedError, match="another run is at work"):
        run(path, tmp_path / "out")
    lock.release()
