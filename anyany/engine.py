"""The batch executor: requests -> stages -> micro-batches -> replies.

A window of requests goes through three stages: encode all media, run the language model over all
prompts, decode signal spans, grouped by modality and settings. Spans are decoded as soon as there
are enough alike, and a reply leaves when its last part is made, while others are still written. A
request that cannot be carried out fails alone. API, CLI and server all run through here.

Shapes: T tokens of a prompt, S tokens of a span, D language width.
"""

from __future__ import annotations

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any, Final, Literal

import torch
from torch import Tensor, nn

from anyany.bridges import Bridge, user_media
from anyany.decoders import Condition, OutputProjector, part_generator
from anyany.engine_job import (
    Job,
    MediaSpan,
    caption_of,
    is_shown,
    media_part,
    media_spans,
    part_number,
    wrapped,
)
from anyany.errors import (
    AnyAnyError,
    PromptError,
    ResourceError,
    UsageError,
)
from anyany.language import (
    DecodeRequest,
    Span,
    TextPiece,
    check_request,
    generate_iter,
    without_oldest_turn,
)
from anyany.messages import (
    Message,
    Modality,
    Part,
    Reply,
    TextPart,
)
from anyany.requests import (
    THROUGHPUT_MICRO_BATCH,
    DenoisingStep,
    EngineSettings,
    PartReady,
    Request,
)
from anyany.residency import ENCODERS, LANGUAGE, Residency

WINDOW: Final = 64  # requests whose media and prompts are in memory together


