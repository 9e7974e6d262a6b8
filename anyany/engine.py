"""The batch executor: requests -> stages -> micro-batches -> replies.

A window of requests goes through three stages: encode all media, run the language model over all
prompts, decode signal spans, grouped by modality and settings. Spans are decoded as soon as there
are enough alike, and a reply leaves when its last part is made, while others are still written. A
request that cannot be carried out fails alone. API, CLI and server all run through here.

Shapes: T tokens of a prompt, S tokens of a span, D language width.
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from anyany.bridges import Bridge, Layout, user_media
from anyany.decoders import Condition, OutputProjector, part_generator, to_frames, to_pil
from anyany.errors import (
    AnyAnyError,
    Cancelled,
    InternalError,
    PromptError,
    ResourceError,
    UsageError,
)
from anyany.language import (
    Decoded,
    DecodeRequest,
    Span,
    TextPiece,
    check_request,
    generate_iter,
    without_oldest_turn,
)
from anyany.messages import (
    AudioPart,
    ImagePart,
    Message,
    Modality,
    Part,
    Reply,
    TextPart,
    VideoPart,
)
from anyany.requests import (
    THROUGHPUT_MICRO_BATCH,
    DenoisingStep,
    EngineSettings,
    Event,
    PartReady,
    Request,
)

logger = logging.getLogger(__name__)

WINDOW: Final = 64  # requests whose media and prompts are in memory together


@dataclass(eq=False)
class _Job:
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
            self.error = _wrapped(error, name)
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
class _Span:
    """A medium that is still to be made: where it stands in its job's reply."""

    job: _Job
    modality: Modality
    place: int  # among the reply's pieces
    index: int  # among those of its modality


