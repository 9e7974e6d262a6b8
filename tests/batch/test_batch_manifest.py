"""Manifests: every format read, every mistake found before a model loads, with its line."""

from __future__ import annotations

import base64
import csv
import json
from pathlib import Path
from typing import Any

import pytest
from batch_faults import numbered, write_manifest
from test_batch_names import ATTACKS

from anyany.batch import Columns, ManifestError, open_manifest, validate
from anyany.batch.items import Item, derived_seed, task_from_json, task_to_json
from anyany.batch.items import Task as BatchTask
from anyany.batch.manifest import MAX_LINE_BYTES
from anyany.batch.tables import fill, template_fields
from anyany.errors import UsageError


def items(path: Path, **options: Any) -> list[Item]:
    """The items of a manifest that has no faults."""
    manifest = open_manifest(path, **options)
    validate(manifest)
    return [line.item for line in manifest.selected() if line.item is not None]


def faults(path: Path, **options: Any) -> list[str]:
    """What `validate` says is wrong."""
    with pytest.raises(ManifestError) as caught:
        validate(open_manifest(path, **options))
    assert caught.value.exit_code == 2
    return caught.value.faults


GOOD = b'{"id": "a", "text": "draw a bell"}\n'


@pytest.mark.parametrize(
    ("data", "fault"),
    [
        (GOOD + GOOD, "line 2: the id of line 1"),
        (
            GOOD + GOOD.replace(b'"a"', b'"A"'),
            "line 2: an id that differs only in case from line 1",
        ),
        (GOOD + b"\n" + GOOD.replace(b'"a"', b'"b"'), "line 2: a blank line"),
        (b"\xef\xbb\xbf" + GOOD, "line 1: it begins with a byte order mark"),
        (GOOD[:-1] + b"\r\n", "line 1: it ends in CR LF"),
        (b'{"id": "a", "text": "\xe9"}\n', "line 1: it is not UTF-8"),
        (b'{"id": "a", "text": "%s"}\n' % (b"x" * 2**20), "line 1: longer than 1,048,576 bytes"),
        (b"{not json}\n", "line 1: it is no JSON"),
        (b"[1]\n", "line 1: expected a JSON object"),
        (b"[" * 100_000 + b"\n", "line 1: "),
        (b'{"id": "a", "id": "b"}\n', "line 1: it names a key twice"),
        (b'{"id": "a", "text": "x", "seed": NaN}\n', "line 1: NaN is no JSON"),
        (b'{"id": "a", "txet": "x"}\n', "line 1: unknown key 'txet'; nearest is 'text'"),
        (b'{"text": "x"}\n', 'line 1: "id": expected text that is unique'),
        (b'{"id": 3, "text": "x"}\n', 'line 1: "id": expected text that is unique'),
        (b'{"id": "a"}\n', "line 1: expected a text or media, got neither"),
        (b'{"id": "a", "text": " "}\n', "line 1: expected a text or media, got neither"),
        (b'{"id": "a", "text": 7}\n', 'line 1: "text": expected text'),
        (b'{"id": "a", "text": "\\ud800"}\n', "line 1: it is no JSON"),
        (b'{"id": "a", "images": "a.png"}\n', 'line 1: "images": expected a list of paths'),
        (b'{"id": "a", "text": "x", "outputs": ["smell"]}\n', 'line 1: "outputs": expected'),
        (b'{"id": "a", "text": "x", "outputs": []}\n', 'line 1: "outputs": expected'),
        (b'{"id": "a", "text": "x", "seed": -1}\n', 'line 1: "seed": expected'),
        (b'{"id": "a", "text": "x", "seed": true}\n', 'line 1: "seed": expected'),
        (b'{"id": "a", "text": "x", "temperature": -1}\n', 'line 1: "temperature": expected'),
        (b'{"id": "a", "text": "x", "max_new_tokens": 0}\n', 'line 1: "max_new_tokens": expected'),
        (b'{"id": "a", "text": "x", "condition": "no"}\n', 'line 1: "condition": expected'),
        (b'{"id": "a", "text": "x", "decoding": {"smell": {}}}\n', 'line 1: "decoding": expected'),
        (b'{"id": "a", "images": ["https://good.example/a.png"]}\n', "line 1: the URL"),
    ],
    ids=range(29),
)
def test_jsonl_faults_have_their_line(data: bytes, fault: str, tmp_path: Path) -> None:
    path = tmp_path / "m.jsonl"
    path.write_bytes(data)
    found = faults(path)
    assert len(found) == 1
    assert found[0].startswith(fault), found


