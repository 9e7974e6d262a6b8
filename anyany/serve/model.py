"""The loaded system as a server sees it: what it can do, and the engine that does it."""

from __future__ import annotations

import copy
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, cast

from anyany.arguments import make_request
from anyany.batch.functions import SystemFunction
from anyany.errors import AnyAnyError
from anyany.language import PromptStyle, SignalSpec
from anyany.language.prompts import render
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

    def notice(self) -> None:
        """There is a request that could join a call; from any thread."""

    def prompt_tokens(self, messages: Sequence[Message]) -> int:
        """Tokens of a conversation, those of users' media left out."""

    def presets(self) -> dict[str, dict[str, Any]]:
        """Per medium that it makes, the default denoising settings."""

    def describe(self) -> dict[str, Any]:
        """What of it decides bytes; see `batch.Function`."""


@dataclass(frozen=True)
class ModelFacts:
    """What a server must know of a system to check requests; it pickles.

    Args:
        name: of the system.
        card: its licence and limits.
        inputs: modalities that it takes.
        outputs: modalities that it makes, text first.
        nests: text may be answered while a medium is decoded.
        presets: see Model.
        description: see Model.
        tokenizer: a copy, for counting.
        signals: the signal tokens.
        style: of prompts.
    """

    name: str
    card: str
    inputs: tuple[Modality, ...]
    outputs: tuple[Modality, ...]
    nests: bool
    presets: dict[str, dict[str, Any]]
    description: dict[str, Any]
    tokenizer: Any
    signals: SignalSpec
    style: PromptStyle


def facts_of(system: AnyToAny) -> ModelFacts:
    """The facts of a loaded system."""
    inputs = [m for m in ("image", "video", "audio") if m in system.bridge.modalities]
    presets: dict[str, dict[str, Any]] = {}
    for modality, decoder in system.decoders.items():
        preset = decoder.presets.get(None)
        presets[modality] = {
            "num_inference_steps": preset.num_inference_steps,
            "guidance_scale": preset.guidance_scale,
            "scheduler": preset.scheduler,
        }
    language = system.language
    return ModelFacts(
        name=system.config.name,
        card=system.config.card,
        inputs=cast("tuple[Modality, ...]", ("text", *inputs)),
        outputs=("text", *system.decoders),
        # An adapter that follows the decode loop's rows would see two loops at once.
        nests=not language.adapter.needs_layout,
        presets=presets,
        description=SystemFunction(system, Path()).describe(),
        # A tokenizer is not to be shared with the engine's thread.
        tokenizer=copy.deepcopy(language.tokenizer),
        signals=language.signals,
        style=language.style,
    )


class KnownModel:
    """All of Model that facts can answer; whoever runs requests extends it.

    Args:
        facts: of the system.
    """

    def __init__(self, facts: ModelFacts) -> None:
        self.facts = facts
        self.name = facts.name
        self.card = facts.card
        self.inputs = facts.inputs
        self.outputs = facts.outputs
        self.nests = facts.nests
        self._counting = threading.Lock()

    def request(self, messages: Sequence[Message], **arguments: Any) -> Request:
        """See Model."""
        decoders: dict[Modality, Any] = dict.fromkeys(self.outputs[1:])
        return make_request(decoders, list(messages), **arguments)

    def prompt_tokens(self, messages: Sequence[Message]) -> int:
        """See Model."""
        facts = self.facts
        with self._counting:
            segments = render(
                messages, tokenizer=facts.tokenizer, signals=facts.signals, style=facts.style
            )
        return sum(len(getattr(segment, "ids", ())) for segment in segments)

    def presets(self) -> dict[str, dict[str, Any]]:
        """See Model."""
        return self.facts.presets

    def describe(self) -> dict[str, Any]:
        """See Model."""
        return self.facts.description


class SystemModel(KnownModel):
    """An AnyToAny in the server's own process.

    Args:
        system: loaded.
    """

    def __init__(self, system: AnyToAny) -> None:
        super().__init__(facts_of(system))
        self._engine = system.engine()

    def notice(self) -> None:
        """See Model: its engine asks anyway."""

    def run(
        self, requests: Sequence[Request], more: Callable[[], Iterable[Request]] | None = None
    ) -> Iterator[tuple[int, Reply | AnyAnyError]]:
        """See Model."""
        return self._engine.run(requests, more)
