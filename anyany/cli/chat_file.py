"""A conversation as a file: JSON lines of turns, as `anyany serve` reads them."""

from __future__ import annotations

import base64
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from anyany import media
from anyany.messages import AudioPart, ImagePart, Message, Part, TextPart


def write_chat(messages: Sequence[Message], path: Path) -> Path:
    """Write turns, media inside as data URLs; a line each.

    Raises:
        UsageError: the place cannot be written to.
        ResourceError: the disk is full.
    """
    lines = [
        json.dumps(
            {"role": turn.role, "content": [_part(part) for part in turn.parts]}, ensure_ascii=False
        )
        for turn in messages
    ]
    return media.write_bytes("".join(f"{line}\n" for line in lines).encode(), path)


def _part(part: Part) -> dict[str, Any]:
    if isinstance(part, TextPart):
        return {"type": "text", "text": part.text}
    if isinstance(part, AudioPart):
        data = media.encode_audio(part.waveform, part.sample_rate, part.provenance)
        return {"type": "input_audio", "input_audio": {"data": _base64(data), "format": "wav"}}
    if isinstance(part, ImagePart):
        url = f"data:image/png;base64,{_base64(media.encode_image(part.image, part.provenance))}"
        return {"type": "image_url", "image_url": {"url": url}}
    clip = media.encode_video(part.frames, part.frames_per_second, part.provenance)
    return {"type": "video_url", "video_url": {"url": f"data:video/mp4;base64,{_base64(clip)}"}}


def _base64(data: bytes) -> str:
    return base64.b64encode(data).decode()