class Engine:
    """Runs requests over one composed model.

    Args:
        bridge: encoders, input projectors, language model.
        decoders: modality -> decoder.
        output_projectors: modality -> output projector, for the decoders' modalities.
        settings: how work shares the machine.
        annotate: adds provenance to a finished part: (request, part, index of its modality).
    """

    def __init__(
        self,
        bridge: Bridge,
        decoders: Mapping[Modality, Any],
        output_projectors: Mapping[str, nn.Module],
        settings: EngineSettings | None = None,
        annotate: Callable[[Request, Part, int], Part] | None = None,
    ) -> None:
        self.bridge = bridge
        self.decoders = decoders
        self.output_projectors = output_projectors
        self.settings = settings or EngineSettings()
        self.annotate = annotate

    def run(self, requests: Iterable[Request]) -> Iterator[tuple[int, Reply | AnyAnyError]]:
        """Answer requests window by window, in bounded memory.

        Yields:
            A request's number and its reply, or the error for which it alone failed, as soon as
            there is one: in order of windows, not of requests.
        """
        numbered = enumerate(requests)
        while window := list(itertools.islice(numbered, WINDOW)):
            jobs = [_Job(n, request, time.perf_counter()) for n, request in window]
            for job in self._finished(jobs):
                yield job.number, job.error or self._reply(job)

    @torch.no_grad()
    def _finished(self, jobs: Sequence[_Job]) -> Iterator[_Job]:
        """A window's jobs through all stages, each as soon as it has nothing left to do."""
        for job in jobs:
            self._encode(job)
            if not job.open:
                yield job
        waiting: dict[tuple[Modality, str], list[_Span]] = {}  # spans alike, too few for a call
        for job in self._language([job for job in jobs if job.open]):
            spans = [span for modality in self.decoders for span in _spans(job, modality)]
            job.missing = len(spans)
            if not (job.open and spans):
                yield job
                continue
            for span in spans:
                alike = (span.modality, repr(job.request.decoding.get(span.modality)))
                waiting.setdefault(alike, []).append(span)
                if len(waiting[alike]) >= self._calls_of(span.modality):
                    yield from self._decode_group(waiting.pop(alike))
        for group in waiting.values():
            yield from self._decode_group(group)

    def _encode(self, job: _Job) -> None:
        """Media to embeddings, and the whole prompt."""
        with job.stage("encode"):
            request = job.request
            self._check_modalities(request)
            messages = list(request.messages)
            while True:
                try:
                    self._lay_out(job, messages)
                    check_request(self.bridge.language, self._decode_request(job))
                    return
                except PromptError:
                    budget = self.bridge.language.context_length - request.max_new_tokens
                    too_long = job.layout is not None and len(job.layout) > budget
                    if request.truncate is None or not too_long:
                        raise
                    messages = without_oldest_turn(messages)

    def _lay_out(self, job: _Job, messages: Sequence[Message]) -> None:
        parts = user_media(messages)
        job.media = {
            index: self.bridge.project(self.bridge.encode(self.bridge.prepare(part)))
            for index, part in parts.items()
        }
        job.layout = self.bridge.layout(messages, job.media)
        job.prompt = self.bridge.embed(job.layout, job.media)

    def _check_modalities(self, request: Request) -> None:
        wanted = (request.outputs or frozenset()) | set(request.decoding)
        missing = sorted(wanted - {"text"} - set(self.decoders))
        if missing:
            raise UsageError(
                f"expected outputs among text, {', '.join(self.decoders)}; got {missing[0]}: this "
                "system has no decoder for it"
            )

    def _decode_request(self, job: _Job) -> DecodeRequest:
        request = job.request
        assert job.prompt is not None
        return DecodeRequest(
            job.prompt,
            request.outputs,
            request.max_new_tokens,
            request.sampling,
            on_event=request.on_event,
            cancelled=request.cancelled,
            layout=job.layout,
        )

    def _language(self, jobs: Sequence[_Job]) -> Iterator[_Job]:
        """All prompts through the one decode loop; each job when its text and spans are there."""
        settings = replace(self.settings.language, batch_invariant=self.settings.batch_invariant)
        spent, resumed = 0.0, time.perf_counter()
        try:
            answers = generate_iter(
                self.bridge.language, [self._decode_request(job) for job in jobs], settings
            )
            for index, decoded in answers:
                spent += time.perf_counter() - resumed
                jobs[index].decoded = decoded
                jobs[index].stopped = decoded.finish_reason == "cancelled"
                jobs[index].timings["language"] = spent
                yield jobs[index]
                resumed = time.perf_counter()  # what was done with the job is no time of ours
        except Exception as error:
            left = [job for job in jobs if job.decoded is None]
            if len(jobs) == 1:
                left[0].error = _wrapped(error, "language")
                yield left[0]
                return
            for job in left:  # one of them is to blame: each alone
                yield from self._language([job])

    def _calls_of(self, modality: Modality) -> int:
        """Parts of a decoder call: in invariant mode the device's fixed number."""
        fixed = int(self.decoders[modality].micro_batch)
        own = fixed if self.settings.batch_invariant else THROUGHPUT_MICRO_BATCH
        return self.settings.micro_batch or own

    def _decode_group(self, spans: Sequence[_Span]) -> Iterator[_Job]:
        """Spans alike through their decoder; the jobs that are finished by it."""
        group = [span for span in spans if span.job.open]
        if group:
            self._decode(group)
        for job in dict.fromkeys(span.job for span in spans):
            job.missing -= sum(span.job is job for span in spans)
            if job.missing == 0:
                yield job

    def _decode(self, group: Sequence[_Span]) -> None:
        """One decoder call; fewer at a time if memory runs out and neighbours may matter."""
        self._call(group)
        first = group[0].job
        tight = isinstance(first.error, ResourceError) and not self.settings.batch_invariant
        if tight and len(group) > 1:
            for job in {span.job for span in group}:
                job.error = None
            middle = len(group) // 2
            for half in (group[:middle], group[middle:]):
                self._decode(half)

    def _call(self, group: Sequence[_Span]) -> None:
        first, modality = group[0].job, group[0].modality
        decoder = self.decoders[modality]
        overrides = dict(first.request.decoding.get(modality, {}))
        steps = decoder.run_settings(overrides).num_inference_steps

        def callback(step: int, timestep: int, latents: Tensor) -> None:
            for span in group:
                span.job.tell(DenoisingStep(modality, span.index, step + 1, steps))

        def cancelled() -> bool:
            return len(group) == 1 and bool(first.request.cancelled and first.request.cancelled())

        with first.stage(f"decode.{modality}"):
            conditions = [self._condition(span.job, span.place, modality) for span in group]
            media = decoder.decode_batch(
                Condition.stack(conditions),
                [part_generator(span.job.request.seed, modality, span.index) for span in group],
                batch_invariant=self.settings.batch_invariant,
                micro_batch=self.settings.micro_batch
                or (None if self.settings.batch_invariant else len(group)),
                callback=callback,
                cancel=cancelled,
                **overrides,
            )
            for row, span in enumerate(group):
                job = span.job
                part = _media_part(decoder, media[row : row + 1])
                part = self.annotate(job.request, part, span.index) if self.annotate else part
                job.made[span.place] = part
                job.tell(PartReady(part, _part_number(job, span.place)))
        for span in group[1:]:  # they share the fate and the time of their micro-batch
            span.job.error = first.error
            span.job.timings[f"decode.{modality}"] = first.timings[f"decode.{modality}"]

    def _condition(self, job: _Job, place: int, modality: Modality) -> Condition:
        assert job.decoded is not None
        span = job.decoded.pieces[place]
        assert isinstance(span, Span)
        if job.request.condition == "caption":
            said: Condition = self.decoders[modality].encode_captions([_caption(job, place)])
            return said
        projector = self.output_projectors[modality]
        assert isinstance(projector, OutputProjector)
        signal_hidden = (span.hidden + span.embeddings)[None]  # [1, S, D]
        dtype = next(projector.parameters()).dtype
        told: Condition = projector(signal_hidden.to(dtype))
        return told

    def _reply(self, job: _Job) -> Reply:
        request, decoded = job.request, job.decoded
        pieces = decoded.pieces if decoded else ()
        parts: list[Part] = []
        for place, piece in enumerate(pieces):
            if place in job.made:
                parts.append(job.made[place])
            elif isinstance(piece, TextPiece) and _is_shown(job, piece):
                parts.append(TextPart(piece.text.strip()))
        reason: Literal["stop", "length", "cancelled"] = (
            "cancelled" if job.stopped or decoded is None else decoded.finish_reason
        )
        timings = {**job.timings, "total": time.perf_counter() - job.started}
        return Reply(
            tuple(parts),
            raw_text=decoded.text.strip() if decoded else "",
            seed=request.seed,
            timings=timings,
            token_ids=decoded.token_ids if decoded else (),
            finish_reason=reason,
        )


