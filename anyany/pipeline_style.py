"""The call style of transformers' any-to-any pipeline: its arguments and its records."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

from anyany.errors import UsageError
from anyany.messages import MEDIA_MODALITIES, Reply, to_messages


def pipeline_prompts(text: object, media: Mapping[str, object]) -> list[object]:
    """The prompts of a call: one, or a batch of texts or chats.

    Raises:
        UsageError: a batch of texts comes beside media.
    """
    is_batch = isinstance(text, Sequence) and not isinstance(text, str) and len(text) > 0
    if is_batch and not isinstance(cast("Sequence[object]", text)[0], str | Sequence):
        is_batch = False  # one chat, or one list of parts
    if any(item is not None for item in media.values()):
        if is_batch:
            raise UsageError("expected one text beside images, videos or audio; got a list")
        parts: list[object] = []
        for item in media.values():
            parts += item if isinstance(item, list) else [] if item is None else [item]
        return [[*parts, text] if text is not None else parts]
    return list(cast("Sequence[object]", text)) if is_batch else [text]


def pipeline_record(prompt: object, reply: Reply, *, full: bool) -> dict[str, Any]:
    """What a call returns of one reply, with a key for every modality that came."""
    record: dict[str, Any] = {"input_text": prompt}
    if reply.text or not reply.parts:
        asked = to_messages(prompt)[-1].text if full else ""
        record["generated_text"] = f"{asked} {reply.text}".strip()
    made: dict[str, list[Any]] = {
        "image": [part.image for part in reply.images],
        "video": [part.frames for part in reply.videos],
        "audio": [part.waveform for part in reply.audios],
    }
    for modality in MEDIA_MODALITIES:
        if items := made[modality]:
            record[f"generated_{modality}"] = items[0] if len(items) == 1 else items
    return record
