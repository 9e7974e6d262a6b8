"""Frozen parts run once: encoder features, condition targets, and signal states for stage 2b.

Each value is computed alone, not in a batch, so that its bits do not depend on what happened to be
cached before: a resumed run meets the same numbers.

Shapes: S tokens of a span, D language width, T tokens of a conversation.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from anyany.alignment.caches import TensorStore, hash_tensors, hash_text
from anyany.alignment.samples import MediaFile, MediaTarget, read_embedding
from anyany.bridges import Bridge, Encoded, Layout, Prepared
from anyany.decoders import Condition, ConditionSpec, Decoder
from anyany.encoders import adapter_parameters, adapter_state
from anyany.errors import UsageError
from anyany.language import HookedAdapter, LoraAdapter
from anyany.messages import MediaPart, Modality

_PROBE = ("", "a small red bell on the left", "two dogs bark, and a horn sounds far away")


class EncodedMedia:
    """Media as the frozen encoders see them.

    Args:
        bridge: its encoders are run.
        store: where features are kept; None computes them every time.
    """

    def __init__(self, bridge: Bridge, store: TensorStore | None) -> None:
        self.bridge = bridge
        self.store = store
        self._weights: dict[str, str] = {}
        self._known_files: dict[tuple[object, ...], str] = {}  # files of this run -> key
        self._learning: dict[str, bool] = {}

    @torch.no_grad()
    def __call__(self, part: MediaPart | MediaFile) -> Encoded:
        """Encode a medium, or find its features.

        Raises:
            MediaError: a file cannot be used.
            UsageError: no encoder takes its modality.
        """
        known = _file_state(part)
        if self.store is not None and known and known in self._known_files:
            found = self._find(part.modality, self._known_files[known])
            if found is not None:
                return found
        prepared = self.prepare(part)
        if self.store is None:
            return self.bridge.encode(prepared)
        key = hash_text("features", self._encoder_hash(prepared.modality), prepared.sha256())
        if known:
            self._known_files[known] = key
        found = self._find(prepared.modality, key)
        if found is None:
            found = self.bridge.encode(prepared)
            self.store.put(key, found.to_entry())
        return found

    def prepare(self, part: MediaPart | MediaFile) -> Prepared:
        """A medium as its encoder takes it: for an encoder that learns.

        Raises:
            MediaError: a file cannot be used.
            UsageError: no encoder takes its modality.
        """
        return self.bridge.prepare(part.read() if isinstance(part, MediaFile) else part)

    def learns(self, modality: str) -> bool:
        """Whether something in the encoder learns, also if it came with another that shares it."""
        if modality not in self._learning and modality in self.bridge.encoders:
            own = [*self.bridge.encoders[modality].parameters()]
            own += adapter_parameters(self.bridge.encoders)
            self._learning[modality] = any(parameter.requires_grad for parameter in own)
        return self._learning.get(modality, False)

    def _find(self, modality: Modality, key: str) -> Encoded | None:
        assert self.store is not None
        entry = self.store.get(key)
        if entry is None:
            return None
        return Encoded.from_entry(modality, entry).to(self.bridge.device_of(modality))

    def _encoder_hash(self, modality: str) -> str:
        if modality not in self._weights:
            encoder = self.bridge.encoders[modality]
            self._weights[modality] = hash_text(
                hash_tensors(encoder.state_dict()),
                hash_tensors(adapter_state(self.bridge.encoders)),  # a tower may be shared
                *(getattr(encoder, key, None) for key in ("readout", "class_every", "patch_size")),
                self.bridge.config.encoder_adapter,
            )
        return self._weights[modality]


class ConditionTargets:
    """What the output projectors are to say: captions through the decoders' own text encoders.

    Args:
        decoders: modality -> decoder.
        specs: modality -> what its output projector writes.
        store: where embedded captions are kept; None computes them every time.
    """

    def __init__(
        self,
        decoders: Mapping[Any, Decoder],
        specs: Mapping[str, ConditionSpec],
        store: TensorStore | None,
    ) -> None:
        self.decoders = dict(decoders)
        self.specs = dict(specs)
        self.store = store
        self._weights: dict[str, str] = {}

    @torch.no_grad()
    def __call__(self, target: MediaTarget) -> Condition:
        """A target's condition: one part, float32.

        Raises:
            UsageError: its embedding does not fit, or no decoder can encode its caption.
        """
        spec = self.specs[target.modality]
        if target.embedding is not None:
            return read_embedding(target, spec)
        assert target.caption is not None
        decoder = self.decoders.get(target.modality)
        if decoder is None:
            raise UsageError(
                f"no {target.modality} decoder is there to encode captions: give embeddings"
            )
        if self.store is None:
            return self._encode(decoder, target.caption, spec)
        key = hash_text("caption", self._encoder_hash(decoder), target.caption)
        entry = self.store.get(key)
        if entry is not None:
            return Condition(entry)
        condition = self._encode(decoder, target.caption, spec)
        self.store.put(key, condition.tensors)
        return condition

    def _encode(self, decoder: Decoder, caption: str, spec: ConditionSpec) -> Condition:
        condition = decoder.encode_captions([caption]).to("cpu", torch.float32)
        spec.check(condition)
        return condition

    def _encoder_hash(self, decoder: Decoder) -> str:
        """Of the text encoder's weights, or of what it makes of a few texts."""
        if decoder.modality not in self._weights:
            probe = decoder.encode_captions(_PROBE)  # also loads an encoder that waits
            encoder = decoder.text if hasattr(decoder, "text") else None
            self._weights[decoder.modality] = (
                hash_tensors(encoder.state_dict())
                if isinstance(encoder, nn.Module)
                else hash_tensors(probe.tensors)
            )
        return self._weights[decoder.modality]


