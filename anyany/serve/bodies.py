"""The JSON bodies of requests: what is known, of which kind, in which range.

Fields have OpenAI's names; what diffusion decoders take stands beside them, flat, or in `decoding`
by modality. An unknown field is refused, with the nearest known one; fields of OpenAI's that this
server cannot honour are accepted only where they ask for nothing.
"""

from __future__ import annotations

import difflib
import json
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Final, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from anyany.serve.errors import ApiError, invalid

Seed = Annotated[int, Field(ge=0, lt=2**63, description="Decides every byte; drawn if left out.")]
Outputs = list[Literal["text", "image", "video", "audio"]]
_Body = TypeVar("_Body", bound="Body")

DECODING: Final = (
    *("num_inference_steps", "guidance_scale", "scheduler", "eta", "negative_prompt", "preset"),
    *("height", "width", "num_frames"),
)


class Body(BaseModel):
    """What every body has."""

    model_config = ConfigDict(extra="forbid", strict=True, protected_namespaces=())

    model: Annotated[str | None, Field(max_length=200)] = None
    seed: Seed | None = None

    def flat_decoding(self) -> dict[str, Any]:
        """The decoder parameters that stand flat in the body."""
        return {n: v for n in DECODING if (v := getattr(self, n, None)) is not None}


class Decoding(Body):
    """Decoder parameters, flat."""

    num_inference_steps: Annotated[int, Field(ge=1, le=1000)] | None = None
    guidance_scale: Annotated[float, Field(ge=0, le=100)] | None = None
    scheduler: Annotated[str, Field(max_length=40)] | None = None
    eta: Annotated[float, Field(ge=0, le=1)] | None = None
    negative_prompt: Annotated[str, Field(max_length=4000)] | None = None
    preset: Literal["reference", "fast"] | None = None
    height: Annotated[int, Field(ge=8, le=8192)] | None = None
    width: Annotated[int, Field(ge=8, le=8192)] | None = None


class ChatBody(Decoding):
    """POST /v1/chat/completions."""

    messages: Annotated[
        list[dict[str, Any]],
        Field(
            min_length=1,
            json_schema_extra={
                "items": {
                    "type": "object",
                    "required": ["role", "content"],
                    "properties": {
                        "role": {"enum": ["system", "developer", "user", "assistant"]},
                        "content": {
                            "anyOf": [
                                {"type": "string"},
                                {"type": "array", "items": {"type": "object"}},
                            ]
                        },
                    },
                }
            },
        ),
    ]
    modalities: Annotated[Outputs, Field(min_length=1, max_length=8)] | None = None
    temperature: Annotated[float, Field(ge=0, le=100)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0, le=1_000_000)] | None = None
    max_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    max_new_tokens: Annotated[int, Field(ge=1, le=1_000_000)] | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    decoding: dict[str, dict[str, Any]] | None = None
    condition: Literal["signal", "caption"] | None = None
    truncate: Literal["oldest_turns"] | None = None
    num_frames: Annotated[int, Field(ge=1, le=1000)] | None = None
    audio: dict[str, Any] | None = None

    def most_tokens(self) -> int | None:
        """The token budget, under whichever of its names."""
        given = (self.max_new_tokens, self.max_completion_tokens, self.max_tokens)
        return next((value for value in given if value is not None), None)


class ImageBody(Decoding):
    """POST /v1/images/generations."""

    prompt: Annotated[str, Field(min_length=1)]
    n: Annotated[int, Field(ge=1, le=64)] | None = None
    size: Annotated[str, Field(pattern=r"^(auto|\d{1,4}x\d{1,4})$")] | None = None
    response_format: Literal["b64_json", "url"] | None = None
    output_format: Literal["png", "webp", "jpeg"] | None = None
    condition: Literal["signal", "caption"] | None = None


class SpeechBody(Decoding):
    """POST /v1/audio/speech."""

    input: Annotated[str, Field(min_length=1)]
    voice: str | dict[str, Any] | None = None
    response_format: Literal["wav", "flac"] | None = None
    seconds: Annotated[float, Field(gt=0, le=600)] | None = None


class SoundBody(Decoding):
    """POST /v1/audio/generations."""

    prompt: Annotated[str, Field(min_length=1)] | None = None
    input: Annotated[str, Field(min_length=1)] | None = None
    seconds: Annotated[float, Field(gt=0, le=600)] | None = None
    audio_length: Annotated[float, Field(gt=0, le=600)] | None = None
    response_format: Literal["wav", "flac"] | None = None
    condition: Literal["signal", "caption"] | None = None


class VideoBody(Decoding):
    """POST /v1/videos."""

    prompt: Annotated[str, Field(min_length=1)]
    seconds: float | str | None = None
    size: Annotated[str, Field(pattern=r"^(auto|\d{1,4}x\d{1,4})$")] | None = None
    num_frames: Annotated[int, Field(ge=1, le=1000)] | None = None
    condition: Literal["signal", "caption"] | None = None


class BatchBody(Body):
    """POST /v1/batches."""

    input_file_id: Annotated[str, Field(max_length=80)]
    endpoint: Literal["/v1/chat/completions", "/v1/images/generations"]
    completion_window: Literal["24h"] | None = None
    metadata: dict[str, str] | None = None