def test_decoder_overrides_are_checked_by_name_and_range(tmp_path: Path) -> None:
    record = {"id": "a", "text": "x", "decoding": {"image": {"num_inference_step": 2}}}
    assert (
        "nearest is 'num_inference_steps'"
        in faults(write_manifest(tmp_path / "m.jsonl", [record]))[0]
    )
    record["decoding"] = {"image": {"num_inference_steps": 2}}
    (item,) = items(write_manifest(tmp_path / "m.jsonl", [record]))
    assert item.options == {"decoding": {"image": {"num_inference_steps": 2}}}


@pytest.mark.parametrize("key", ["images", "id"])
def test_no_path_attack_passes(key: str, tmp_path: Path) -> None:
    """I5: as a path to read and as a name to write, in one manifest, each with its line."""
    value = (lambda text: [text]) if key == "images" else (lambda text: text)
    base = {"id": "x", "text": "words"}
    records = [{**base, "id": f"r{i}", key: value(text)} for i, text in enumerate(ATTACKS)]
    found = faults(write_manifest(tmp_path / "m.jsonl", records))
    assert [fault.split(":")[0] for fault in found] == [
        f"line {i + 1}" for i in range(len(ATTACKS))
    ]


def test_a_link_is_found_before_work(tmp_path: Path) -> None:
    (tmp_path / "root").mkdir()
    (tmp_path / "secret.png").write_bytes(b"secret")
    (tmp_path / "root" / "link.png").symlink_to(tmp_path / "secret.png")
    path = write_manifest(tmp_path / "root" / "m.jsonl", [{"id": "a", "images": ["link.png"]}])
    assert "through a link" in faults(path)[0]


def test_nothing_at_all_is_an_error(tmp_path: Path) -> None:
    empty = tmp_path / "m.jsonl"
    empty.touch()
    with pytest.raises(UsageError, match="there are no lines in it"):
        validate(open_manifest(empty))
    (tmp_path / "folder").mkdir()
    with pytest.raises(UsageError, match="there are no media in it"):
        validate(open_manifest(tmp_path / "folder"))
    with pytest.raises(UsageError, match="no such file or folder"):
        open_manifest(tmp_path / "none.jsonl")


def test_a_line_asks_for_everything(tmp_path: Path) -> None:
    record = {
        "id": "r1",
        "text": "what is it?",
        "images": ["a.png"],
        "videos": ["b.mp4"],
        "audio": ["c.wav"],
        "outputs": ["image", "text"],
        "seed": 3,
        "temperature": 0.5,
    }
    (item,) = items(write_manifest(tmp_path / "m.jsonl", [record]))
    assert [part["type"] for part in item.turns[0]["content"]] == [
        "image",
        "video",
        "audio",
        "text",
    ]
    assert (item.outputs, item.seed, item.options) == (("text", "image"), 3, {"temperature": 0.5})
    task = BatchTask(item, "key", 3, 1, ({"path": "a.png", "sha256": "0"},), ((1, 2), None), "d")
    assert task_from_json(task_to_json(task)) == task


def test_what_decides_bytes_decides_the_key() -> None:
    def item(**more: Any) -> Item:
        turns = ({"role": "user", "content": [{"type": "image", "path": "a.png"}]},)
        return Item(**{"id": "a", "turns": turns, **more})

    key = item().content_key("settings", ["hash"], 0)
    assert item(id="b").content_key("settings", ["hash"], 0) == key
    moved = ({"role": "user", "content": [{"type": "image", "path": "elsewhere.png"}]},)
    assert item(turns=moved).content_key("settings", ["hash"], 0) == key
    others = {
        item().content_key("other", ["hash"], 0),
        item().content_key("settings", ["other"], 0),
        item().content_key("settings", ["hash"], 1),
        item(seed=0).content_key("settings", ["hash"], 0),
        item(outputs=("text",)).content_key("settings", ["hash"], 0),
        item(options={"top_k": 1}).content_key("settings", ["hash"], 0),
    }
    assert len(others | {key}) == 7
    assert item(seed=1).content_key("s", ["h"], 0) == item(seed=1).content_key("s", ["h"], 9)
    assert derived_seed(0, key) == derived_seed(0, key) != derived_seed(1, key)


def test_shards_are_a_partition(tmp_path: Path) -> None:
    path = write_manifest(tmp_path / "m.jsonl", numbered(300))
    everything = [item.id for item in items(path)]
    for n in range(1, 17):
        parts = [[item.id for item in items(path, shard=(k, n))] for k in range(1, n + 1)]
        assert sorted(id for part in parts for id in part) == everything
    assert [item.id for item in items(path, limit=3)] == everything[:3]
    shard = [item.id for item in items(path, shard=(2, 4))]
    assert [item.id for item in items(path, shard=(2, 4), limit=5)] == shard[:5]
    assert validate(open_manifest(path, shard=(2, 4), limit=5)) == 5


