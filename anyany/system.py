"""AnyToAny: the composed model and its public face.

model = AnyToAny.from_pretrained("pocket")
reply = model.generate(["what is this?", Image.open("bell.png")], outputs={"text"}, seed=7)
for reply in model.generate_batch(requests): ...
"""

from __future__ import annotations

import functools
import itertools
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final, Literal, Self, cast

import torch
from torch import nn

from anyany import dummy, system_files
from anyany.arguments import DEFAULT_MAX_NEW_TOKENS, make_request
from anyany.bridges import Bridge
from anyany.decoders import OutputProjector
from anyany.devices import find_device
from anyany.engine import WINDOW, Engine
from anyany.errors import AnyAnyError, CheckpointError, UsageError
from anyany.language import LanguageModel
from anyany.media import Provenance
from anyany.messages import MediaPart, Modality, Part, Reply
from anyany.parameters import count_parameters
from anyany.pipeline_style import pipeline_prompts, pipeline_record
from anyany.records import RecordContext, make_record, request_from_record
from anyany.requests import ConditionSource, EngineSettings, Event, Request
from anyany.residency import ResidencyKind, residency_of
from anyany.system_config import SystemConfig
from anyany.weights import weights_sha256

CPU_THREADS: Final = 2  # part of an output's identity: one thread and two never agree to the bit