class SignalStates:
    """Signal states of conversations under a language model that does not change any more.

    The key covers the base model, adapter, rows, prompt style, token layout and projected media.

    Args:
        bridge: run without gradients.
        store: where states are kept; None computes them every time.
    """

    def __init__(self, bridge: Bridge, store: TensorStore | None) -> None:
        self.bridge = bridge
        self.store = store
        self._language = "" if store is None else language_hash(bridge)

    @torch.no_grad()
    def __call__(self, layout: Layout, media: Mapping[int, Tensor]) -> dict[int, Tensor]:
        """States [S, D] of every span, by the medium's index, on the CPU."""
        if self.store is None:
            return self._compute(layout, media)
        places = [(p.index, p.modality, p.start, p.length) for p in (*layout.slots, *layout.spans)]
        key = hash_text(
            "signal states",
            self._language,
            places,
            hash_tensors({"ids": layout.token_ids}),
            hash_tensors([(str(index), media[index]) for index in sorted(media)]),
        )
        entry = self.store.get(key)
        if entry is None:
            states = self._compute(layout, media)
            self.store.put(key, {str(index): rows for index, rows in states.items()})
            return states
        return {int(name): rows for name, rows in entry.items()}

    def _compute(self, layout: Layout, media: Mapping[int, Tensor]) -> dict[int, Tensor]:
        output = self.bridge([layout], [media])
        found: dict[int, Tensor] = {}
        for modality in sorted({place.modality for place in layout.spans}):
            indices = [place.index for place in layout.spans if place.modality == modality]
            states = self.bridge.signal_states(output, modality).cpu()  # [N, S, D]
            found |= dict(zip(indices, states, strict=True))
        return found


def language_hash(bridge: Bridge) -> str:
    """SHA-256 of all in the language model that signal states depend on, and the prompt style."""
    language = bridge.language
    adapter = language.adapter
    adapted = ""
    if isinstance(adapter, LoraAdapter | HookedAdapter):
        adapted = hash_text(adapter.settings, hash_tensors(adapter.state_dict()))
    rows = hash_tensors(language.rows.state_dict())
    return hash_text(language.base_hash(), adapted, rows, language.signals, language.style)


def _file_state(part: MediaPart | MediaFile) -> tuple[object, ...]:
    """Names a file as it is now; nothing for a medium in memory."""
    if not isinstance(part, MediaFile):
        return ()
    path = Path(part.path)
    try:
        state = path.stat()
    except OSError:
        return ()  # reading it says what is wrong
    return (part.modality, str(path), state.st_size, state.st_mtime_ns)
