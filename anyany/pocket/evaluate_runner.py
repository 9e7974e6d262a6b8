"""The system under evaluation, set up for throughput, and its two ways to media.

Directly, a decoder is told captions by its own text encoder; through the whole chain, the system
answers a request.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, cast

from anyany.decoders import part_generator
from anyany.language import DecodeSettings
from anyany.pocket.evaluate_cases import Case, Split, draw_cases
from anyany.pocket.evaluate_kinds import Kind, Medium
from anyany.requests import EngineSettings
from anyany.system import AnyToAny

if TYPE_CHECKING:
    from anyany.messages import Reply
    from anyany.pocket.evaluate import EvaluationConfig

Progress: TypeAlias = Callable[[str, int, int], None]  # (row, done, of)


class Runner:
    """A system with an evaluation's settings.

    Bytes may depend on neighbours here (`batch_invariant=False`), which the results record.

    Args:
        model: the system.
        config: what is measured.
        progress: told after every batch.
    """

    def __init__(self, model: AnyToAny, config: EvaluationConfig, progress: Progress) -> None:
        self.config = config
        self.progress = progress
        settings = EngineSettings(
            language=DecodeSettings(rows=config.micro_batch, batch_invariant=False),
            batch_invariant=False,
            micro_batch=config.micro_batch,
        )
        self.model = AnyToAny(
            model.config,
            model.bridge,
            model.decoders,
            cast("Mapping[str, Any]", model.output_projectors),
            settings=settings,
            folder=model.folder,
        )

    @property
    def split(self) -> Split:
        return self.config.split

    def number(self, kind: Kind) -> int:
        """Items of a row in which media of a kind are made."""
        few = self.config.num_video if kind.modality == "video" else None
        return few or self.config.num_items

    def decoder(self, kind: Kind) -> Any:
        return self.model.decoders[kind.modality]

    def draw_cases(self, kind: Kind) -> list[Case]:
        return draw_cases(kind, self.number(kind), self.split, self.config.seed)

    def draw_direct(self, kind: Kind, name: str, preset: str | None) -> list[Medium]:
        """Media of the draw cases from the decoder's own text encoder."""
        cases, size = self.draw_cases(kind), self.config.micro_batch
        decoder = self.decoder(kind)
        made: list[Medium] = []
        for start in range(0, len(cases), size):
            batch = cases[start : start + size]
            made += kind.media(
                decoder.decode_batch(
                    decoder.encode_captions([case.words for case in batch]),
                    [part_generator(case.seed, kind.modality, 0) for case in batch],
                    batch_invariant=False,
                    micro_batch=len(batch),
                    settings=preset,
                )
            )
            self.progress(name, len(made), len(cases))
        return made

    def answer(
        self, name: str, requests: Sequence[Mapping[str, Any]], *, makes: Kind | None = None
    ) -> list[Reply]:
        """Replies of the whole system: words and one medium of a kind, or words alone."""
        outputs = {"text"} if makes is None else {"text", makes.modality}
        replies: list[Reply] = []
        for reply in self.model.generate_batch(requests, outputs=outputs):
            replies.append(cast("Reply", reply))
            self.progress(name, len(replies), len(requests))
        return replies


def first_medium(kind: Kind, reply: Reply) -> Medium:
    """The first medium of a kind in a reply."""
    return kind.medium(next(part for part in reply.parts if part.modality == kind.modality))
