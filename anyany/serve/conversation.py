"""From a chat's JSON to messages: texts as they are, media from data URLs and base64 alone.

Sizes are checked before anything is decoded, and pixels, seconds and frames while it is. Nothing
is fetched, nothing is written to disk; a medium lives as long as its request.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from anyany import media
from anyany.messages import AudioPart, ImagePart, Message, Part, Role, TextPart, VideoPart
from anyany.serve.errors import invalid, told, too_large
from anyany.serve.settings import ServeSettings

_ROLES: Final[Mapping[str, Role]] = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}
_URL_KINDS: Final = {"image_url": "image", "video_url": "video", "audio_url": "audio"}
_SIDE_FIELDS: Final = ("images", "videos")  # of an assistant's message that comes back
_MORE_CONTENT: Final = frozenset({"parts", "audio", *_SIDE_FIELDS})
_DATA: Final = re.compile(r"data:[\w.+\-]*/?[\w.+\-]*(;[\w.+\-]+=[\w.+\-,\"]+)*;base64,")


@dataclass
class _Budget:
    """What a conversation may still hold."""

    settings: ServeSettings
    parts: int = 0
    characters: int = 0

    def take(self, part: Mapping[str, Any] | str, place: str) -> None:
        self.parts += 1
        if self.parts > self.settings.parts:
            raise too_large(f"expected at most {self.settings.parts} parts", param=place)
        self.characters += len(part) if isinstance(part, str) else 0
        if self.characters > self.settings.text_characters:
            most = self.settings.text_characters
            raise too_large(f"expected at most {most:,} characters of text", param=place)


def read_messages(turns: Sequence[Mapping[str, Any]], settings: ServeSettings) -> list[Message]:
    """The conversation, its media read. Slow where there are media: not for the event loop.

    Raises:
        ApiError: 400 or 413; `param` says where.
    """
    if len(turns) > settings.messages:
        raise too_large(f"expected at most {settings.messages} turns", param="messages")
    budget = _Budget(settings)
    messages = [_message(turn, f"messages.{i}", budget) for i, turn in enumerate(turns)]
    if messages[-1].role != "user":
        raise invalid("expected the last turn to be the user's", param="messages", code="prompt")
    return messages


def has_media(turns: Sequence[Mapping[str, Any]]) -> bool:
    """Whether reading the conversation is more than a look at its texts."""
    return any(
        not isinstance(turn.get("content"), str) or turn.keys() & _MORE_CONTENT for turn in turns
    )


def read_medium(
    kind: str, data: bytes, settings: ServeSettings, place: str
) -> ImagePart | VideoPart | AudioPart:
    """A medium of a request, within the server's limits.

    Args:
        kind: image, video or audio.
        data: the file's content.
        settings: of the server.
        place: its field, for errors.

    Raises:
        ApiError: 400 or 413.
    """
    if len(data) > settings.part_bytes:
        raise too_large(f"expected a file of at most {settings.part_bytes:,} bytes", param=place)
    limits = settings.media
    try:
        if kind == "image":
            return ImagePart(media.read_image(data, limits=limits))
        if kind == "video":
            clip = media.read_video(data, limits=limits)
            return VideoPart(clip.frames, clip.frames_per_second)
        sound = media.read_audio(data, limits=limits)
        return AudioPart(sound.waveform, sound.sample_rate)
    except Exception as error:
        raise told(error, param=place) from None


def _message(turn: object, place: str, budget: _Budget) -> Message:
    if not isinstance(turn, Mapping) or turn.get("role") not in _ROLES:
        raise invalid(f"expected a turn with a role among {', '.join(_ROLES)}", param=place)
    if turn.get("tool_calls") or turn.get("function_call"):
        raise invalid("this server does not support tools", param=place, code="unsupported")
    role = _ROLES[turn["role"]]
    content: Any = turn.get("content")
    if role == "assistant":
        content = _assistant_content(turn)
    if isinstance(content, str):
        budget.take(content, place)
        return Message(role, (TextPart(content),))
    if not isinstance(content, list) or not content:
        raise invalid("expected text or a list of parts", param=f"{place}.content")
    parts = tuple(_part(p, f"{place}.content.{i}", budget) for i, p in enumerate(content))
    if role == "system" and any(not isinstance(part, TextPart) for part in parts):
        raise invalid("expected text alone in a system turn", param=f"{place}.content")
    return Message(role, parts)


def _assistant_content(turn: Mapping[str, Any]) -> Any:
    """Our own answers come back as clients keep them: in order in `parts`, or in side fields."""
    if isinstance(turn.get("parts"), list):
        return turn["parts"]
    content = turn.get("content")
    side: list[Any] = []
    for name in _SIDE_FIELDS:
        found = turn.get(name)
        side += found if isinstance(found, list) else []
    sound = turn.get("audio")
    if isinstance(sound, Mapping) and isinstance(sound.get("data"), str):
        side.append({"type": "input_audio", "input_audio": {"data": sound["data"]}})
    if not side:
        return content
    if isinstance(content, str):
        return [*([{"type": "text", "text": content}] if content.strip() else []), *side]
    return [*content, *side] if isinstance(content, list) else side


def _part(part: object, place: str, budget: _Budget) -> Part:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if isinstance(part, Mapping) and isinstance(kind, str):
        if kind == "text" and isinstance(part.get("text"), str):
            budget.take(part["text"], place)
            return TextPart(part["text"])
        budget.take(part, place)
        if kind in _URL_KINDS:
            held = part.get(kind)
            address = held.get("url") if isinstance(held, Mapping) else held
            if isinstance(address, str):
                return _from_url(_URL_KINDS[kind], address, budget.settings, place)
        if kind == "input_audio" and isinstance(part.get("input_audio"), Mapping):
            data = part["input_audio"].get("data")
            if isinstance(data, str):
                data = _DATA.sub("", data, count=1) if data.startswith("data:") else data
                return _read("audio", data, budget.settings, place)
    raise invalid(
        "expected a part of the type text, image_url, video_url, audio_url or input_audio; got "
        f"{str(kind)[:40]!r}",
        param=place,
    )


def _from_url(kind: str, address: str, settings: ServeSettings, place: str) -> Part:
    found = _DATA.match(address)
    if found is None:
        raise invalid(
            "expected a data URL in base64 (data:image/png;base64,...); addresses are not fetched",
            param=place,
            code="url",
        )
    return _read(kind, address[found.end() :], settings, place)


def _read(kind: str, text: str, settings: ServeSettings, place: str) -> Part:
    if len(text) * 3 // 4 > settings.part_bytes + 3:
        raise too_large(f"expected a file of at most {settings.part_bytes:,} bytes", param=place)
    try:
        data = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise invalid("expected base64", param=place, code="base64") from None
    return read_medium(kind, data, settings, place)
