"""What `generate` takes, checked and resolved before anything is computed."""

from __future__ import annotations

import secrets
from collections.abc import Callable, Iterable, Mapping, Set
from typing import Any, Final, Literal

from anyany.errors import UsageError
from anyany.language import Sampling
from anyany.messages import MODALITIES, Modality, to_messages
from anyany.overrides import resolve_overrides
from anyany.requests import ConditionSource, Event, Request

DEFAULT_MAX_NEW_TOKENS: Final = 128


def make_request(
    decoders: Mapping[Modality, Any],
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
) -> Request:
    """A request of what `AnyToAny.generate` takes.

    Args:
        decoders: of the system, by modality.
        prompt: and all others: see `AnyToAny.generate`.

    Raises:
        PromptError, MediaError, UsageError: as `generate`.
    """
    asked = outputs if outputs is not None else modalities
    wanted = None if asked is None else _check_outputs(asked)
    _check_numbers(max_new_tokens, temperature, top_k, top_p)
    if condition not in ("signal", "caption"):
        raise UsageError(f'expected condition "signal" or "caption"; got {condition!r}')
    if truncate not in (None, "oldest_turns"):
        raise UsageError(f'expected truncate "oldest_turns" or None; got {truncate!r}')
    resolved = secrets.randbits(32) if seed is None else _check_seed(seed)
    return Request(
        tuple(to_messages(prompt)),
        wanted,
        max_new_tokens,
        Sampling(temperature, top_k, top_p, resolved),
        resolved,
        resolve_overrides(decoding, decoders, wanted),
        condition,
        truncate,
        on_event,
        cancelled,
    )


def _check_outputs(outputs: Iterable[Modality]) -> frozenset[Modality]:
    """The modalities that must come.

    Raises:
        UsageError: one of them is none.
    """
    if not isinstance(outputs, Iterable):
        raise UsageError(f"expected outputs as a set of modalities; got {outputs!r}")
    wanted: Set[Any] = frozenset({outputs} if isinstance(outputs, str) else outputs)
    strange = sorted(str(item) for item in wanted - set(MODALITIES))
    if strange:
        raise UsageError(f"expected outputs among {', '.join(MODALITIES)}; got {strange[0]!r}")
    return frozenset(wanted)


def _check_numbers(
    max_new_tokens: object, temperature: object, top_k: object, top_p: object
) -> None:
    """Refuse values of a wrong kind; their ranges are checked where they are used."""
    whole = {"max_new_tokens": max_new_tokens, "top_k": top_k}
    for name, value in {**whole, "temperature": temperature, "top_p": top_p}.items():
        kind: Any = int if name in whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kind):
            what = "a whole number" if name in whole else "a number"
            raise UsageError(f"{name}: expected {what}; got {value!r}")


def _check_seed(seed: object) -> int:
    """A seed as given.

    Raises:
        UsageError: it is no whole number from 0 to 2**63 - 1.
    """
    if isinstance(seed, bool) or not isinstance(seed, int) or not 0 <= seed < 2**63:
        raise UsageError(f"expected a seed from 0 to 2**63 - 1; got {seed!r}")
    return seed