class AnyToAny:
    """Any mix of text, images, video and audio in; any mix of them out.

    Build one with `from_pretrained`, or from parts.

    Args:
        config: what it is made of.
        bridge: encoders, input projectors and language model.
        decoders: modality -> decoder.
        output_projectors: modality -> output projector.
        settings: how work shares the machine.
        folder: where it was loaded from, if anywhere.
        home: the device that computes, where the parts are not there.
    """

    def __init__(
        self,
        config: SystemConfig,
        bridge: Bridge,
        decoders: Mapping[Modality, Any],
        output_projectors: Mapping[str, OutputProjector],
        *,
        settings: EngineSettings | None = None,
        folder: Path | None = None,
        home: torch.device | None = None,
    ) -> None:
        self.config = config
        self.bridge = bridge
        self.decoders = dict(decoders)
        self.output_projectors = nn.ModuleDict(dict(output_projectors))
        self.settings = settings or EngineSettings()
        self.folder = folder
        self.residency = residency_of(
            bridge, decoders, output_projectors, home or self.device, self.settings.residency
        )
        for module in (self.bridge, self.output_projectors):
            module.eval()

    @classmethod
    def from_pretrained(
        cls,
        source: str | Path,
        *,
        dtype: str | None = None,
        device: str = "auto",
        quantization: str | None = None,
        revision: str | None = None,
        batch_invariant: bool = True,
        residency: ResidencyKind = "resident",
        threads: int | None = CPU_THREADS,
        settings: EngineSettings | None = None,
        weights: Literal["dummy"] | None = None,
    ) -> Self:
        """Load a system.

        Args:
            source: "pocket"; a folder written by `save_pretrained`; or a Hub repository of one.
            dtype: float32, bfloat16 or float16; None = float32 on the CPU, else bfloat16.
            device: where to run; "auto" takes CUDA if it is there.
            quantization: int8 or nf4 for the language model (needs bitsandbytes).
            revision: of a Hub repository.
            batch_invariant: bytes do not depend on neighbours; see EngineSettings.
            residency: "staged" has the part at work alone on the device; see EngineSettings.
            threads: of torch on the CPU, set for the process; None leaves them as they are.
            settings: how work shares the machine; overrides `batch_invariant` and `residency`.
            weights: "dummy" builds `source` (also a system's YAML) with random weights, to measure.

        Raises:
            CheckpointError: weights are missing, torn, refused or do not fit.
            ConfigError: the configuration is wrong.
        """
        if weights not in (None, "dummy") or (weights and quantization):
            raise UsageError('weights: expected "dummy", without quantization, or none')
        if residency not in ("resident", "staged"):
            raise UsageError(f'residency: expected "resident" or "staged"; got {residency!r}')
        if quantization and (settings.residency if settings else residency) == "staged":
            raise UsageError("expected quantization or staged residency: such weights cannot move")
        folder = None if weights else system_files.find(source, revision=revision)
        place = find_device(device)
        if place.type == "cpu" and threads is not None:
            torch.set_num_threads(threads)
        dtype = dtype or ("float32" if place.type == "cpu" else "bfloat16")
        settings = settings or EngineSettings(batch_invariant=batch_invariant, residency=residency)
        rest = torch.device("cpu") if settings.residency == "staged" else place
        if folder is None:
            parts = dummy.build_dummy(*dummy.read_sizes(source), device=rest, dtype=dtype)
            return cls._of(parts, settings, None, place)
        parts = system_files.load(folder, dtype=dtype, device=rest, quantization=quantization)
        return cls._of(parts, settings, folder, place)

    @classmethod
    def from_config(
        cls, config: SystemConfig, *, device: str = "meta", dtype: str = "float32", seed: int = 0
    ) -> Self:
        """Build a system with random weights, or with none on "meta", to count and to measure."""
        place = torch.device(device) if device == "meta" else find_device(device)
        parts = dummy.build_dummy(config, device=place, dtype=dtype, seed=seed)
        return cls._of(parts, None, None)

    @classmethod
    def _of(
        cls,
        parts: system_files.Parts,
        settings: EngineSettings | None,
        folder: Path | None,
        home: torch.device | None = None,
    ) -> Self:
        made = (parts.config, parts.bridge, parts.decoders, parts.output_projectors)
        return cls(*made, settings=settings, folder=folder, home=home)

    def save_pretrained(self, folder: str | Path) -> Path:
        """Write the system: config.json, tuned parts, frozen components, and a manifest of sums.

        Raises:
            ResourceError: the disk is full.
        """
        return system_files.save(
            Path(folder),
            config=self.config,
            bridge=self.bridge,
            decoders=self.decoders,
            output_projectors=self.output_projectors,
            source=self.folder,
        )

    @property
    def language(self) -> LanguageModel:
        """The language model."""
        return self.bridge.language

    @property
    def device(self) -> torch.device:
        """Where the language model is."""
        return self.language.device

    def num_parameters(self) -> dict[str, int]:
        """Parameters per part."""
        return count_parameters(self.bridge, self.decoders, self.output_projectors)

    def generate(
        self,
        prompt: object,
        *,
        outputs: Iterable[Modality] | None = None,
        modalities: Iterable[Modality] | None = None,
        seed: int | None = None,
        max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS,
        temperature: float = 0.0,
        top_k: int = 0,
        top_p: float = 1.0,
        condition: ConditionSource = "signal",
        truncate: Literal["oldest_turns"] | None = None,
        on_event: Callable[[Event], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
        **decoding: Any,
    ) -> Reply:
        """Answer one prompt.

        Args:
            prompt: text; a part; a list of text, pictures, Paths and parts; a list of Message; or
                a chat of {"role", "content"} turns.
            outputs: exactly these modalities must come; None = the model chooses.
            modalities: OpenAI's name for `outputs`.
            seed: decides every byte of the reply; None = drawn, and told in the reply.
            max_new_tokens: most tokens of the reply, signal tokens included.
            temperature: of the text; 0 = greedy.
            top_k: draw among this many best; 0 = all.
            top_p: draw among the best that together reach this probability.
            condition: "signal" or "caption", what the decoders are told.
            truncate: "oldest_turns" to drop turns of an over-long conversation.
            on_event: told text deltas, spans, denoising steps and finished parts as they come.
            cancelled: asked between steps; True ends the reply with what is there.
            decoding: `image={"num_inference_steps": 20}` and so on; flat names such as
                `num_inference_steps=20` where only one medium can be meant.

        Returns:
            The reply, its parts in the order in which the model wrote them.

        Raises:
            PromptError: the prompt is empty or too long, or the budget too small.
            MediaError: an input file cannot be used.
            UsageError: an argument is off.
            ResourceError: memory ran out.
        """
        request = self.request(
            prompt,
            outputs=outputs,
            modalities=modalities,
            seed=seed,
            max_new_tokens=max_new_tokens,
            temperature=temperature,
            top_k=top_k,
            top_p=top_p,
            condition=condition,
            truncate=truncate,
            on_event=on_event,
            cancelled=cancelled,
            **decoding,
        )
        ((_, answer),) = self.engine().run([request])
        if isinstance(answer, AnyAnyError):
            raise answer
        return answer

    def generate_batch(
        self,
        requests: Iterable[Request | Mapping[str, Any] | object],
        *,
        errors: Literal["raise", "return"] = "raise",
        **common: Any,
    ) -> Iterator[Reply | AnyAnyError]:
        """Answer any mix of requests, batched by stage; replies come in the requests' order.

        Args:
            requests: prompts as `generate` takes them; mappings {"prompt": ..., "seed": ...} of
                `generate`'s arguments; or what `request` made.
            errors: "return" yields the error of a request that cannot be carried out in its place;
                "raise" raises it there.
            common: arguments of `generate` for all that do not give their own.

        Yields:
            A reply per request, bounded memory however many there are.
        """
        prepared = (self._prepare(item, common, errors) for item in requests)
        for answer in self._answers(prepared):
            if isinstance(answer, AnyAnyError) and errors == "raise":
                raise answer
            yield answer

    def __call__(
        self,
        text: object = None,
        *,
        images: object = None,
        videos: object = None,
        audio: object = None,
        generation_mode: Modality | None = None,
        max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS,
        return_full_text: bool = False,
        generate_kwargs: Mapping[str, Any] | None = None,
        **kwargs: Any,
    ) -> list[dict[str, Any]]:
        """The call style of transformers' any-to-any pipeline.

        Args:
            text: a prompt, a chat, or a list of either.
            images: one picture (or Path), or a list, that goes before the text; likewise `videos`
                and `audio`.
            generation_mode: the one modality wanted; None = the model chooses.
            max_new_tokens: most tokens of each reply.
            return_full_text: put the prompt's text before the generated text.
            generate_kwargs: further arguments of `generate`; keywords beside them likewise.

        Returns:
            One {"input_text", "generated_text", "generated_image", ...} per prompt, with a key for
            every modality that came; several media of one modality come as a list.
        """
        prompts = pipeline_prompts(text, {"images": images, "videos": videos, "audio": audio})
        arguments = {**(generate_kwargs or {}), **kwargs, "max_new_tokens": max_new_tokens}
        if generation_mode is not None:
            arguments["outputs"] = {generation_mode}
        replies = cast("Iterator[Reply]", self.generate_batch(prompts, **arguments))
        return [
            pipeline_record(prompt, reply, full=return_full_text)
            for prompt, reply in zip(prompts, replies, strict=True)
        ]

    def request(self, prompt: object, **arguments: Any) -> Request:
        """Check and resolve what `generate` takes, without computing anything.

        Raises:
            PromptError, MediaError, UsageError: as `generate`.
        """
        return make_request(self.decoders, prompt, **arguments)

    def regenerate(self, record: Provenance, inputs: Mapping[str, MediaPart]) -> MediaPart:
        """Make a part again from its record; the same bytes on the same machine and versions.

        Args:
            record: of a file that this system wrote.
            inputs: the request's media by their content hash.

        Raises:
            UsageError: the record is redacted, of another model, or an input is missing.
        """
        if record.model_sha256 != self.model_sha256:
            raise CheckpointError(
                f"expected the weights that made the file ({record.model} "
                f"{record.model_sha256[:12]}); got {self.config.name} {self.model_sha256[:12]}"
            )
        request = request_from_record(record, inputs)
        ((_, answer),) = self.engine().run([request])
        if isinstance(answer, AnyAnyError):
            raise answer
        made = [part for part in answer.parts if part.modality == record.modality]
        if record.index >= len(made):
            raise UsageError(
                f"the request made {len(made)} of {record.modality} here, and the file is number "
                f"{record.index + 1}: another machine or other versions made it"
            )
        return made[record.index]

    @functools.cached_property
    def model_sha256(self) -> str:
        """Hash of all weights: of the folder's manifest, else of the tensors in memory."""
        return weights_sha256(
            self.folder, [self.bridge, self.output_projectors, *self.decoders.values()]
        )

    def engine(self) -> Engine:
        """The executor over its parts."""
        return Engine(
            self.bridge,
            self.decoders,
            cast("Mapping[str, nn.Module]", self.output_projectors),
            self.settings,
            self._annotate,
            self.residency,
        )

    def _annotate(self, request: Request, part: Part, index: int) -> Part:
        context = RecordContext(
            self.config, self.model_sha256, self.decoders, self.settings, self.device
        )
        return make_record(context, request, part, index)

    def _prepare(
        self, item: object, common: Mapping[str, Any], errors: str
    ) -> Request | AnyAnyError:
        try:
            if isinstance(item, Request):
                return item
            if isinstance(item, Mapping) and "prompt" in item:
                return self.request(**{**common, **item})
            return self.request(item, **common)
        except AnyAnyError as error:
            if errors == "raise":
                raise
            return error

    def _answers(self, prepared: Iterator[Request | AnyAnyError]) -> Iterator[Reply | AnyAnyError]:
        """In order: the engine numbers only the requests that it gets."""
        while batch := list(itertools.islice(prepared, WINDOW)):
            good = [item for item in batch if isinstance(item, Request)]
            running = self.engine().run(good)
            numbers = iter(range(len(good)))
            early: dict[int, Reply | AnyAnyError] = {}  # before their turn
            for item in batch:
                if isinstance(item, AnyAnyError):
                    yield item
                    continue
                number = next(numbers)
                while number not in early:
                    early.update([next(running)])
                yield early.pop(number)


__all__ = ["AnyToAny", "Event", "Request", "SystemConfig"]
