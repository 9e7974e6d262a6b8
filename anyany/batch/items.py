"""One item of a batch: what a line of a manifest asks for, as plain values.

An item is JSON all the way down, so that it can be hashed, kept in a ledger and sent to another
process. Media are references here (a path below the root, a URL, or bytes in base64); `Task` is the
item with everything resolved that decides its bytes.
"""

from __future__ import annotations

import difflib
import hashlib
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Final

from anyany.batch.names import check_id, check_relative, is_url
from anyany.errors import UsageError
from anyany.messages import MEDIA_MODALITIES, MODALITIES, Modality

LINE_KEYS: Final = (
    *("id", "text", "images", "videos", "audio", "outputs", "seed", "decoding"),
    *("max_new_tokens", "temperature", "top_k", "top_p", "condition", "truncate"),
)
OPTION_KEYS: Final = (
    *("max_new_tokens", "temperature", "top_k", "top_p", "condition", "truncate", "decoding"),
)
_MEDIA_KEYS: Final[Mapping[str, Modality]] = {
    "images": "image",
    "videos": "video",
    "audio": "audio",
}

_ENCODER: Final = json.JSONEncoder(sort_keys=True, separators=(",", ":"), allow_nan=False)

Turn = Mapping[str, Any]  # {"role", "content": [part, ...]}
Options = Mapping[str, Any]


@dataclass(frozen=True)
class Item:
    """What one line asks for.

    Args:
        id: names its folder.
        turns: the conversation; parts are {"type": "text", "text"} or {"type": modality or
            "media", "path" | "url" | "data"}.
        outputs: exactly these modalities must come; None = the model chooses.
        seed: of the line; None = derived from the run's seed and the content.
        options: of OPTION_KEYS, those that the line gives.
        endpoint: the URL of an OpenAI batch line; "" for all others.
    """

    id: str
    turns: tuple[Turn, ...]
    outputs: tuple[Modality, ...] | None = None
    seed: int | None = None
    options: Options = field(default_factory=dict)
    endpoint: str = ""

    def references(self) -> Iterator[dict[str, Any]]:
        """The media parts, in order."""
        for turn in self.turns:
            for part in turn["content"]:
                if part["type"] != "text":
                    yield part

    def digest(self) -> str:
        """Hexadecimal digits that change whenever the line does; inputs' content left out."""
        record = [self.turns, self.outputs, self.seed, self.options, self.endpoint]
        return hashlib.sha256(canonical(record)).hexdigest()[:32]

    def paths(self) -> str:
        """JSON of the references' paths, null for those that are none; "" = no references."""
        found = [part.get("path") for part in self.references()]
        return json.dumps(found) if found else ""

    def content_key(self, settings: str, input_sha256s: Sequence[str], run_seed: int) -> str:
        """What decides every byte of the item, as one hash; the id is not part of it.

        Args:
            settings: fingerprint of what the system and the run add.
            input_sha256s: of the references' bytes, in order.
            run_seed: for an item without a seed of its own.
        """
        waiting = iter(input_sha256s)
        turns = [
            {
                "role": turn["role"],
                "content": [
                    part
                    if part["type"] == "text"
                    else {"type": part["type"], "sha256": next(waiting)}
                    for part in turn["content"]
                ],
            }
            for turn in self.turns
        ]
        seed = ["line", self.seed] if self.seed is not None else ["run", run_seed]
        record = [turns, self.outputs, self.options, self.endpoint, seed, settings]
        return hashlib.sha256(canonical(record)).hexdigest()


@dataclass(frozen=True)
class Task:
    """An item ready to be carried out.

    Args:
        item: what is asked for.
        key: the content key.
        seed: resolved.
        number: of its line.
        inputs: per reference where its bytes are: {"path" below the root | "file" absolute |
            "data", "sha256"}.
        stamps: per reference of the manifest [bytes, modification time in ns], to tell on resume
            that it has not changed; None if it is no file.
        digest: of the line, hexadecimal.
        settings: fingerprint of those that the item is made with.
    """

    item: Item
    key: str
    seed: int
    number: int
    inputs: tuple[Mapping[str, str], ...] = ()
    stamps: tuple[tuple[int, int] | None, ...] = ()
    digest: str = ""
    settings: str = ""


def task_to_json(task: Task) -> str:
    """A task as one line; `task_from_json` reads it back."""
    return json.dumps(asdict(task), separators=(",", ":"))


def task_from_json(text: str) -> Task:
    """What `task_to_json` wrote."""
    record = json.loads(text)
    item = record.pop("item")
    item["turns"] = tuple(item["turns"])
    item["outputs"] = None if item["outputs"] is None else tuple(item["outputs"])
    record["inputs"] = tuple(record["inputs"])
    record["stamps"] = tuple(tuple(stamp) if stamp else None for stamp in record["stamps"])
    return Task(Item(**item), **record)


def derived_seed(run_seed: int, key: str) -> int:
    """The seed of an item that has none: the same for the same content, whatever its place."""
    return int.from_bytes(hashlib.sha256(f"{run_seed}:{key}".encode()).digest()[:4], "big")