def test_a_folder_gives_its_media(tmp_path: Path) -> None:
    for name in ("b.png", "a/c.JPG", "a/notes.txt", ".hidden/d.png", ".e.png", "out/f.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"x")
    (tmp_path / "link.png").symlink_to(tmp_path / "b.png")
    options: dict[str, Any] = {
        "columns": Columns(prompt="describe {stem} of {folder}"),
        "out": tmp_path / "out",
    }
    found = items(tmp_path, outputs=("text",), **options)
    assert [item.id for item in found] == ["b.png", "a__c.JPG"]
    assert found[1].turns[0]["content"] == [
        {"type": "media", "path": "a/c.JPG"},
        {"type": "text", "text": "describe c of a"},
    ]
    assert open_manifest(tmp_path, **options).skipped() == (1, "a/notes.txt")
    with pytest.raises(UsageError, match="path, name, stem, folder"):
        validate(open_manifest(tmp_path, columns=Columns(prompt="{title}")))


def test_csv_rows_by_columns_and_templates(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    with open(path, "w", encoding="utf-8-sig", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["id", "title", "path", "seed", "outputs"])
        rows.writerow(["a", 'a "red", bell', "x/a.png", "3", "text, image"])
        rows.writerow(["b", "two\nlines {braces}", "", "", ""])
    columns = Columns(prompt="describe: {title} {{}}", images=("path",))
    first, second = items(path, columns=columns, outputs=("text",))
    assert first.turns[0]["content"] == [
        {"type": "image", "path": "x/a.png"},
        {"type": "text", "text": 'describe: a "red", bell {}'},
    ]
    assert (first.seed, first.outputs) == (3, ("text", "image"))
    assert second.turns[0]["content"][0]["text"] == "describe: two\nlines {braces} {}"
    assert (second.seed, second.outputs) == (None, ("text",))
    path.write_text("id,text\na,x\nb\n", encoding="utf-8")
    assert faults(path) == ["line 3: expected 2 cells, got 1 cells"]
    path.write_text("title\nx\ny\n", encoding="utf-8")
    assert [item.id for item in items(path, columns=Columns(prompt="{title}"))] == [
        "row-0000001",
        "row-0000002",
    ]


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"id,id\na,b\n", "line 1: expected a header"),
        (b'id,text\na,"x\n', "line 2: it is no CSV"),
        (b"id,text\na,\xe9\n", "in UTF-8"),
    ],
)
def test_what_is_no_csv(data: bytes, message: str, tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_bytes(data)
    with pytest.raises(UsageError, match=message):
        validate(open_manifest(path))


def test_templates_take_columns_and_evaluate_nothing(tmp_path: Path) -> None:
    path = tmp_path / "t.csv"
    path.write_text("title\nx\n", encoding="utf-8")
    for template, message in {
        "{titel}": "expected a column 'titel'",
        "{title.__class__}": "expected a column",
        "{title[0]}": "expected a column",
        "{title!r}": "plain names",
        "{title:>9999999}": "plain names",
        "{}": "plain names",
        "{title": "a brace stands alone",
    }.items():
        with pytest.raises(UsageError, match=message):
            validate(open_manifest(path, columns=Columns(prompt=template)))
    assert template_fields("{a} and {b}") == ["a", "b"]
    assert fill("{a}-{a}", {"a": "{b}", "b": "no"}) == "{b}-{b}"


def test_parquet_rows(tmp_path: Path) -> None:
    parquet = pytest.importorskip("pyarrow.parquet")
    pyarrow = pytest.importorskip("pyarrow")
    path = tmp_path / "t.parquet"
    table = pyarrow.table({"name": ["a", "b"], "title": ["bell", None], "path": ["a.png", "b.png"]})
    parquet.write_table(table, path)
    columns = Columns(prompt="describe {title}", id="name", images=("path",))
    found = items(path, columns=columns)
    assert [item.id for item in found] == ["a", "b"]
    assert found[0].turns[0]["content"][1]["text"] == "describe bell"
    with pytest.raises(UsageError, match="expected a column 'none'"):
        validate(open_manifest(path, columns=Columns(id="none")))
    path.write_bytes(b"no parquet")
    with pytest.raises(UsageError, match="expected a Parquet file"):
        validate(open_manifest(path))


def chat(**body: Any) -> dict[str, Any]:
    """A line of an OpenAI batch."""
    turns = [{"role": "user", "content": "draw a bell"}]
    return {
        "custom_id": "a",
        "method": "POST",
        "url": "/v1/chat/completions",
        "body": {"model": "m", "messages": turns, **body},
    }


def test_openai_lines(tmp_path: Path) -> None:
    data = base64.b64encode(b"png").decode()
    content = [
        {"type": "text", "text": "what is this?"},
        {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}},
        {"type": "image_url", "image_url": {"url": "a.png"}},
        {"type": "input_audio", "input_audio": {"data": data, "format": "wav"}},
    ]
    messages = [
        {"role": "developer", "content": "be brief"},
        {"role": "user", "content": "hello"},
        {"role": "assistant", "content": "yes?"},
        {"role": "user", "content": content},
    ]
    first = chat(messages=messages, modalities=["image", "text"], seed=5, max_tokens=9)
    image = {
        "custom_id": "b",
        "method": "POST",
        "url": "/v1/images/generations",
        "body": {"prompt": "a bell", "size": "64x64", "extra_body": {"num_inference_steps": 2}},
    }
    path = write_manifest(tmp_path / "m.jsonl", [first, image])
    chat_item, image_item = items(path, format="openai")
    assert [turn["role"] for turn in chat_item.turns] == ["system", "user", "assistant", "user"]
    assert [list(part)[-1] for part in chat_item.references()] == ["data", "path", "data"]
    assert (chat_item.outputs, chat_item.seed) == (("text", "image"), 5)
    assert chat_item.options == {"max_new_tokens": 9}
    assert image_item.outputs == ("image",)
    sizes = {"num_inference_steps": 2, "width": 64, "height": 64}
    assert image_item.options == {"decoding": {"image": sizes}}


