"""OpenAI's batch lines in, and lines of its batch output shape out.

In: {"custom_id", "method": "POST", "url", "body"} for chat completions (text, pictures, sound and
clips in; `modalities` out) and image generations. Out: {"id", "custom_id", "response", "error"},
for every kind of manifest. What a clock or a host would say is left out or constant, so that equal
runs write equal files.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Mapping, Sequence
from typing import Any, Final

from anyany.batch.items import (
    Item,
    check_keys,
    check_options,
    check_outputs,
    check_seed,
    reference_part,
)
from anyany.batch.names import check_id, is_url, shown
from anyany.errors import UsageError
from anyany.messages import Modality

CHAT: Final = "/v1/chat/completions"
IMAGES: Final = "/v1/images/generations"

_LINE_KEYS: Final = ("custom_id", "method", "url", "body")
_OWN_KEYS: Final = ("temperature", "top_p", "top_k", "condition", "truncate", "decoding")
_CHAT_KEYS: Final = (
    *("model", "messages", "modalities", "max_tokens", "max_completion_tokens", "seed", "n"),
    *("max_new_tokens", "user", "metadata", "extra_body", *_OWN_KEYS),
)
_IMAGE_KEYS: Final = (
    *("model", "prompt", "n", "size", "seed", "num_inference_steps", "guidance_scale"),
    *("negative_prompt", "user", "response_format", "output_format", "extra_body"),
)
_ROLES: Final = {
    "system": "system",
    "developer": "system",
    "user": "user",
    "assistant": "assistant",
}
_PARTS: Final = {"image_url": "image", "video_url": "video", "audio_url": "audio"}
_DATA: Final = re.compile(r"data:[\w.+\-]*/?[\w.+\-]*(;[\w.+\-]+=[\w.+\-]+)*;base64,")


def item_from_openai(record: Mapping[str, Any], *, outputs: Sequence[Modality] | None) -> Item:
    """Read a line of an OpenAI batch file.

    Args:
        record: the line's object.
        outputs: what a chat asks for whose body has no `modalities`.

    Raises:
        UsageError: a key is unknown or missing, or a value of a wrong kind.
    """
    check_keys(record, _LINE_KEYS)
    name = record.get("custom_id")
    if not isinstance(name, str):
        raise UsageError('"custom_id": expected text that is unique in the manifest')
    if record.get("method") != "POST":
        raise UsageError(f'"method": expected POST; got {str(record.get("method"))[:20]!r}')
    body = record.get("body")
    if not isinstance(body, Mapping):
        raise UsageError('"body": expected an object')
    extra = body.get("extra_body", {})
    if not isinstance(extra, Mapping):
        raise UsageError('"extra_body": expected an object')
    body = {**{key: value for key, value in body.items() if key != "extra_body"}, **extra}
    url = record.get("url")
    if url == CHAT:
        return _chat(check_id(name), body, outputs)
    if url == IMAGES:
        return _image(check_id(name), body)
    raise UsageError(f'"url": expected {CHAT} or {IMAGES}; got {str(url)[:60]!r}')


def result_line(
    key: str, id: str, model: str, reply: Mapping[str, Any], endpoint: str
) -> dict[str, Any]:
    """A finished item as a line of results.jsonl.

    Args:
        key: its content key.
        id: the item's.
        model: the system's name.
        reply: {"parts", "seed", "finish_reason", "tokens"} as the ledger has it.
        endpoint: of the request; "" is answered like a chat.
    """
    files = [part for part in reply["parts"] if part["type"] != "text"]
    if endpoint == IMAGES:
        body: dict[str, Any] = {
            "created": 0,
            "data": [{"url": f"{id}/{part['file']}"} for part in files],
            "seed": reply["seed"],
        }
    else:
        text = " ".join(part["text"] for part in reply["parts"] if part["type"] == "text")
        content = [
            part
            if part["type"] == "text"
            else {"type": part["type"], "file": f"{id}/{part['file']}"}
            for part in reply["parts"]
        ]
        body = {
            "id": f"chatcmpl-{key[:24]}",
            "object": "chat.completion",
            "created": 0,
            "model": model,
            "choices": [
                {
                    "index": 0,
                    "message": {"role": "assistant", "content": text, "parts": content},
                    "finish_reason": reply["finish_reason"],
                }
            ],
            "seed": reply["seed"],
        }
    response = {"status_code": 200, "request_id": f"req_{key[:24]}", "body": body}
    return {"id": f"batch_req_{key[:24]}", "custom_id": id, "response": response, "error": None}


def error_line(key: str, id: str, error: Mapping[str, Any]) -> dict[str, Any]:
    """A failed item as a line of errors.jsonl."""
    told = {name: error[name] for name in ("code", "type", "message")}
    return {"id": f"batch_req_{key[:24]}", "custom_id": id, "response": None, "error": told}


def _chat(name: str, body: Mapping[str, Any], outputs: Sequence[Modality] | None) -> Item:
    check_keys(body, _CHAT_KEYS)
    if body.get("n", 1) != 1:
        raise UsageError('"n": expected 1; write one line per reply, each with its own seed')
    messages = body.get("messages")
    if not isinstance(messages, list) or not messages:
        raise UsageError('"messages": expected a list of turns')
    turns = tuple(_turn(message) for message in messages)
    if turns[-1]["role"] != "user":
        raise UsageError('"messages": expected the last turn to be the user\'s')
    options = {key: body[key] for key in _OWN_KEYS if body.get(key) is not None}
    for key in ("max_tokens", "max_completion_tokens", "max_new_tokens"):
        if body.get(key) is not None:
            options["max_new_tokens"] = body[key]
    modalities = body.get("modalities")
    return Item(
        id=name,
        turns=turns,
        outputs=check_outputs(modalities, default=outputs),
        seed=check_seed(body.get("seed")),
        options=check_options(options),
        endpoint=CHAT,
    )


def _image(name: str, body: Mapping[str, Any]) -> Item:
    check_keys(body, _IMAGE_KEYS)
    if body.get("n", 1) != 1:
        raise UsageError('"n": expected 1; write one line per picture, each with its own seed')
    prompt = body.get("prompt")
    if not isinstance(prompt, str) or not prompt.strip():
        raise UsageError('"prompt": expected text')
    given = {
        "num_inference_steps": body.get("num_inference_steps"),
        "guidance_scale": body.get("guidance_scale"),
        "negative": body.get("negative_prompt"),
    }
    if body.get("size") not in (None, "auto"):
        size = re.fullmatch(r"(\d{1,4})x(\d{1,4})", str(body["size"]))
        if size is None:
            raise UsageError('"size": expected WIDTHxHEIGHT, such as 512x512')
        given |= {"width": int(size[1]), "height": int(size[2])}
    decoding = {key: value for key, value in given.items() if value is not None}
    return Item(
        id=name,
        turns=({"role": "user", "content": [{"type": "text", "text": prompt}]},),
        outputs=("image",),
        seed=check_seed(body.get("seed")),
        options=check_options({"decoding": {"image": decoding}} if decoding else {}),
        endpoint=IMAGES,
    )


def _turn(message: object) -> dict[str, Any]:
    if not isinstance(message, Mapping) or message.get("role") not in _ROLES:
        raise UsageError(f'"messages": expected turns with a role among {", ".join(_ROLES)}')
    content = message.get("content")
    if isinstance(content, str):
        parts = [{"type": "text", "text": content}]
    elif isinstance(content, list) and content:
        parts = [_part(part) for part in content]
    else:
        raise UsageError('"content": expected text or a list of parts')
    return {"role": _ROLES[message["role"]], "content": parts}


def _part(part: object) -> dict[str, Any]:
    kind = part.get("type") if isinstance(part, Mapping) else None
    if isinstance(part, Mapping):
        if kind == "text" and isinstance(part.get("text"), str):
            return {"type": "text", "text": part["text"]}
        if kind in _PARTS:
            held = part.get(str(kind))
            address = held.get("url") if isinstance(held, Mapping) else held
            if isinstance(address, str):
                return _reference(_PARTS[str(kind)], address)
        if kind == "input_audio" and isinstance(part.get("input_audio"), Mapping):
            data = part["input_audio"].get("data")
            if isinstance(data, str):
                return {"type": "audio", "data": _base64(data)}
    raise UsageError(
        'expected parts of the types text, image_url {"url"}, video_url, audio_url or input_audio '
        f'{{"data"}}; got {str(kind)[:40]!r}'
    )


def _reference(modality: str, address: str) -> dict[str, Any]:
    if found := _DATA.match(address):
        return {"type": modality, "data": _base64(address[found.end() :])}
    if is_url(address) and address[:5].lower() == "data:":
        raise UsageError(f"the address {shown(address[:30])} is no base64 data URL")
    return reference_part(modality, address)


def _base64(text: str) -> str:
    try:
        base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise UsageError("expected media in base64; it cannot be decoded") from None
    return text
