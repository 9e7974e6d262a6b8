"""Provenance of a part: from a request to its record, and back to a request that repeats it."""

from __future__ import annotations

import functools
import hashlib
import json
import platform
from collections.abc import Container, Mapping
from dataclasses import dataclass, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any, Final

import torch

from anyany.config import to_dict
from anyany.errors import UsageError
from anyany.language import Sampling
from anyany.media import InputRecord, Provenance, content_sha256
from anyany.media.provenance import REDACTED
from anyany.messages import (
    MEDIA_MODALITIES,
    AudioPart,
    ImagePart,
    MediaPart,
    Message,
    Modality,
    Part,
    TextPart,
    VideoPart,
)
from anyany.overrides import resolve_overrides
from anyany.requests import THROUGHPUT_MICRO_BATCH, EngineSettings, Request
from anyany.system_config import SystemConfig

_LIBRARIES: Final = ("anyany", "torch", "diffusers", "transformers")


@dataclass(frozen=True, eq=False)
class RecordContext:
    """What of a system goes into its records.

    Args:
        config: of the system.
        model_sha256: of its weights.
        decoders: modality -> decoder.
        settings: of the engine.
        device: where it runs.
    """

    config: SystemConfig
    model_sha256: str
    decoders: Mapping[Modality, Any]
    settings: EngineSettings
    device: torch.device


def make_record(context: RecordContext, request: Request, part: Part, index: int) -> Part:
    """The part with its provenance.

    Args:
        context: the system.
        request: that made it.
        part: a picture, clip or recording; text is handed back as it is.
        index: of the part among the reply's parts of its modality.
    """
    if isinstance(part, TextPart):
        return part
    inputs = tuple(
        InputRecord(medium.modality, part_sha256(medium))
        for message in request.messages
        for medium in message.parts
        if not isinstance(medium, TextPart)
    )
    record = Provenance(
        model=context.config.name,
        model_sha256=context.model_sha256,
        config_sha256=config_sha256(context.config),
        seed=request.seed,
        modality=part.modality,
        index=index,
        prompt=request.messages[-1].text or None,
        inputs=inputs,
        versions=versions(),
        settings=_settings(context, request, part.modality),
        request=[_turn(message) for message in request.messages],
    )
    return replace(part, provenance=record)


def request_from_record(record: Provenance, inputs: Mapping[str, MediaPart]) -> Request:
    """The request that made a file.

    Args:
        record: of the file.
        inputs: media by content hash.

    Raises:
        UsageError: the prompt was redacted, or an input is not among `inputs`; all are named.
    """
    missing_inputs(record, inputs)
    settings = record.settings
    try:
        if record.prompt is None and any(
            part.get("text") == REDACTED for turn in record.request for part in turn["content"]
        ):
            raise UsageError("the file's prompt was redacted: it cannot be made again")
        return Request(
            tuple(_message(turn, inputs) for turn in record.request),
            None if settings["outputs"] is None else frozenset(settings["outputs"]),
            settings["max_new_tokens"],
            Sampling(settings["temperature"], settings["top_k"], settings["top_p"], record.seed),
            record.seed,
            resolve_overrides(settings["decoding"], MEDIA_MODALITIES, None),
            settings["condition"],
            settings["truncate"],
        )
    except (KeyError, TypeError, AttributeError):  # written by hand, or by another version
        raise UsageError("the file's record is not of this version: it lacks settings") from None


def missing_inputs(record: Provenance, inputs: Container[str]) -> None:
    """Refuse if media of a record are not at hand.

    Args:
        record: of the file.
        inputs: the content hashes of what is there.

    Raises:
        UsageError: one or more are missing; all are named.
    """
    missing = [item for item in record.inputs if item.sha256 not in inputs]
    if missing:
        named = ", ".join(f"{item.modality} {item.sha256[:12]}" for item in missing)
        raise UsageError(f"missing inputs of the file: {named}: give their folder by --inputs")


def part_sha256(part: MediaPart) -> str:
    """Hash of a medium's content, whatever file holds it."""
    import numpy as np

    if isinstance(part, ImagePart):
        return content_sha256("image", np.asarray(part.image.convert("RGB")))
    if isinstance(part, VideoPart):
        return content_sha256("video", part.frames, part.frames_per_second)
    assert isinstance(part, AudioPart)
    return content_sha256("audio", part.waveform, part.sample_rate)


def config_sha256(config: SystemConfig) -> str:
    """Hash of a system's configuration."""
    return hashlib.sha256(json.dumps(to_dict(config), sort_keys=True).encode()).hexdigest()


@functools.cache
def versions() -> Mapping[str, str]:
    """Of everything that decides bytes."""
    found = {"python": platform.python_version()}
    for name in _LIBRARIES:
        try:
            found[name] = version(name)
        except PackageNotFoundError:  # run from a checkout that is not installed
            from anyany import __version__

            found[name] = __version__
    return found


def _settings(context: RecordContext, request: Request, modality: Modality) -> dict[str, Any]:
    decoder = context.decoders[modality]
    run = decoder.run_settings(dict(request.decoding.get(modality, {})))
    settings = context.settings
    return {
        "outputs": None if request.outputs is None else sorted(request.outputs),
        "max_new_tokens": request.max_new_tokens,
        "temperature": request.sampling.temperature,
        "top_k": request.sampling.top_k,
        "top_p": request.sampling.top_p,
        "condition": request.condition,
        "truncate": request.truncate,
        "decoding": {name: dict(values) for name, values in request.decoding.items()},
        "num_inference_steps": run.num_inference_steps,
        "guidance_scale": run.guidance_scale,
        "scheduler": run.scheduler,
        "eta": run.eta,
        "batch_invariant": settings.batch_invariant,
        "micro_batch": settings.micro_batch
        or (decoder.micro_batch if settings.batch_invariant else THROUGHPUT_MICRO_BATCH),
        "rows": settings.language.rows,
        "max_spans": settings.language.max_spans,
        "threads": torch.get_num_threads(),
        "device": context.device.type,
        "dtype": str(decoder.dtype).removeprefix("torch."),
    }


def _turn(message: Message) -> dict[str, Any]:
    content = [
        {"type": "text", "text": part.text}
        if isinstance(part, TextPart)
        else {"type": part.modality, "sha256": part_sha256(part)}
        for part in message.parts
    ]
    return {"role": message.role, "content": content}


def _message(turn: Mapping[str, Any], inputs: Mapping[str, MediaPart]) -> Message:
    parts: list[Part] = [
        TextPart(part["text"]) if part["type"] == "text" else inputs[part["sha256"]]
        for part in turn["content"]
    ]
    return Message(turn["role"], tuple(parts))
