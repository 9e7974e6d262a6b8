"""Decoder settings that users override per request: checked names, nested or flat.

`image={"num_inference_steps": 20}` is for one modality; `num_inference_steps=20` alone is accepted
where only one medium can be meant.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Set
from typing import Any, Final

from anyany.decoders.config import SCHEDULER_NAMES
from anyany.errors import UsageError
from anyany.messages import MEDIA_MODALITIES, Modality

COMMON: Final = (
    "num_inference_steps",
    "guidance_scale",
    "scheduler",
    "eta",
    "negative",
    "settings",
)
OF_MODALITY: Final[Mapping[Modality, tuple[str, ...]]] = {
    "image": (*COMMON, "height", "width"),
    "video": (*COMMON, "height", "width", "num_frames"),
    "audio": (*COMMON, "seconds"),
}
_ALIASES: Final = {"negative_prompt": "negative", "preset": "settings"}


def resolve_overrides(
    given: Mapping[str, Any], decoders: Iterable[Modality], outputs: Set[Modality] | None
) -> dict[Modality, dict[str, Any]]:
    """Sort overrides by modality.

    Args:
        given: modality names with mappings, or flat names.
        decoders: the modalities that the system can make.
        outputs: what the request asks for; None = the model chooses.

    Returns:
        Per modality its overrides, plain JSON values.

    Raises:
        UsageError: an unknown name, a value of a wrong kind, or a flat name that is ambiguous.
    """
    can = [m for m in decoders if outputs is None or m in outputs]
    resolved: dict[Modality, dict[str, Any]] = {}
    flat: dict[str, Any] = {}
    for key, value in given.items():
        if key in MEDIA_MODALITIES:
            if not isinstance(value, Mapping):
                raise UsageError(
                    f'expected {key}={{"num_inference_steps": 20, ...}}; got {type(value).__name__}'
                )
            own: dict[str, Any] = resolved.setdefault(key, {})
            own.update({_checked(n, v, OF_MODALITY[key]): v for n, v in value.items()})
        else:
            every = sorted({name for names in OF_MODALITY.values() for name in names})
            flat[_checked(key, value, every)] = value
    if flat:
        if len(can) != 1:
            meant = ", ".join(can) or "none"
            raise UsageError(
                f"{next(iter(flat))}: expected one medium that it can be for; the request may make "
                f'{meant}: write image={{"{next(iter(flat))}": ...}}'
            )
        for name, value in flat.items():
            _checked(name, value, OF_MODALITY[can[0]])
            resolved.setdefault(can[0], {}).setdefault(name, value)
    return resolved


def _checked(name: str, value: object, known: Iterable[str]) -> str:
    name = _ALIASES.get(name, name)
    known = list(known)
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"; nearest is {near[0]!r}" if near else ""
        raise UsageError(f"expected an argument among {', '.join(known)}; got {name!r}{hint}")
    if not _fits(name, value):
        raise UsageError(f"{name}: expected {_EXPECTED[name]}; got {value!r}")
    return name


_EXPECTED: Final = {
    "num_inference_steps": "a whole number from 1 to 1000",
    "guidance_scale": "a number from 0 to 100",
    "scheduler": f"one of {', '.join(SCHEDULER_NAMES)}",
    "eta": "a number from 0 to 1",
    "negative": "text",
    "settings": "reference or fast",
    "height": "a whole number from 8 to 8192",
    "width": "a whole number from 8 to 8192",
    "num_frames": "a whole number from 1 to 1000",
    "seconds": "a number from 0 to 600",
}
_RANGES: Final[Mapping[str, tuple[float, float]]] = {
    "num_inference_steps": (1, 1000),
    "guidance_scale": (0, 100),
    "eta": (0, 1),
    "height": (8, 8192),
    "width": (8, 8192),
    "num_frames": (1, 1000),
    "seconds": (0, 600),
}
_WHOLE: Final = ("num_inference_steps", "height", "width", "num_frames")


def _fits(name: str, value: object) -> bool:
    if name == "scheduler":
        return value in SCHEDULER_NAMES
    if name == "settings":
        return value in ("reference", "fast")
    if name == "negative":
        return isinstance(value, str)
    if isinstance(value, bool) or not isinstance(value, int if name in _WHOLE else int | float):
        return False
    low, high = _RANGES[name]
    return low <= value <= high
