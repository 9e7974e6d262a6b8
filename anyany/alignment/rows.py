"""Single rows of data files, each format's own, to samples."""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, cast

from anyany.alignment.samples import MediaFile, MediaTarget, Sample, turn
from anyany.messages import MEDIA_MODALITIES, Message, Modality, Role

_PLACEHOLDER: Final = re.compile(r"<(image|video|audio)>")
_ROLES: Final[Mapping[str, Role]] = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
    "system": "system",
}
_NOUNS: Final[Mapping[str, str]] = {"image": "picture", "video": "video", "audio": "recording"}
_DESCRIBE: Final = (
    "Describe the {noun}.",
    "What is in this {noun}?",
    "Say in one sentence what this {noun} is about.",
    "Give a short caption for the {noun}.",
    "What do you make of this {noun}?",
    "Sum up the {noun}.",
    "Tell me what the {noun} contains.",
    "Generate a caption.",
)
_REQUESTS: Final = (
    "Make a {noun}: {caption}",
    "I would like a {noun} of this: {caption}",
    "Please create a {noun}. {caption}",
    'Can you generate a {noun} for "{caption}"?',
    "{caption} Give me that as a {noun}.",
    "Produce a {noun} that fits these words: {caption}",
)
_REPLIES: Final = (
    "Here it is.",
    "Of course.",
    "Here is your {noun}.",
    "Sure, this is the {noun}.",
    "I made this {noun} for you.",
)


class RowError(Exception):
    """Why a row cannot be used."""


@dataclass(frozen=True)
class RowPlace:
    """Where a row stands, and what its names are relative to.

    Args:
        key: file and number, for messages.
        media: folder of media.
        embeddings: folder of caption embeddings; None for captions alone.
        use: what a pair becomes.
        seed: of the wording of a pair.
    """

    key: str
    media: Path
    embeddings: Path | None
    use: Literal["describe", "draw"]
    seed: int

    def file(self, modality: Modality, name: object) -> MediaFile:
        """A medium that must be there.

        Raises:
            RowError: it is not.
        """
        if not isinstance(name, str) or not name:
            raise RowError(f"expected the name of a {modality} file, got {name!r}")
        path = self.media / name
        if not path.is_file():
            raise RowError(f"missing {modality} {name}")
        return MediaFile(modality, path)

    def known_file(self, modality: Modality, name: object) -> MediaFile | None:
        """A true medium of an answer, if it is there; a target does not need it."""
        if isinstance(name, str) and name and (self.media / name).is_file():
            return MediaFile(modality, self.media / name)
        return None

    def embedding(self, name: object) -> Path | None:
        """An embedding that must be there if embeddings are read at all."""
        if self.embeddings is None or name is None:
            return None
        if not isinstance(name, str) or not (self.embeddings / name).is_file():
            raise RowError(f"missing embedding {name}")
        return self.embeddings / name


def read_messages(row: Any, place: RowPlace) -> Sample:
    """A row of our own format."""
    turns: list[Message] = []
    for message in _list(_field(row, "messages"), "messages"):
        role = _role(_field(message, "role"))
        content = _field(message, "content")
        if isinstance(content, str):
            content = [{"type": "text", "text": content}]
        parts = [_own_part(part, role, place) for part in _list(content, "content")]
        turns.append(turn(role, *parts))
    return _sample(turns, place)


def read_conversation(row: Any, place: RowPlace) -> Sample:
    """A row of NExT-GPT's or LLaVA's conversations; placeholders take their media in order."""
    inputs = {m: _names(row, (f"input_{m}", m)) for m in MEDIA_MODALITIES}
    outputs = {m: _names(row, (f"output_{m}",)) for m in MEDIA_MODALITIES}
    captions = {m: _names(row, (f"{m}_captions", f"{m}_caption")) for m in MEDIA_MODALITIES}
    embeddings = {m: _names(row, (f"{m}_caption_embeddings",)) for m in MEDIA_MODALITIES}
    raw = _list(_field(row, "conversations"), "conversations")
    if not any(_PLACEHOLDER.search(str(_field(one, "value"))) for one in raw[:1]):
        raw = _with_placeholders(raw, inputs)
    turns: list[Message] = []
    for one in raw:
        role = _role(_field(one, "from"))
        parts: list[Any] = []
        for piece in _pieces(_field(one, "value")):
            if not isinstance(piece, _Slot):
                parts.append(piece)
            elif role == "user":
                parts.append(place.file(piece.modality, _next(inputs, piece.modality)))
            else:
                modality = piece.modality
                caption = _next(captions, modality, optional=True) or one.get("caption")
                embedding = _next(embeddings, modality, optional=True)
                medium = _next(outputs, modality, optional=True)
                parts.append(_target(modality, caption, embedding, medium, place))
        turns.append(turn(role, *parts))
    for modality, rest in inputs.items():
        if rest:
            raise RowError(f"{len(rest)} {modality} more than <{modality}> in the text")
    return _sample(turns, place)