def _wrapped(error: Exception, stage: str) -> AnyAnyError:
    """What a request fails with; the cause of an unexpected failure goes to the log."""
    if isinstance(error, AnyAnyError):
        return error
    if isinstance(error, torch.OutOfMemoryError | MemoryError):
        return ResourceError(
            f"out of memory in {stage}: shorten the request, or lower rows or micro_batch"
        )
    logger.error("%s failed", stage, exc_info=error)
    told = InternalError(f"{stage} failed unexpectedly ({type(error).__name__}); see the log")
    told.__cause__ = error
    return told


def _spans(job: _Job, modality: Modality) -> list[_Span]:
    """The reply's spans of a modality."""
    pieces = job.decoded.pieces if job.decoded else ()
    spans = [(place, one) for place, one in enumerate(pieces) if isinstance(one, Span)]
    places = [place for place, span in spans if span.modality == modality]
    return [_Span(job, modality, place, index) for index, place in enumerate(places)]


def _is_shown(job: _Job, piece: TextPiece) -> bool:
    """Whether text of the model becomes a part of the reply."""
    outputs = job.request.outputs
    return bool(piece.text.strip()) and (outputs is None or "text" in outputs)


def _part_number(job: _Job, place: int) -> int:
    """Which part of the reply the medium at a place among the pieces is."""
    before = job.decoded.pieces[:place] if job.decoded else ()
    return sum(isinstance(piece, Span) or _is_shown(job, piece) for piece in before)


def _caption(job: _Job, place: int) -> str:
    """The words before a span in the reply, else the request's own last words."""
    assert job.decoded is not None
    for piece in reversed(job.decoded.pieces[:place]):
        if isinstance(piece, TextPiece) and piece.text.strip():
            return piece.text.strip()
    return job.request.messages[-1].text


def _media_part(decoder: Any, media: Tensor) -> Part:
    """What a decoder made, as a part: [1, ...] in its own shape."""
    if decoder.modality == "image":
        return ImagePart(to_pil(media)[0])
    if decoder.modality == "video":
        return VideoPart(to_frames(media)[0], decoder.frames_per_second)
    return AudioPart(media.cpu().numpy(), decoder.sample_rate)
