"""Put pocket's pre-trained components together into one system, its tuned parts still fresh."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from anyany.bridges import Bridge, BridgeConfig
from anyany.decoders import ImageDecoder, OutputProjector, OutputProjectorConfig
from anyany.encoders import ImageBind, ImageBindEncoder, ProjectorConfig
from anyany.language import LanguageConfig, LanguageModel, SignalSpec
from anyany.pocket.imagebind import EMBED_DIM, PREPROCESSING
from anyany.pocket.language_model import LANGUAGE_DIM, POCKET_STYLE
from anyany.system import AnyToAny
from anyany.system_config import DecoderEntry, EncoderConfig, SystemConfig

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerFast

NAME: Final = "pocket"
OUTPUT_PROJECTOR: Final = OutputProjectorConfig(
    hidden_dim=128, encoder_layers=2, decoder_layers=2, heads=4, ffn=512
)
CARD: Final = (
    "pocket knows a procedural world of eight things and nothing of real photographs. "
    "Weights and code: Apache-2.0."
)


def pocket_config(imagebind: ImageBind) -> SystemConfig:
    """The configuration that these components make."""
    return SystemConfig(
        name=NAME,
        encoder=EncoderConfig(
            imagebind.config,
            modalities=("image",),
            readout="patches",
            preprocessing=PREPROCESSING,
            licence="Apache-2.0",
        ),
        bridge=BridgeConfig(ProjectorConfig("linear", EMBED_DIM, LANGUAGE_DIM)),
        language=LanguageConfig(
            source="language",
            template="pocket",
            slot_prefix=POCKET_STYLE.slot_prefix,
            slot_suffix=POCKET_STYLE.slot_suffix,
            signals=SignalSpec(image=4, video=0, audio=0),
        ),
        decoders={"image": DecoderEntry("decoders/image", output_projector=OUTPUT_PROJECTOR)},
        card=CARD,
    )


def compose(
    imagebind: ImageBind, lm: Any, tokenizer: PreTrainedTokenizerFast, image: ImageDecoder
) -> AnyToAny:
    """A system of pre-trained components, with fresh projectors and signal rows."""
    config = pocket_config(imagebind)
    language = LanguageModel(lm, tokenizer, config.language)
    encoder = ImageBindEncoder(
        imagebind, "image", readout=config.encoder.readout, preprocessing=PREPROCESSING
    )
    bridge = Bridge({"image": encoder}, language, config.bridge)
    projector = OutputProjector.from_config(LANGUAGE_DIM, image.condition, OUTPUT_PROJECTOR)
    return AnyToAny(config, bridge, {"image": image}, {"image": projector})