class Engine:
    """Runs requests over one composed model.

    Args:
        bridge: encoders, input projectors, language model.
        decoders: modality -> decoder.
        output_projectors: modality -> output projector, for the decoders' modalities.
        settings: how work shares the machine.
        annotate: adds provenance to a finished part: (request, part, index of its modality).
        residency: moves parts to the device; None = they stay where they are.
    """

    def __init__(
        self,
        bridge: Bridge,
        decoders: Mapping[Modality, Any],
        output_projectors: Mapping[str, nn.Module],
        settings: EngineSettings | None = None,
        annotate: Callable[[Request, Part, int], Part] | None = None,
        residency: Residency | None = None,
    ) -> None:
        self.bridge = bridge
        self.decoders = decoders
        self.output_projectors = output_projectors
        self.settings = settings or EngineSettings()
        self.annotate = annotate
        self.residency = residency or Residency({}, bridge.language.device)

    def run(
        self, requests: Iterable[Request], more: Callable[[], Iterable[Request]] | None = None
    ) -> Iterator[tuple[int, Reply | AnyAnyError]]:
        """Answer requests window by window, in bounded memory.

        Args:
            requests: what there is to do.
            more: asked while the language model has room: requests that came meanwhile. Their
                numbers go on from the last of `requests` that has been taken.

        Yields:
            A request's number and its reply, or the error for which it alone failed, as soon as
            there is one: in order of windows, not of requests.
        """
        numbers = itertools.count()
        coming = iter(requests)
        while window := list(itertools.islice(coming, WINDOW)):
            jobs = [Job(next(numbers), request, time.perf_counter()) for request in window]
            for job in self._finished(jobs, numbers, more):
                yield job.number, job.error or self._reply(job)

    @torch.no_grad()
    def _finished(
        self,
        jobs: Sequence[Job],
        numbers: Iterator[int],
        more: Callable[[], Iterable[Request]] | None,
    ) -> Iterator[Job]:
        """A window's jobs through all stages, each as soon as it has nothing left to do."""
        for job in jobs:
            self._encode(job)
        for job in jobs:
            if job.open:
                self._lay_out(job)
            if not job.open:
                yield job

        def joining() -> Iterator[Job]:
            for request in more() if more else ():
                job = Job(next(numbers), request, time.perf_counter())
                self._encode(job)
                if job.open:
                    self._lay_out(job)
                yield job

        waiting: dict[tuple[Modality, str], list[MediaSpan]] = {}  # spans alike, too few for a call
        for job in self._language([job for job in jobs if job.open], joining if more else None):
            spans = [span for modality in self.decoders for span in media_spans(job, modality)]
            job.missing = len(spans)
            if not (job.open and spans):
                yield job
                continue
            for span in spans:
                alike = (span.modality, repr(job.request.decoding.get(span.modality)))
                waiting.setdefault(alike, []).append(span)
                enough = len(waiting[alike]) >= self._calls_of(span.modality)
                if enough and not self.residency.staged:  # staged: the language model goes first
                    yield from self._decode_group(waiting.pop(alike))
        for group in waiting.values():
            size = self._calls_of(group[0].modality)
            for start in range(0, len(group), size):
                yield from self._decode_group(group[start : start + size])

    def _attempt(self, job: Job, work: Callable[[], None]) -> None:
        """A job's way to its prompt; once more if memory ran out and others can give way."""
        for _ in range(2):
            job.error = None
            with job.stage("encode"):
                work()
            if not isinstance(job.error, ResourceError) or not self.residency.give_way():
                return

    def _encode(self, job: Job) -> None:
        """Media to embeddings."""
        self._attempt(job, lambda: self._read(job, job.request.messages))

    def _read(self, job: Job, messages: Sequence[Message]) -> None:
        self._check_modalities(job.request)
        parts = user_media(messages)
        if parts and self.bridge.reads_instructions:
            self.residency.take(LANGUAGE)
        asked = self.bridge.instructions(messages)
        if parts:
            self.residency.take(ENCODERS)
        job.media = {i: self.bridge.read(part, asked.get(i)) for i, part in parts.items()}

    def _lay_out(self, job: Job) -> None:
        """The whole prompt; without the oldest turns if it is too long and they may go."""
        self._attempt(job, lambda: self._embed(job))

    def _embed(self, job: Job) -> None:
        request, messages = job.request, list(job.request.messages)
        job.dropped = 0
        self.residency.take(LANGUAGE)
        while True:
            try:
                job.layout = self.bridge.layout(messages, job.media)
                job.prompt = self.bridge.embed(job.layout, job.media)
                check_request(self.bridge.language, self._decode_request(job))
                return
            except PromptError:
                budget = self.bridge.language.context_length - request.max_new_tokens
                too_long = job.layout is not None and len(job.layout) > budget
                if request.truncate is None or not too_long:
                    raise
                messages = without_oldest_turn(messages)
                job.dropped += 1
                self._read(job, messages)
                self.residency.take(LANGUAGE)

    def _check_modalities(self, request: Request) -> None:
        wanted = (request.outputs or frozenset()) | set(request.decoding)
        missing = sorted(wanted - {"text"} - set(self.decoders))
        if missing:
            raise UsageError(
                f"expected outputs among text, {', '.join(self.decoders)}; got {missing[0]}: this "
                "system has no decoder for it"
            )

    def _decode_request(self, job: Job) -> DecodeRequest:
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
            visual=job.media,
        )

    def _language(
        self, first: Sequence[Job], joining: Callable[[], Iterator[Job]] | None = None
    ) -> Iterator[Job]:
        """All prompts through the one decode loop; each job when its text and spans are there.

        Args:
            first: jobs whose prompts are laid out.
            joining: gives others while there is room; those that are not open are passed on.
        """
        settings = replace(self.settings.language, batch_invariant=self.settings.batch_invariant)
        jobs, since = list(first), [0.0] * len(first)
        closed: list[Job] = []
        spent, resumed = 0.0, time.perf_counter()
        self.residency.take(LANGUAGE)

        def more() -> Iterator[DecodeRequest]:
            for job in joining() if joining else ():
                if job.open:
                    jobs.append(job)
                    since.append(spent + time.perf_counter() - resumed)
                    yield self._decode_request(job)
                else:
                    closed.append(job)
            self.residency.take(LANGUAGE)

        try:
            answers = generate_iter(
                self.bridge.language,
                [self._decode_request(job) for job in jobs],
                settings,
                more=more if joining else None,
            )
            for index, decoded in answers:
                spent += time.perf_counter() - resumed
                jobs[index].decoded = decoded
                jobs[index].stopped = decoded.finish_reason == "cancelled"
                jobs[index].timings["language"] = spent - since[index]
                yield jobs[index]
                resumed = time.perf_counter()  # what was done with the job is no time of ours
                self.residency.take(LANGUAGE)
        except Exception as error:
            left = [job for job in jobs if job.decoded is None]
            told = wrapped(error, "language")
            if isinstance(told, ResourceError) and self.residency.give_way():
                yield from self._language(left)
            elif len(jobs) == 1:
                left[0].error = told
                yield left[0]
            else:
                for job in left:  # one of them is to blame: each alone
                    yield from self._language([job])
        yield from closed

    def _calls_of(self, modality: Modality) -> int:
        """Parts of a decoder call: in invariant mode the device's fixed number."""
        fixed = int(self.decoders[modality].micro_batch)
        own = fixed if self.settings.batch_invariant else THROUGHPUT_MICRO_BATCH
        return self.settings.micro_batch or own

    def _decode_group(self, spans: Sequence[MediaSpan]) -> Iterator[Job]:
        """Spans alike through their decoder; the jobs that are finished by it."""
        group = [span for span in spans if span.job.open]
        if group:
            self._decode(group)
        for job in dict.fromkeys(span.job for span in spans):
            job.missing -= sum(span.job is job for span in spans)
            if job.missing == 0:
                yield job

    def _decode(self, group: Sequence[MediaSpan]) -> None:
        """One decoder call; fewer at a time if memory runs out and neighbours may matter."""
        self._call(group)
        first = group[0].job
        if isinstance(first.error, ResourceError) and self.residency.give_way():
            for job in {span.job for span in group}:
                job.error = None
            self._call(group)
        tight = isinstance(first.error, ResourceError) and not self.settings.batch_invariant
        if tight and len(group) > 1:
            for job in {span.job for span in group}:
                job.error = None
            middle = len(group) // 2
            for half in (group[:middle], group[middle:]):
                self._decode(half)

    def _call(self, group: Sequence[MediaSpan]) -> None:
        first, modality = group[0].job, group[0].modality
        decoder = self.decoders[modality]
        overrides = dict(first.request.decoding.get(modality, {}))
        steps = decoder.run_settings(overrides).num_inference_steps

        def callback(step: int, timestep: int, latents: Tensor) -> None:
            for span in group:
                span.job.tell(DenoisingStep(modality, span.index, step + 1, steps))
            self.residency.take(modality)  # others may have been at work meanwhile

        def cancelled() -> bool:
            return len(group) == 1 and bool(first.request.cancelled and first.request.cancelled())

        with first.stage(f"decode.{modality}"):
            self.residency.take(modality)
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
                part = media_part(decoder, media[row : row + 1])
                part = self.annotate(job.request, part, span.index) if self.annotate else part
                job.made[span.place] = part
                job.tell(PartReady(part, part_number(job, span.place)))
        for span in group[1:]:  # they share the fate and the time of their micro-batch
            span.job.error = first.error
            span.job.timings[f"decode.{modality}"] = first.timings[f"decode.{modality}"]

    def _condition(self, job: Job, place: int, modality: Modality) -> Condition:
        assert job.decoded is not None
        span = job.decoded.pieces[place]
        assert isinstance(span, Span)
        if job.request.condition == "caption":
            said: Condition = self.decoders[modality].encode_captions([caption_of(job, place)])
            return said
        projector = self.output_projectors[modality]
        assert isinstance(projector, OutputProjector)
        signal_hidden = (span.hidden + span.embeddings)[None]  # [1, S, D]
        dtype = next(projector.parameters()).dtype
        told: Condition = projector(signal_hidden.to(dtype))
        return told

    def _reply(self, job: Job) -> Reply:
        request, decoded = job.request, job.decoded
        pieces = decoded.pieces if decoded else ()
        parts: list[Part] = []
        for place, piece in enumerate(pieces):
            if place in job.made:
                parts.append(job.made[place])
            elif isinstance(piece, TextPiece) and is_shown(job, piece):
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
            dropped_turns=job.dropped,
        )
