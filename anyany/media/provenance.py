"""The record inside every file that anyany writes: what made it, and from what.

It holds all that is needed to make the file again on the same machine and versions, and nothing
that tells where or when it was made: no path, host, user or time.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Final, Literal, TypeAlias

import numpy as np
import numpy.typing as npt

from anyany.config import from_dict, to_dict
from anyany.errors import ConfigError, MediaError, UsageError

AI_MARK: Final = "AI-generated with anyany"
FORMAT_VERSION: Final = 1
MAX_RECORD_BYTES: Final = 2**20

Made: TypeAlias = Literal["image", "video", "audio"]

_SHA256: Final = re.compile(r"[0-9a-f]{64}")
_ROOTED: Final = re.compile(r"[/\\~]|\.\.?[/\\]|[A-Za-z]:[/\\]")
REDACTED: Final = "[redacted]"


@dataclass(frozen=True)
class InputRecord:
    """A media file that was part of the request.

    Args:
        modality: what it was read as.
        sha256: of its content as `content_sha256` defines it.
    """

    modality: Made
    sha256: str


@dataclass(frozen=True)
class Provenance:
    """How a file was made.

    Args:
        model: the model's name, never a path.
        model_sha256: of its weights.
        config_sha256: of its configuration.
        seed: the resolved seed of the request.
        modality: of this part of the reply.
        index: of this part among the reply's parts of its modality.
        prompt: the last text that asked for it; None if redacted.
        inputs: the request's media, in order.
        versions: of anyany, torch, diffusers, transformers, python.
        settings: everything else that decides bytes: steps, guidance, scheduler, outputs,
            max_new_tokens, micro_batch, threads, device, dtype, batch_invariant, ...
        request: the chat to send again: turns {"role", "content"} whose parts are
            {"type": "text", "text"} or {"type": modality, "sha256"}.
        ai_generated: the mark that readers and platforms look for.
        format_version: of this record.

    Raises:
        UsageError: a hash, seed or name is malformed, or a value is not plain JSON.
    """

    model: str
    model_sha256: str
    config_sha256: str
    seed: int
    modality: Made
    index: int
    prompt: str | None
    inputs: tuple[InputRecord, ...]
    versions: Mapping[str, str]
    settings: Mapping[str, Any]
    request: Sequence[Mapping[str, Any]]
    ai_generated: Literal[True] = True
    format_version: Literal[1] = FORMAT_VERSION

    def __post_init__(self) -> None:
        hashes = [self.model_sha256, self.config_sha256, *(item.sha256 for item in self.inputs)]
        for value in hashes:
            if not _SHA256.fullmatch(value):
                raise UsageError("expected SHA-256 sums of 64 hexadecimal digits in provenance")
        if _ROOTED.match(self.model):
            raise UsageError("expected the model's name in provenance, got a path")
        if self.seed < 0 or self.index < 0:
            raise UsageError("expected seed and index of provenance to be 0 or more")
        for name in ("versions", "settings", "request"):
            object.__setattr__(self, name, _plain_json(getattr(self, name)))
        if not all(_is_turn(turn) for turn in self.request):
            raise UsageError(
                'expected the request of provenance as turns {"role", "content"}, the content '
                'text or a list of parts with a "type"'
            )

    def redacted(self) -> Provenance:
        """The same record without a word of the request's text; `repro` cannot use it."""
        request = [{**turn, "content": _redact(turn["content"])} for turn in self.request]
        return replace(self, prompt=None, request=request, settings=_redact_said(self.settings))

    def to_json(self) -> str:
        """The record as one line of ASCII, the same for equal records."""
        return json.dumps(
            to_dict(self), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
        )

    @classmethod
    def from_json(cls, text: str | bytes, *, source: str = "the record") -> Provenance:
        """Read a record back.

        Args:
            text: what `to_json` wrote.
            source: what to call its origin in errors.

        Raises:
            MediaError: ("corrupt") it is no such record.
        """
        if len(text) > MAX_RECORD_BYTES:
            raise MediaError("corrupt", f"{source}: the provenance record is too long")
        try:
            return from_dict(json.loads(text), cls, source=source)
        except (ConfigError, UsageError, ValueError, RecursionError):
            raise MediaError("corrupt", f"{source}: the provenance record is malformed") from None


def content_sha256(modality: Made, content: npt.NDArray[Any], rate: float | None = None) -> str:
    """Hash decoded media, so that the same picture counts as the same whatever file holds it.

    Args:
        modality: "image", "video" or "audio".
        content: uint8 [H, W, 3], uint8 [F, H, W, 3] or float32 [channels, samples].
        rate: frames per second or Hz; None for a picture.
    """
    header = json.dumps([modality, content.dtype.str, list(content.shape), rate])
    digest = hashlib.sha256(header.encode())
    digest.update(np.ascontiguousarray(content).data)
    return digest.hexdigest()


def _redact(content: Any) -> Any:
    if isinstance(content, str):
        return REDACTED
    return [{**part, "text": REDACTED} if "text" in part else part for part in content]


def _redact_said(settings: Any) -> Any:
    """Settings without the texts among them: prompts, and what media were steered away from."""
    if not isinstance(settings, Mapping):
        return settings
    return {
        name: REDACTED if "prompt" in name or name == "negative" else _redact_said(value)
        for name, value in settings.items()
    }


def _plain_json(value: Any) -> Any:
    try:
        return json.loads(json.dumps(value, allow_nan=False))
    except (TypeError, ValueError, RecursionError):
        raise UsageError("expected plain, finite JSON values in provenance") from None


def _is_turn(turn: Any) -> bool:
    if not isinstance(turn, dict) or set(turn) != {"role", "content"}:
        return False
    content = turn["content"]
    if isinstance(content, str):
        return True
    return isinstance(content, list) and all(
        isinstance(part, dict) and isinstance(part.get("type"), str) for part in content
    )