def read_pair(row: Any, place: RowPlace) -> Sample:
    """A medium and its caption: a question about the medium, or a request to draw it."""
    caption = _caption(_field(row, "caption"))
    names = [(m, row[f"{m}_name"]) for m in MEDIA_MODALITIES if f"{m}_name" in row]
    if len(names) != 1 or caption is None:
        raise RowError("expected one of image_name, video_name and audio_name, and a caption")
    ((modality, name),) = names
    rng = random.Random(place.seed)
    noun = _NOUNS[modality]
    if place.use == "describe":
        question = rng.choice(_DESCRIBE).format(noun=noun)
        medium = place.file(modality, name)
        return _sample([turn("user", medium, question), turn("assistant", caption)], place)
    request = rng.choice(_REQUESTS).format(noun=noun, caption=caption)
    target = _target(modality, caption, f"{name}.npy", name, place)
    reply = rng.choice(_REPLIES).format(noun=noun)
    return _sample([turn("user", request), turn("assistant", reply, target)], place)


def read_swift(row: Any, place: RowPlace) -> Sample:
    """A row of ms-swift: messages with placeholders, media in lists beside them."""
    media = {m: _names(row, (f"{m}s",)) for m in MEDIA_MODALITIES}
    turns: list[Message] = []
    for message in _list(_field(row, "messages"), "messages"):
        role = _role(_field(message, "role"))
        parts: list[Any] = []
        for piece in _pieces(_field(message, "content")):
            if not isinstance(piece, _Slot):
                parts.append(piece)
                continue
            name = _next(media, piece.modality)
            if role == "user":
                parts.append(place.file(piece.modality, name))
            else:
                parts.append(_target(piece.modality, None, None, name, place))
        turns.append(turn(role, *parts))
    return _sample(turns, place)


@dataclass(frozen=True)
class _Slot:
    modality: Modality


def _own_part(part: Any, role: Role, place: RowPlace) -> Any:
    kind = _field(part, "type")
    if kind == "text":
        return str(_field(part, "text"))
    if kind not in MEDIA_MODALITIES:
        raise RowError(f"expected a part of type text, image, video or audio, got {kind!r}")
    modality = cast(Modality, kind)
    if role == "assistant":
        return _target(
            modality, part.get("caption"), part.get("embedding"), part.get("path"), place
        )
    return place.file(modality, _field(part, "path"))


def _target(
    modality: Modality, caption: object, embedding: object, medium: object, place: RowPlace
) -> MediaTarget:
    return MediaTarget(
        modality,
        caption=_caption(caption),
        embedding=place.embedding(embedding),
        medium=place.known_file(modality, medium),
    )


def _sample(turns: Sequence[Message], place: RowPlace) -> Sample:
    roles = [one.role for one in turns if one.role != "system"]
    if not roles or any(role != ("user", "assistant")[n % 2] for n, role in enumerate(roles)):
        raise RowError("expected turns of user and assistant by turns, the user's first")
    if roles[-1] != "assistant":
        raise RowError("expected the assistant's turn last")
    for number, one in enumerate(turns):
        if one.role == "system" and number:
            raise RowError("expected the system's turn first")
        if not one.text.strip() and all(part.modality == "text" for part in one.parts):
            raise RowError("a turn is empty")
    return Sample(tuple(turns), place.key)


def _with_placeholders(raw: list[Any], inputs: Mapping[Modality, list[str]]) -> list[Any]:
    """LLaVA-like rows may name media without saying where they go: before the first question."""
    text = "".join(str(one.get("value")) for one in raw)
    marks = "".join(f"<{m}>" * len(names) for m, names in inputs.items() if f"<{m}>" not in text)
    if not marks or not raw:
        return raw
    return [{**raw[0], "value": f"{marks}{raw[0]['value']}"}, *raw[1:]]


def _pieces(value: object) -> list[str | _Slot]:
    """A text with placeholders, cut at them; blanks at the cuts do not matter."""
    if not isinstance(value, str):
        raise RowError(f"expected a turn's text, got {value!r}")
    pieces: list[str | _Slot] = []
    for number, piece in enumerate(_PLACEHOLDER.split(value)):
        if number % 2:
            pieces.append(_Slot(cast(Modality, piece)))
        elif piece.strip():
            pieces.append(piece.strip())
    return pieces


def _next(
    names: Mapping[Modality, list[str]], modality: Modality, *, optional: bool = False
) -> str | None:
    if names[modality]:
        return names[modality].pop(0)
    if optional:
        return None
    raise RowError(f"more <{modality}> in the text than {modality} files")


def _names(row: Any, keys: Sequence[str]) -> list[str]:
    if not isinstance(row, Mapping):
        raise RowError("expected a JSON object")
    for key in keys:
        value = row.get(key)
        if value is not None:
            return [str(one) for one in value] if isinstance(value, list) else [str(value)]
    return []


def _field(row: Any, key: str) -> Any:
    if not isinstance(row, Mapping) or key not in row:
        raise RowError(f"expected the key {key!r}")
    return row[key]


def _list(value: Any, key: str) -> list[Any]:
    if not isinstance(value, list):
        raise RowError(f"expected a list under {key!r}")
    return value


def _role(name: Any) -> Role:
    if name not in _ROLES:
        raise RowError(f"expected a turn of human, gpt, user, assistant or system, got {name!r}")
    return _ROLES[name]


def _caption(value: object) -> str | None:
    """On one line; None for none."""
    text = " ".join(value.split()) if isinstance(value, str) else ""
    return text or None
