"""A request on its way through the engine's stages, and the media that its reply still wants."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from anyany.bridges import Layout
from anyany.decoders import to_frames, to_pil
from anyany.errors import AnyAnyError, Cancelled, InternalError, ResourceError
from anyany.language import Decoded, Span, TextPiece
from anyany.messages import AudioPart, ImagePart, Modality, Part, VideoPart
from anyany.requests import Event, Request

logger = logging.getLogger(__name__)


@dataclass(eq=False)
class Job:
    """A request on its way."""

    number: int
    request: Request
    started: float
    media: dict[int, Tensor] = field(default_factory=dict)  # projected, [M, D] by index
    layout: Layout | None = None
    prompt: Tensor | None = None  # [T, D]
    decoded: Decoded | None = None
    made: dict[int, Part] = field(default_factory=dict)  # by place among the pieces
    timings: dict[str, float] = field(default_factory=dict)
    missing: int = 0  # spans that are not decoded yet
    dropped: int = 0  # oldest turns
    error: AnyAnyError | None = None
    stopped: bool = False

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Time a stage, and keep a failure to this job."""
        began = time.perf_counter()
        try:
            yield
        except Cancelled:
            self.stopped = True
        except Exception as error:  # it fails this request alone, and says where it broke
            self.error = wrapped(error, name)
        finally:
            spent = time.perf_counter() - began
            self.timings[name] = self.timings.get(name, 0.0) + spent

    @property
    def open(self) -> bool:
        """Whether there is still something to do."""
        return self.error is None and not self.stopped

    def tell(self, event: Event) -> None:
        if self.request.on_event is not None:
            self.request.on_event(event)


@dataclass(frozen=True)
class MediaSpan:
    """A medium that is still to be made: where it stands in its job's reply."""

    job: Job
    modality: Modality
    place: int  # among the reply's pieces
    index: int  # among those of its modality


def wrapped(error: Exception, stage: str) -> AnyAnyError:
    """What a request fails with; the cause of an unexpected failure goes to the log."""
    if isinstance(error, AnyAnyError):
        return error
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return ResourceError(
            f"out of memory in {stage}: shorten the request, lower rows or micro_batch, or "
            "have one part on the device at a time (--residency staged)"
        )
    logger.error("%s failed", stage, exc_info=error)
    told = InternalError(f"{stage} failed unexpectedly ({type(error).__name__}); see the log")
    told.__cause__ = error
    return told


def media_spans(job: Job, modality: Modality) -> list[MediaSpan]:
    """The reply's spans of a modality."""
    pieces = job.decoded.pieces if job.decoded else ()
    spans = [(place, one) for place, one in enumerate(pieces) if isinstance(one, Span)]
    places = [place for place, span in spans if span.modality == modality]
    return [MediaSpan(job, modality, place, index) for index, place in enumerate(places)]


def is_shown(job: Job, piece: TextPiece) -> bool:
    """Whether text of the model becomes a part of the reply."""
    outputs = job.request.outputs
    return bool(piece.text.strip()) and (outputs is None or "text" in outputs)


def part_number(job: Job, place: int) -> int:
    """Which part of the reply the medium at a place among the pieces is."""
    before = job.decoded.pieces[:place] if job.decoded else ()
    return sum(isinstance(piece, Span) or is_shown(job, piece) for piece in before)


def caption_of(job: Job, place: int) -> str:
    """The words before a span in the reply, else the request's own last words."""
    assert job.decoded is not None
    for piece in reversed(job.decoded.pieces[:place]):
        if isinstance(piece, TextPiece) and piece.text.strip():
            return piece.text.strip()
    return job.request.messages[-1].text


def media_part(decoder: Any, media: Tensor) -> Part:
    """What a decoder made, as a part: [1, ...] in its own shape."""
    if decoder.modality == "image":
        return ImagePart(to_pil(media)[0])
    if decoder.modality == "video":
        return VideoPart(to_frames(media)[0], decoder.frames_per_second)
    return AudioPart(media.cpu().numpy(), decoder.sample_rate)
