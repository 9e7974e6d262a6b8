"""Replies as OpenAI's objects: ordered parts, and the side fields that clients look for.

The bytes behind every data URL are those that `Reply.save` writes, record of provenance included.
"""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from anyany import media
from anyany.messages import AudioPart, ImagePart, MediaPart, Modality, Reply, TextPart, VideoPart

MIME: Final[Mapping[str, str]] = {
    ".png": "image/png",
    ".webp": "image/webp",
    ".jpeg": "image/jpeg",
    ".mp4": "video/mp4",
    ".wav": "audio/wav",
    ".flac": "audio/flac",
}
SIDE_FIELD: Final[Mapping[Modality, str]] = {
    "image": "images",
    "video": "videos",
    "audio": "audios",
}
EXPIRES: Final = 3600  # seconds that OpenAI's audio objects say they live; ours are not kept


@dataclass(frozen=True)
class Place:
    """Where a medium stands in its reply.

    Args:
        index: among the parts.
        modality_index: among those of its modality.
        seed: of the reply.
    """

    index: int
    modality_index: int
    seed: int


def encode(part: MediaPart, extension: str | None = None) -> bytes:
    """A medium as the bytes of a file, the record of how it was made inside.

    Args:
        part: it.
        extension: of another format of its modality; None = the one that `Reply.save` writes.
    """
    ending = extension or part.extension
    if isinstance(part, ImagePart):
        return media.encode_image(part.image, part.provenance, extension=ending)
    if isinstance(part, VideoPart):
        return media.encode_video(
            part.frames, part.frames_per_second, part.provenance, extension=ending
        )
    return media.encode_audio(part.waveform, part.sample_rate, part.provenance, extension=ending)


def part_object(part: MediaPart, place: Place) -> dict[str, Any]:
    """A medium as a content part that a later request can carry. Encodes: not for the loop."""
    data = encode(part)
    text = base64.b64encode(data).decode()
    mime = MIME[part.extension]
    url = {"url": f"data:{mime};base64,{text}"}
    held: dict[str, Any]
    if isinstance(part, ImagePart):
        held = {"type": "image_url", "image_url": url}
        about: dict[str, Any] = {"width": part.image.width, "height": part.image.height}
    elif isinstance(part, VideoPart):
        held = {"type": "video_url", "video_url": url}
        frames, height, width = part.frames.shape[:3]
        rate = part.frames_per_second
        about = {"width": width, "height": height, "frames": frames, "frames_per_second": rate}
    else:
        form = part.extension.removeprefix(".")
        held = {
            "type": "input_audio",
            "input_audio": {"data": text, "format": form},
            "audio_url": url,
        }
        seconds = part.waveform.shape[1] / part.sample_rate
        about = {"seconds": round(seconds, 3), "sample_rate": part.sample_rate}
    return {
        **held,
        "index": place.index,
        "modality": part.modality,
        "modality_index": place.modality_index,
        "mime_type": mime,
        "filename": f"{part.modality}_{place.modality_index}{part.extension}",
        "seed": place.seed,
        "sha256": hashlib.sha256(data).hexdigest(),
        **about,
        "provenance": json.loads(part.provenance.to_json()) if part.provenance else None,
    }


def part_objects(reply: Reply) -> list[dict[str, Any]]:
    """A reply's parts in order. Encodes: not for the event loop where there are media."""
    counts: dict[str, int] = {}
    found: list[dict[str, Any]] = []
    for index, part in enumerate(reply.parts):
        if isinstance(part, TextPart):
            found.append({"type": "text", "text": part.text, "index": index})
            continue
        number = counts.get(part.modality, 0)
        counts[part.modality] = number + 1
        found.append(part_object(part, Place(index, number, reply.seed)))
    return found


def chat_object(
    reply: Reply, *, id: str, model: str, created: int, prompt_tokens: int
) -> dict[str, Any]:
    """OpenAI's chat.completion, with `parts`, `images`, `videos` and `audio` in the message."""
    parts = part_objects(reply)
    message: dict[str, Any] = {
        "role": "assistant",
        "content": reply.text,
        "refusal": None,
        "parts": parts,
    }
    for modality in ("image", "video"):
        found = [part for part in parts if part.get("modality") == modality]
        if found:
            message[SIDE_FIELD[modality]] = found
    sounds = [part for part in parts if part.get("modality") == "audio"]
    if sounds:
        message["audio"] = audio_object(sounds[0])
    return {
        "id": id,
        "object": "chat.completion",
        "created": created,
        "model": model,
        "choices": [
            {
                "index": 0,
                "message": message,
                "logprobs": None,
                "finish_reason": reply.finish_reason,
            }
        ],
        "usage": usage(reply, prompt_tokens),
        "seed": reply.seed,
        "timings": timings(reply),
        "dropped_turns": reply.dropped_turns,
    }


def audio_object(part: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAI's `message.audio` of a part; it says nothing in words, so its transcript is empty."""
    return {
        "id": new_id("audio"),
        **part["input_audio"],
        "transcript": "",
        "expires_at": int(time.time()) + EXPIRES,
    }


def images_object(replies: Sequence[Reply], created: int, form: str, ending: str) -> dict[str, Any]:
    """OpenAI's answer of images/generations and /edits. Encodes: not for the event loop.

    Args:
        replies: one picture each, or more.
        created: seconds since 1970.
        form: b64_json, or url for data URLs.
        ending: of the format, such as ".png".
    """
    data: list[dict[str, Any]] = []
    for reply in replies:
        for part in reply.images:
            text = base64.b64encode(encode(part, ending)).decode()
            held = {"b64_json": text}
            if form == "url":
                held = {"url": f"data:{MIME[ending]};base64,{text}"}
            data.append({**held, "seed": reply.seed, "revised_prompt": None})
    return {"created": created, "data": data, "output_format": ending.removeprefix(".")}


def sounds_object(reply: Reply, created: int, ending: str) -> dict[str, Any]:
    """The answer of audio/generations. Encodes: not for the event loop."""
    data = [
        {
            "b64_json": base64.b64encode(encode(part, ending)).decode(),
            "mime_type": MIME[ending],
            "seconds": round(part.waveform.shape[1] / part.sample_rate, 3),
            "sample_rate": part.sample_rate,
            "seed": reply.seed,
        }
        for part in reply.parts
        if isinstance(part, AudioPart)
    ]
    return {"created": created, "data": data, "output_format": ending.removeprefix(".")}


def usage(reply: Reply, prompt_tokens: int) -> dict[str, int]:
    """OpenAI's usage; signal tokens count, users' media in the prompt do not."""
    written = len(reply.token_ids)
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": written,
        "total_tokens": prompt_tokens + written,
    }


def timings(reply: Reply) -> dict[str, float]:
    """Seconds per stage."""
    return {name: round(value, 6) for name, value in reply.timings.items()}


def new_id(kind: str) -> str:
    """An id that cannot be guessed."""
    return f"{kind}-{secrets.token_hex(16)}"
