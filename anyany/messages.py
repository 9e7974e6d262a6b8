"""Parts, messages and replies: what goes into a model and what comes out, in order.

A part holds media in memory in one form: an RGB picture, uint8 frames, or a float waveform. Files
and bytes become parts through `anyany.media` alone. Nothing here loads torch.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Literal, TypeAlias, cast, get_args

import numpy as np
import numpy.typing as npt

from anyany import media
from anyany.errors import UsageError

if TYPE_CHECKING:
    from PIL import Image

    from anyany.media.provenance import Provenance

Modality: TypeAlias = Literal["text", "image", "video", "audio"]
MODALITIES: Final[tuple[Modality, ...]] = get_args(Modality)
MEDIA_MODALITIES: Final[tuple[Modality, ...]] = ("image", "video", "audio")
Role: TypeAlias = Literal["system", "user", "assistant"]


@dataclass(frozen=True, eq=False)
class TextPart:
    """A piece of text."""

    text: str
    modality: Literal["text"] = field(default="text", init=False)


@dataclass(frozen=True, eq=False)
class ImagePart:
    """A picture.

    Args:
        image: an RGB picture.
        provenance: how it was made, if a model made it.
    """

    image: Image.Image
    provenance: Provenance | None = None
    modality: Literal["image"] = field(default="image", init=False)
    extension = ".png"

    @classmethod
    def read(cls, source: str | Path | bytes) -> ImagePart:
        """Read a file (or its bytes) behind the default limits.

        Raises:
            MediaError: it is missing, empty, unsupported, corrupt, too large or refused.
        """
        return cls(media.read_image(source))

    def save(self, path: str | Path, *, metadata: bool = True) -> Path:
        """Write a PNG, with provenance inside unless `metadata` is False."""
        return media.write_image(self.image, path, provenance=self.provenance if metadata else None)


@dataclass(frozen=True, eq=False)
class VideoPart:
    """A clip without sound.

    Args:
        frames: uint8 [F, H, W, 3].
        frames_per_second: playing rate.
        provenance: how it was made, if a model made it.
    """

    frames: npt.NDArray[np.uint8]
    frames_per_second: float
    provenance: Provenance | None = None
    modality: Literal["video"] = field(default="video", init=False)
    extension = ".mp4"

    @classmethod
    def read(cls, source: str | Path | bytes) -> VideoPart:
        """Read a file (or its bytes) behind the default limits.

        Raises:
            MediaError: it is missing, empty, unsupported, corrupt, too large or refused.
        """
        video = media.read_video(source)
        return cls(video.frames, video.frames_per_second)

    def save(self, path: str | Path, *, metadata: bool = True) -> Path:
        """Write an MP4, GIF or WebP (by the path's ending), with provenance unless told not to."""
        return media.write_video(
            self.frames,
            self.frames_per_second,
            path,
            provenance=self.provenance if metadata else None,
        )


@dataclass(frozen=True, eq=False)
class AudioPart:
    """A recording.

    Args:
        waveform: float32 [channels, samples] in [-1, 1].
        sample_rate: Hz.
        provenance: how it was made, if a model made it.
    """

    waveform: npt.NDArray[np.float32]
    sample_rate: int
    provenance: Provenance | None = None
    modality: Literal["audio"] = field(default="audio", init=False)
    extension = ".wav"

    @classmethod
    def read(cls, source: str | Path | bytes) -> AudioPart:
        """Read a file (or its bytes) behind the default limits.

        Raises:
            MediaError: it is missing, empty, unsupported, corrupt, too large or refused.
        """
        audio = media.read_audio(source)
        return cls(audio.waveform, audio.sample_rate)

    def save(self, path: str | Path, *, metadata: bool = True) -> Path:
        """Write a WAV or FLAC (by the path's ending), with provenance unless told not to."""
        return media.write_audio(
            self.waveform,
            self.sample_rate,
            path,
            provenance=self.provenance if metadata else None,
        )


MediaPart: TypeAlias = ImagePart | VideoPart | AudioPart
Part: TypeAlias = TextPart | MediaPart

_READERS: Final[Mapping[Modality, type[ImagePart] | type[VideoPart] | type[AudioPart]]] = {
    "image": ImagePart,
    "video": VideoPart,
    "audio": AudioPart,
}


def read_part(path: str | Path) -> MediaPart:
    """Read a media file as the part that its content says it is.

    Raises:
        MediaError: it is missing, empty, unsupported, corrupt, too large or refused.
    """
    return _READERS[media.sniff(path)].read(path)


@dataclass(frozen=True, eq=False)
class Message:
    """One turn of a conversation."""

    role: Role
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """The turn's text parts, joined by blanks."""
        return " ".join(part.text for part in self.parts if isinstance(part, TextPart))


@dataclass(frozen=True, eq=False)
class Reply:
    """What the model answered: text and media in the order in which it wrote them.

    Args:
        parts: the ordered parts.
        raw_text: all the text that the model wrote, asked for or not.
        seed: the resolved seed.
        timings: seconds per stage ("encode", "language", "decode.image", ..., "total").
        token_ids: the language model's tokens, signal tokens included.
        finish_reason: "stop", "length" or "cancelled".
        dropped_turns: how many of the oldest turns were left out of an over-long conversation.
    """

    parts: tuple[Part, ...]
    raw_text: str
    seed: int
    timings: Mapping[str, float]
    token_ids: tuple[int, ...] = ()
    finish_reason: Literal["stop", "length", "cancelled"] = "stop"
    dropped_turns: int = 0

    @property
    def text(self) -> str:
        """The reply's text parts, joined by blanks."""
        return " ".join(part.text for part in self.parts if isinstance(part, TextPart))

    @property
    def images(self) -> list[ImagePart]:
        """The reply's pictures, in order."""
        return [part for part in self.parts if isinstance(part, ImagePart)]

    @property
    def videos(self) -> list[VideoPart]:
        """The reply's clips, in order."""
        return [part for part in self.parts if isinstance(part, VideoPart)]

    @property
    def audios(self) -> list[AudioPart]:
        """The reply's recordings, in order."""
        return [part for part in self.parts if isinstance(part, AudioPart)]

    def __iter__(self) -> Iterator[Part]:
        return iter(self.parts)

    def message(self) -> Message:
        """The reply as a turn that the next request can carry."""
        return Message("assistant", self.parts)

    def save(self, folder: str | Path, *, metadata: bool = True) -> list[Path]:
        """Write the media as `image_0.png`, `video_0.mp4`, `audio_0.wav`, ... and `reply.json`.

        Returns:
            The paths of the media files, in order, then that of `reply.json`.
        """
        folder = Path(folder)
        folder.mkdir(parents=True, exist_ok=True)
        counts = dict.fromkeys(MODALITIES, 0)
        paths: list[Path] = []
        listed: list[dict[str, Any]] = []
        for part in self.parts:
            if isinstance(part, TextPart):
                listed.append({"type": "text", "text": part.text})
                continue
            name = f"{part.modality}_{counts[part.modality]}{part.extension}"
            counts[part.modality] += 1
            paths.append(part.save(folder / name, metadata=metadata))
            listed.append({"type": part.modality, "file": name})
        record = {"parts": listed, "seed": self.seed, "finish_reason": self.finish_reason}
        if self.dropped_turns:
            record["dropped_turns"] = self.dropped_turns
        paths.append(media.write_json(record, folder / "reply.json"))
        return paths


def to_part(item: object) -> Part:
    """Turn what users hand in into a part.

    Args:
        item: a part, a str (text, never a path), a Path (a media file), a PIL picture, or a part
            of a chat (a mapping with "type").

    Raises:
        UsageError: nothing of that kind is accepted.
        MediaError: a file cannot be used.
    """
    if isinstance(item, TextPart | ImagePart | VideoPart | AudioPart):
        return item
    if isinstance(item, str):
        return TextPart(item)
    if isinstance(item, Path):
        return read_part(item)
    if isinstance(item, Mapping):
        return _chat_part(item)
    if hasattr(item, "convert") and hasattr(item, "getbands"):  # a PIL picture, Pillow not loaded
        return ImagePart(media.as_rgb(cast("Image.Image", item)))
    raise UsageError(
        "expected text, a pathlib.Path to a media file, a PIL image or a part; "
        f"got {type(item).__name__}: wrap it in TextPart, ImagePart, VideoPart or AudioPart"
    )


def to_messages(prompt: object) -> list[Message]:
    """Turn a prompt into turns.

    Args:
        prompt: a str; one part; a list of parts (one user turn); a list of Message; or a chat, a
            list of {"role", "content"} whose content is a str or a list of parts.

    Raises:
        UsageError: the prompt is of no such kind.
    """
    if isinstance(prompt, Message):
        return [prompt]
    if not isinstance(prompt, Sequence) or isinstance(prompt, str | bytes):
        return [Message("user", (to_part(prompt),))]
    if prompt and all(isinstance(item, Message) for item in prompt):
        return list(prompt)
    if prompt and all(isinstance(item, Mapping) and "role" in item for item in prompt):
        return [_chat_message(item) for item in prompt]
    return [Message("user", tuple(to_part(item) for item in prompt))]


def _chat_message(item: Mapping[str, Any]) -> Message:
    role = item["role"]
    if role not in get_args(Role):
        raise UsageError(f"expected a role among {', '.join(get_args(Role))}; got {role!r}")
    content = item.get("content")
    if isinstance(content, str):
        return Message(role, (TextPart(content),))
    if not isinstance(content, Sequence):
        raise UsageError(
            'expected a chat turn\'s "content" to be text or a list of parts; '
            f"got {type(content).__name__}"
        )
    return Message(role, tuple(to_part(part) for part in content))


def _chat_part(item: Mapping[str, Any]) -> Part:
    kind = item.get("type")
    if kind == "text" and isinstance(item.get("text"), str):
        return TextPart(item["text"])
    if isinstance(kind, str) and kind in _READERS:
        reader = _READERS[cast(Modality, kind)]
        for key in (kind, "path"):  # transformers' chat format: {"type": "image", "image": ...}
            value = item.get(key)
            if isinstance(value, str | Path):
                return reader.read(Path(value))
            if isinstance(value, bytes):
                return reader.read(value)
            if value is not None and (part := to_part(value)).modality == kind:
                return part
    raise UsageError(
        'expected a chat part like {"type": "text", "text": ...} or {"type": "image", "image": '
        f"path or picture}}; got keys {sorted(str(key) for key in item)} with type {kind!r}"
    )