def canonical(record: Any) -> bytes:
    """Plain JSON as bytes, the same for equal values."""
    return _ENCODER.encode(record).encode()


def item_from_record(record: Mapping[str, Any], *, outputs: Sequence[Modality] | None) -> Item:
    """Read a line's object.

    Args:
        record: with keys of LINE_KEYS.
        outputs: what a line asks for that does not say.

    Raises:
        UsageError: an unknown key, or a value of a wrong kind.
    """
    check_keys(record, LINE_KEYS)
    parts: list[dict[str, Any]] = []
    for key, modality in _MEDIA_KEYS.items():
        for reference in _texts(record.get(key), key):
            parts.append(reference_part(modality, reference))
    text = record.get("text")
    if text is not None and not isinstance(text, str):
        raise UsageError(f'"text": expected text, got {_kind(text)}')
    if text and text.strip():
        parts.append({"type": "text", "text": text})
    if not parts:
        raise UsageError("expected a text or media, got neither")
    return Item(
        id=check_id(_id(record.get("id"))),
        turns=({"role": "user", "content": parts},),
        outputs=check_outputs(record.get("outputs"), default=outputs),
        seed=check_seed(record.get("seed")),
        options=check_options({k: record[k] for k in OPTION_KEYS if record.get(k) is not None}),
    )


def reference_part(modality: str, reference: str) -> dict[str, Any]:
    """A medium by its path, checked, or its URL, which the caller checks.

    Raises:
        UsageError: the path is refused.
    """
    if is_url(reference):
        return {"type": modality, "url": reference}
    return {"type": modality, "path": check_relative(reference)}


def check_keys(record: Mapping[str, Any], known: Sequence[str]) -> None:
    """Refuse what is not known, and name what is nearest.

    Raises:
        UsageError: a key is unknown.
    """
    for key in record:
        if key not in known:
            near = difflib.get_close_matches(str(key), known, n=1)
            hint = f"; nearest is {near[0]!r}" if near else ""
            raise UsageError(f"unknown key {str(key)[:40]!r}{hint} (known: {', '.join(known)})")


def check_outputs(
    value: object, *, default: Sequence[Modality] | None = None
) -> tuple[Modality, ...] | None:
    """The modalities that must come, in one fixed order.

    Raises:
        UsageError: it is no list of modalities.
    """
    if value is None:
        return tuple(default) if default is not None else None
    names = value if isinstance(value, list) else [None]
    if not names or any(name not in MODALITIES for name in names):
        raise UsageError(
            f'"outputs": expected a list of {", ".join(MODALITIES)}; got {str(value)[:60]!r}'
        )
    return tuple(modality for modality in MODALITIES if modality in names)


def check_seed(value: object) -> int | None:
    """A seed, or None.

    Raises:
        UsageError: it is no whole number from 0 to 2**63 - 1.
    """
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < 2**63:
        raise UsageError(f'"seed": expected a whole number from 0 to 2**63 - 1; got {value!r}')
    return value


def check_options(options: Options) -> Options:
    """A line's options, their kinds and ranges checked without loading a model.

    Raises:
        UsageError: one is off.
    """
    if not options:
        return options
    for name, (low, high) in {"max_new_tokens": (1, 10**6), "top_k": (0, 10**6)}.items():
        value = options.get(name, low)
        if isinstance(value, bool) or not isinstance(value, int) or not low <= value <= high:
            raise UsageError(f'"{name}": expected a whole number from {low}; got {value!r}')
    for name, (low, high) in {"temperature": (0, 100), "top_p": (0, 1)}.items():
        number = options.get(name, low)
        if (
            isinstance(number, bool)
            or not isinstance(number, int | float)
            or not low <= number <= high
        ):
            raise UsageError(f'"{name}": expected a number from {low} to {high}; got {number!r}')
    for name, choices in {
        "condition": ("signal", "caption"),
        "truncate": ("oldest_turns",),
    }.items():
        if name in options and options[name] not in choices:
            raise UsageError(
                f'"{name}": expected {" or ".join(choices)}; got {str(options[name])[:40]!r}'
            )
    decoding = options.get("decoding", {})
    if not isinstance(decoding, Mapping) or set(decoding) - set(MEDIA_MODALITIES):
        raise UsageError(
            '"decoding": expected {"image": {"num_inference_steps": 20}, ...} with keys among '
            f"{', '.join(MEDIA_MODALITIES)}"
        )
    if decoding:
        from anyany.overrides import resolve_overrides  # which loads torch: only where needed

        resolve_overrides(decoding, MEDIA_MODALITIES, None)
    return options


def _texts(value: object, key: str) -> list[str]:
    if value is None:
        return []
    if not isinstance(value, list) or any(not isinstance(entry, str) for entry in value):
        raise UsageError(f'"{key}": expected a list of paths, got {_kind(value)}')
    return value


def _id(value: object) -> str:
    if not isinstance(value, str):
        raise UsageError(f'"id": expected text that is unique in the manifest; got {_kind(value)}')
    return value


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false"}
    return "nothing" if value is None else names.get(type(value), "a number")
