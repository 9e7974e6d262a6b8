"""The language model: prompts, signal tokens, adapters and the one constrained decode loop."""

from anyany.language.adapters import (
    Adapter,
    ExpertsAdapter,
    ExpertsSettings,
    GatedAttentionAdapter,
    GatedAttentionSettings,
    HookedAdapter,
    LoraAdapter,
    LoraSettings,
    ModalityAdapter,
    ModalityAdapterSettings,
    ModalityExpertAdapter,
    ModalityExpertSettings,
    NoAdapter,
    PassLayout,
)
from anyany.language.cache import SlotCache
from anyany.language.generation import generate, generate_iter
from anyany.language.model import LanguageConfig, LanguageModel
from anyany.language.prompts import (
    TEMPLATES,
    MediaSlot,
    PromptStyle,
    Segment,
    SpanSegment,
    Template,
    TokenSegment,
    media_parts,
    render,
    without_oldest_turn,
)
from anyany.language.requests import (
    Decoded,
    DecodeRequest,
    DecodeSettings,
    Span,
    TextDelta,
    TextPiece,
    check_request,
)
from anyany.language.rules import check_outputs, least_budget
from anyany.language.sampling import Sampling
from anyany.language.signals import SignalRows, SignalSpec

__all__ = [
    "TEMPLATES",
    "Adapter",
    "DecodeRequest",
    "DecodeSettings",
    "Decoded",
    "ExpertsAdapter",
    "ExpertsSettings",
    "GatedAttentionAdapter",
    "GatedAttentionSettings",
    "HookedAdapter",
    "LanguageConfig",
    "LanguageModel",
    "LoraAdapter",
    "LoraSettings",
    "MediaSlot",
    "ModalityAdapter",
    "ModalityAdapterSettings",
    "ModalityExpertAdapter",
    "ModalityExpertSettings",
    "NoAdapter",
    "PassLayout",
    "PromptStyle",
    "Sampling",
    "Segment",
    "SignalRows",
    "SignalSpec",
    "SlotCache",
    "Span",
    "SpanSegment",
    "Template",
    "TextDelta",
    "TextPiece",
    "TokenSegment",
    "check_outputs",
    "check_request",
    "generate",
    "generate_iter",
    "least_budget",
    "media_parts",
    "render",
    "without_oldest_turn",
]