def _empty(value: object) -> bool:
    return not value


_ANY: Final = ("user", "metadata", "safety_identifier", "prompt_cache_key", "service_tier")
_NEUTRAL: Final[Mapping[str, Callable[[Any], bool]]] = {
    **dict.fromkeys(("frequency_penalty", "presence_penalty", "logprobs", "store"), _empty),
    **dict.fromkeys(("top_logprobs", "logit_bias", "stop", "tools", "functions"), _empty),
    **dict.fromkeys(("prediction", "web_search_options", "reasoning_effort"), _empty),
    **dict.fromkeys(("verbosity", "partial_images"), _empty),
    "parallel_tool_calls": lambda value: isinstance(value, bool),
    "tool_choice": lambda value: value in (None, "none", "auto"),
    "function_call": lambda value: value in (None, "none", "auto"),
    "response_format": lambda value: value in (None, {"type": "text"}),
    "background": lambda value: value in (None, "auto", "opaque"),
    "moderation": lambda value: value in (None, "auto", "low"),
    "quality": lambda value: value in (None, "auto", "standard"),
    "style": lambda value: value is None,
    "output_compression": lambda value: value in (None, 100),
    "input_fidelity": lambda value: value is None,
    "instructions": _empty,
    "stream_format": lambda value: value in (None, "audio"),
    "speed": lambda value: value in (None, 1, 1.0),
    "n": lambda value: value in (None, 1),
    "stream": lambda value: not value,
    "mask": lambda value: value is None,
}


def parse_json(data: bytes) -> dict[str, Any]:
    """A body as an object.

    Raises:
        ApiError: 400, it is none.
    """
    try:
        found = json.loads(data.decode("utf-8"), parse_constant=_no_constant)
        json.dumps(found, ensure_ascii=False).encode("utf-8")  # no halves of characters
    except (ValueError, RecursionError):
        raise invalid("expected a JSON object in UTF-8", code="json") from None
    if not isinstance(found, dict):
        raise invalid("expected a JSON object", code="json")
    return found


def parse(kind: type[_Body], record: Mapping[str, Any]) -> _Body:
    """A body, checked.

    Raises:
        ApiError: 400, a field is unknown, missing, of a wrong kind or out of range.
    """
    fields = _without_neutral(kind, _merged(record))
    known = set(kind.model_fields)
    for name in fields:
        if name not in known:
            near = difflib.get_close_matches(str(name), known, n=1)
            hint = f"; nearest is {near[0]}" if near else ""
            raise invalid(
                f"unknown field {str(name)[:60]!r}{hint}",
                param=str(name)[:60],
                code="unknown_field",
            )
    try:
        return kind.model_validate(fields)
    except ValidationError as error:
        raise _refusal(error) from None


def _merged(record: Mapping[str, Any]) -> dict[str, Any]:
    """With `extra_body`, which clients flatten and curl's users do not."""
    extra = record.get("extra_body") or {}
    if not isinstance(extra, Mapping):
        raise invalid("expected an object", param="extra_body")
    return {**{k: v for k, v in record.items() if k != "extra_body"}, **extra}


def _without_neutral(kind: type[Body], record: dict[str, Any]) -> dict[str, Any]:
    kept: dict[str, Any] = {}
    for name, value in record.items():
        if name in kind.model_fields:
            kept[name] = value
        elif name in _NEUTRAL:
            if not _NEUTRAL[name](value):
                raise invalid(
                    f"this server does not support {name} with that value: leave it out",
                    param=name,
                    code="unsupported",
                )
        elif name not in _ANY:
            kept[name] = value
    return kept


_SAID: Final = {
    "missing": "expected a value, got none",
    "string_type": "expected text",
    "int_type": "expected a whole number",
    "float_type": "expected a number",
    "bool_type": "expected true or false",
    "list_type": "expected a list",
    "dict_type": "expected an object",
    "string_too_short": "expected text, got none",
    "string_too_long": "expected a shorter text",
    "string_pattern_mismatch": "expected WIDTHxHEIGHT, such as 512x512, or auto",
    "too_short": "expected at least one entry",
    "too_long": "expected fewer entries",
    "finite_number": "expected a finite number",
}


def _refusal(error: ValidationError) -> ApiError:
    """The first fault, in our words."""
    fault = error.errors(include_url=False, include_input=False)[0]
    place = ".".join(str(step) for step in fault["loc"] if not str(step).startswith("function-"))
    kind, about = fault["type"], fault.get("ctx", {})
    bounds = {
        "greater_than": "above",
        "greater_than_equal": "at least",
        "less_than": "below",
        "less_than_equal": "at most",
    }
    if kind == "literal_error":
        said = f"expected {about.get('expected', 'another value')}"
    elif kind in bounds:
        limit = next(iter(about.values()), "")
        said = f"expected a number {bounds[kind]} {limit}"
    else:
        said = _SAID.get(kind, "a value of a kind that is not accepted")
    return invalid(f"{place[:80]}: {said}", param=place[:80], code="value")


def _no_constant(name: str) -> None:
    raise ValueError(name)
