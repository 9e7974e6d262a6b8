"""Runs over the packaged system, with two denoising steps: real models, real files."""

from __future__ import annotations

import base64
import functools
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final

import pytest
import torch
from batch_faults import lines, tree, write_manifest
from PIL import Image

from anyany import AnyToAny, ImagePart, TextPart
from anyany.batch import Factory, Function, Run, RunOptions, Store, SystemFactory, open_manifest
from anyany.batch.functions import SystemFunction
from anyany.batch.inspect import verify
from anyany.batch.outcomes import reply_record, write_reply
from anyany.messages import Reply

COMMON: Final = {"max_new_tokens": 24}
OVERRIDES: Final = {"num_inference_steps": 2}


@functools.cache
def packaged() -> AnyToAny:
    return AnyToAny.from_pretrained("pocket", device="cpu", threads=None)


class Here:
    """A factory that hands out the system that is loaded already."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __call__(self) -> Function:
        return SystemFunction(packaged(), self.root, COMMON, OVERRIDES)


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def run(path: Path, out: Path, factory: Factory | None = None, **options: Any) -> Any:
    manifest = open_manifest(
        path, **{k: options.pop(k) for k in ("format", "outputs") if k in options}
    )
    return Run(
        manifest,
        out,
        factory or Here(manifest.root),
        common={**COMMON, "overrides": OVERRIDES},
        options=RunOptions(**{"workers": 0, **options}),
    )()


def picture(path: Path, color: str) -> Path:
    Image.new("RGB", (64, 64), color).save(path)
    return path


def test_a_mixed_manifest_equals_the_api(tmp_path: Path) -> None:
    picture(tmp_path / "red.png", "red")
    (tmp_path / "corrupt.png").write_bytes((tmp_path / "red.png").read_bytes()[:60])
    records: list[dict[str, Any]] = [
        {"id": "draw", "text": "draw a small red bell on the left", "outputs": ["text", "image"]},
        {"id": "seeded", "text": "draw a drum", "outputs": ["image"], "seed": 7},
        {"id": "ask", "images": ["red.png"], "text": "what is this?", "outputs": ["text"]},
        {"id": "corrupt", "images": ["corrupt.png"], "text": "what is this?"},
        {"id": "none", "text": "word " * 2000, "outputs": ["text"]},
    ]
    records[1]["decoding"] = {"image": {"num_inference_steps": 3}}
    path = write_manifest(tmp_path / "m.jsonl", records)
    summary = run(path, tmp_path / "out")
    failed = {
        line["custom_id"]: line["error"]["code"]
        for line in lines(tmp_path / "out" / "errors.jsonl")
    }
    assert failed["corrupt"] == "corrupt"
    assert set(failed) == {"corrupt", "none"}
    assert summary.exit_code == 3
    made = json.loads((tmp_path / "out" / "draw" / "reply.json").read_text())
    reply = packaged().generate(
        records[0]["text"],
        outputs={"text", "image"},
        seed=made["seed"],
        num_inference_steps=2,
        max_new_tokens=24,
    )
    reply.save(tmp_path / "api")
    assert tree(tmp_path / "api") == tree(tmp_path / "out" / "draw")
    seeded = packaged().generate(
        "draw a drum", outputs={"image"}, seed=7, num_inference_steps=3, max_new_tokens=24
    )
    seeded.save(tmp_path / "api2")
    assert tree(tmp_path / "api2") == tree(tmp_path / "out" / "seeded")
    assert (tmp_path / "out" / "ask" / "reply.json").is_file()
    assert verify(Store(tmp_path / "out")).faults == []


def test_two_processes_and_a_resume_make_the_same_bytes(tmp_path: Path) -> None:
    words = ("red bell", "blue drum", "green bird", "small bee", "siren on the left", "cloud")
    records = [
        {"id": f"r{i}", "text": f"draw a {words[i]}", "outputs": ["text", "image"]}
        for i in range(6)
    ]
    path = write_manifest(tmp_path / "m.jsonl", records)
    run(path, tmp_path / "one")
    factory = SystemFactory("pocket", str(tmp_path), "cpu", None, 1, COMMON, OVERRIDES)
    manifest = write_manifest(tmp_path / "first.jsonl", records[:2])
    run(manifest, tmp_path / "two", factory, workers=1)
    summary = run(path, tmp_path / "two")  # taken up by this process, with the rest
    assert (summary.counts.skipped, summary.counts.done) == (2, 4)
    assert tree(tmp_path / "one") == tree(tmp_path / "two")


def test_a_folder_and_openai_lines(tmp_path: Path) -> None:
    (tmp_path / "photos").mkdir()
    for color in ("red", "blue"):
        picture(tmp_path / "photos" / f"{color}.png", color)
    assert run(tmp_path / "photos", tmp_path / "texts", outputs=("text",)).exit_code == 0
    assert {p.name for p in (tmp_path / "texts").iterdir()} >= {"red.png", "blue.png"}
    data = base64.b64encode((tmp_path / "photos" / "red.png").read_bytes()).decode()
    url = {"url": f"data:image/png;base64,{data}"}
    content = [{"type": "image_url", "image_url": url}, {"type": "text", "text": "what is this?"}]
    chat = {"messages": [{"role": "user", "content": content}], "modalities": ["text"]}
    requests = [
        ("chat", "/v1/chat/completions", chat),
        ("image", "/v1/images/generations", {"prompt": "a red bell", "seed": 1}),
    ]
    records = [
        {"custom_id": name, "method": "POST", "url": url_, "body": {"model": "pocket", **body}}
        for name, url_, body in requests
    ]
    path = write_manifest(tmp_path / "m.jsonl", records)
    assert run(path, tmp_path / "out", format="openai").exit_code == 0
    first, second = (line["response"]["body"] for line in lines(tmp_path / "out" / "results.jsonl"))
    assert first["object"] == "chat.completion"
    assert first["choices"][0]["message"]["content"]
    assert second["data"] == [{"url": "image/image_0.png"}]
    assert (tmp_path / "out" / "image" / "image_0.png").is_file()


def test_files_are_those_that_a_reply_saves(tmp_path: Path) -> None:
    parts = (TextPart("ü"), ImagePart(Image.new("RGB", (4, 4))), ImagePart(Image.new("L", (2, 2))))
    reply = Reply(parts, raw_text="", seed=3, timings={})
    files = write_reply(reply, tmp_path / "ours")
    reply.save(tmp_path / "theirs")
    assert tree(tmp_path / "ours") == tree(tmp_path / "theirs")
    assert {entry[0]: entry[2] for entry in files} == tree(tmp_path / "ours")
    listed = json.loads((tmp_path / "ours" / "reply.json").read_text())
    record = reply_record(reply)
    assert {key: record[key] for key in listed} == listed
