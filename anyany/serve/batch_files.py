"""A batch's results as OpenAI's output file: the run's lines, with media inside them."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from anyany.serve.answers import MIME, SIDE_FIELD


def output_lines(folder: Path, name: str) -> Iterator[bytes]:
    """The lines of results.jsonl or errors.jsonl, each with its media as data.

    Args:
        folder: of the run.
        name: of the list.
    """
    with open(folder / name, encoding="utf-8") as file:
        for line in file:
            record = json.loads(line)
            if record.get("response"):
                _put_media(folder, record["response"]["body"])
            yield json.dumps(record, separators=(",", ":")).encode() + b"\n"


def _put_media(folder: Path, body: dict[str, Any]) -> None:
    if "data" in body:  # images/generations
        body["data"] = [
            {"b64_json": _base64(folder / entry["url"]), "seed": body["seed"]}
            for entry in body["data"]
        ]
        return
    message = body["choices"][0]["message"]
    parts = [_part(folder, part, index) for index, part in enumerate(message["parts"])]
    message["parts"] = parts
    for modality in ("image", "video"):
        found = [part for part in parts if part.get("modality") == modality]
        if found:
            message[SIDE_FIELD[modality]] = found
    sounds = [part for part in parts if part.get("modality") == "audio"]
    if sounds:
        message["audio"] = {**sounds[0]["input_audio"], "transcript": ""}


def _part(folder: Path, part: Mapping[str, Any], index: int) -> dict[str, Any]:
    if part["type"] == "text":
        return {**part, "index": index}
    path = folder / part["file"]
    text, mime, kind = _base64(path), MIME[path.suffix], part["type"]
    about = {"index": index, "modality": kind, "mime_type": mime, "filename": path.name}
    if kind == "audio":
        form = path.suffix.removeprefix(".")
        return {"type": "input_audio", "input_audio": {"data": text, "format": form}, **about}
    return {
        "type": f"{kind}_url",
        f"{kind}_url": {"url": f"data:{mime};base64,{text}"},
        **about,
    }


def _base64(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()
