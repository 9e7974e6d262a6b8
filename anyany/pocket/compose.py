"""Put pocket's pre-trained components together into one system, its tuned parts still fresh."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import TYPE_CHECKING, Any, Final, cast

import torch

from anyany.bridges import Bridge, BridgeConfig
from anyany.decoders import OutputProjector, OutputProjectorConfig
from anyany.encoders import ImageBind, ImageBindEncoder, ProjectorConfig, ResamplerConfig
from anyany.encoders.projectors.mixture import MixtureProjector
from anyany.language import LanguageConfig, LanguageModel, SignalSpec
from anyany.messages import MEDIA_MODALITIES, Modality
from anyany.pocket.imagebind import EMBED_DIM, PREPROCESSING
from anyany.pocket.imagebind_media import MEDIA_PREPROCESSING
from anyany.pocket.language_model import LANGUAGE_DIM, POCKET_STYLE, word_id, world_words
from anyany.system import AnyToAny
from anyany.system_config import DecoderEntry, EncoderConfig, SystemConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

NAME: Final = "pocket"
OUTPUT_PROJECTOR: Final = OutputProjectorConfig(
    hidden_dim=128, encoder_layers=2, decoder_layers=2, heads=4, ffn=512
)
INPUT_PROJECTOR: Final = ProjectorConfig(
    "mixture",
    EMBED_DIM,
    LANGUAGE_DIM,
    hidden_dim=len(world_words()),
    resampler=ResamplerConfig(num_queries=6),
    given_table=True,
)
CARD: Final = (
    "pocket knows a procedural world of eight things and nothing of real photographs. "
    "Weights and code: Apache-2.0."
)


def pocket_config(imagebind: ImageBind, modalities: Collection[str]) -> SystemConfig:
    """The configuration that these components make.

    Args:
        imagebind: with an audio tower if it hears.
        modalities: of the decoders.
    """
    hears = imagebind.config.audio is not None
    return SystemConfig(
        name=NAME,
        encoder=EncoderConfig(
            imagebind.config,
            modalities=MEDIA_MODALITIES if hears else ("image",),
            readout="patches",
            preprocessing=MEDIA_PREPROCESSING if hears else PREPROCESSING,
            licence="Apache-2.0",
        ),
        bridge=BridgeConfig(INPUT_PROJECTOR),
        language=LanguageConfig(
            source="language",
            template="pocket",
            slot_prefix=POCKET_STYLE.slot_prefix,
            slot_suffix=POCKET_STYLE.slot_suffix,
            signals=SignalSpec(
                image=4 if "image" in modalities else 0,
                video=6 if "video" in modalities else 0,
                audio=4 if "audio" in modalities else 0,
            ),
        ),
        decoders={
            modality: DecoderEntry(f"decoders/{modality}", output_projector=OUTPUT_PROJECTOR)
            for modality in modalities
        },
        card=CARD,
    )


def compose(
    imagebind: ImageBind,
    lm: Any,
    tokenizer: PreTrainedTokenizerFast,
    decoders: Mapping[Modality, Any],
) -> AnyToAny:
    """A system of pre-trained components, with fresh projectors and signal rows."""
    config = pocket_config(imagebind, list(decoders))
    language = LanguageModel(lm, tokenizer, config.language)
    encoders = {
        modality: ImageBindEncoder(
            imagebind,
            cast("Any", modality),
            readout=config.encoder.readout,
            preprocessing=config.encoder.preprocessing,
        )
        for modality in config.encoder.modalities
    }
    bridge = Bridge(encoders, language, config.bridge)
    give_words(bridge)
    projectors: dict[str, OutputProjector] = {
        modality: OutputProjector.from_config(LANGUAGE_DIM, decoder.condition, OUTPUT_PROJECTOR)
        for modality, decoder in decoders.items()
    }
    return AnyToAny(config, bridge, decoders, projectors)


@torch.no_grad()
def give_words(bridge: Bridge) -> None:
    """Fill the input projector's table with the language model's own embeddings of the world's
    words: from its first lessons it reads media that are mixtures of these."""
    language = bridge.language
    ids = [word_id(word, cast("Any", language.tokenizer)) for word in world_words()]
    rows = language.lm.get_input_embeddings().weight[ids]  # type: ignore[operator]
    for projector in bridge.projectors.values():
        cast("MixtureProjector", projector).table.copy_(rows)