@pytest.mark.parametrize(
    ("record", "fault"),
    [
        ({**chat(), "url": "/v1/embeddings"}, '"url": expected'),
        ({**chat(), "method": "GET"}, '"method": expected POST'),
        ({**chat(), "custom_id": "../a"}, "the id '../a' cannot name a folder"),
        ({**chat(), "body": None}, '"body": expected an object'),
        ({**chat(), "extra": 1}, "unknown key 'extra'"),
        (chat(modalites=["image"]), "unknown key 'modalites'; nearest is 'modalities'"),
        (chat(n=2), '"n": expected 1'),
        (chat(messages=[]), '"messages": expected a list of turns'),
        (chat(messages=[{"role": "assistant", "content": "x"}]), "expected the last turn"),
        (chat(messages=[{"role": "tool", "content": "x"}]), "expected turns with a role"),
        (chat(messages=[{"role": "user", "content": [{"type": "file"}]}]), "expected parts"),
    ],
    ids=range(11),
)
def test_openai_faults(record: dict[str, Any], fault: str, tmp_path: Path) -> None:
    (found,) = faults(write_manifest(tmp_path / "m.jsonl", [record]), format="openai")
    assert fault in found


def test_openai_media_must_be_base64_or_allowed(tmp_path: Path) -> None:
    for url, fault in {
        "data:image/png;base64,###": "cannot be decoded",
        "data:image/png,abc": "is no base64 data URL",
        "https://good.example/a.png": "allow its host by --allow-url",
        "../a.png": "cannot be read",
    }.items():
        part = {"type": "image_url", "image_url": {"url": url}}
        record = chat(messages=[{"role": "user", "content": [part]}])
        (found,) = faults(write_manifest(tmp_path / "m.jsonl", [record]), format="openai")
        assert fault in found


def test_long_lines_are_for_openai(tmp_path: Path) -> None:
    data = base64.b64encode(b"x" * MAX_LINE_BYTES["jsonl"]).decode()
    part = {"type": "image_url", "image_url": {"url": f"data:image/png;base64,{data}"}}
    path = write_manifest(
        tmp_path / "m.jsonl", [chat(messages=[{"role": "user", "content": [part]}])]
    )
    assert len(items(path, format="openai")) == 1


def test_formats_by_ending_and_by_name(tmp_path: Path) -> None:
    (tmp_path / "a.png").touch()
    (tmp_path / "a.txt").write_text(json.dumps({"id": "a", "text": "x"}) + "\n")
    with pytest.raises(UsageError, match="a single file: use anyany generate"):
        open_manifest(tmp_path / "a.png")
    with pytest.raises(UsageError, match="else say --format"):
        open_manifest(tmp_path / "a.txt")
    assert len(items(tmp_path / "a.txt", format="jsonl")) == 1
    for kind in ("folder", "xml"):
        with pytest.raises(UsageError, match="--format"):
            open_manifest(tmp_path / "a.txt", format=kind)
    with pytest.raises(UsageError, match="--format"):
        open_manifest(tmp_path, format="jsonl")
    with pytest.raises(UsageError, match="for tables and folders"):
        open_manifest(tmp_path / "a.txt", format="jsonl", columns=Columns(prompt="x"))
    with pytest.raises(UsageError, match="--shard"):
        open_manifest(tmp_path / "a.txt", format="jsonl", shard=(3, 2))
    with pytest.raises(UsageError, match="a folder is its own root"):
        open_manifest(tmp_path, root=tmp_path)
