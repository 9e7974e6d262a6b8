"""The loaded system as a server sees it: what it can do, and the engine that does it."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol, cast

from anyany.errors import AnyAnyError
from anyany.messages import Message, Modality, Reply
from anyany.requests import Request

if TYPE_CHECKING:
    from anyany.system import AnyToAny


class Model(Protocol):
    """What a server needs of a system."""

    name: str
    card: str
    inputs: tuple[Modality, ...]
    outputs: tuple[Modality, ...]
    nests: bool

    def request(self, messages: Sequence[Message], **arguments: Any) -> Request:
        """A checked request. Raises UsageError and its like."""

    def run(
        self, requests: Sequence[Request], more: Callable[[], Iterable[Request]] | None = None
    ) -> Iterator[tuple[int, Reply | AnyAnyError]]:
        """Answers by number, each as soon as there is one; see `scheduler.Runner`."""

    def prompt_tokens(self, messages: Sequence[Message]) -> int:
        """Tokens of a conversation, those of users' media left out."""

    def presets(self) -> dict[str, dict[str, Any]]:
        """Per medium that it makes, the default denoising settings."""

    def describe(self) -> dict[str, Any]:
        """What of it decides bytes; see `batch.Function`."""


class SystemModel:
    """An AnyToAny behind a server.

    Args:
        system: loaded.
    """

    def __init__(self, system: AnyToAny) -> None:
        self.system = system
        self.name = system.config.name
        self.card = system.config.card
        inputs = [m for m in ("image", "video", "audio") if m in system.bridge.modalities]
        self.inputs = cast("tuple[Modality, ...]", ("text", *inputs))
        self.outputs: tuple[Modality, ...] = ("text", *system.decoders)
        # An adapter that follows the decode loop's rows would see two loops at once.
        self.nests = not system.language.adapter.needs_layout
        # A tokenizer is not to be shared with the engine's thread.
        self._tokenizer = copy.deepcopy(system.language.tokenizer)
        self._counting = threading.Lock()
        self._engine = system.engine()

    def request(self, messages: Sequence[Message], **arguments: Any) -> Request:
        """See Model."""
        return self.system.request(list(messages), **arguments)

    def run(
        self, requests: Sequence[Request], more: Callable[[], Iterable[Request]] | None = None
    ) -> Iterator[tuple[int, Reply | AnyAnyError]]:
        """See Model."""
        return self._engine.run(requests, more)

    def prompt_tokens(self, messages: Sequence[Message]) -> int:
        """See Model."""
        from anyany.language.prompts import render

        language = self.system.language
        with self._counting:
            segments = render(
                messages,
                tokenizer=self._tokenizer,
                signals=language.signals,
                style=language.style,
            )
        return sum(len(getattr(segment, "ids", ())) for segment in segments)

    def presets(self) -> dict[str, dict[str, Any]]:
        """See Model."""
        found: dict[str, dict[str, Any]] = {}
        for modality, decoder in self.system.decoders.items():
            preset = decoder.presets.get(None)
            found[modality] = {
                "num_inference_steps": preset.num_inference_steps,
                "guidance_scale": preset.guidance_scale,
                "scheduler": preset.scheduler,
            }
        return found

    def describe(self) -> dict[str, Any]:
        """See Model."""
        from pathlib import Path

        from anyany.batch.functions import SystemFunction

        return SystemFunction(self.system, Path()).describe()
