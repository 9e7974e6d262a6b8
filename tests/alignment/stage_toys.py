"""A whole system of toy size, made on the spot: two ways in, two ways out, a word-level Llama."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from anyany.alignment.samples import ListSource, MediaTarget, Sample, turn
from anyany.alignment.stage_parts import StageParts
from anyany.bridges import Bridge, BridgeConfig
from anyany.decoders import Condition, ConditionSpec, OutputProjector, TensorSpec
from anyany.decoders.decoder import Modality
from anyany.encoders import (
    AudioConfig,
    AudioPreprocessing,
    ImageBind,
    ImageBindConfig,
    ImageBindEncoder,
    ImagePreprocessing,
    PreprocessingConfig,
    ProjectorConfig,
    VisionConfig,
)
from anyany.language import LanguageConfig, LanguageModel, SignalSpec
from anyany.messages import AudioPart, ImagePart

COLORS = {
    "red": (220, 20, 20),
    "green": (20, 200, 20),
    "blue": (20, 20, 220),
    "pink": (240, 160, 200),
}
TEXT = "draw a bell drum in what is this ? here it . make of sounds like the same and then"
DIM = 16
SPECS = {
    "image": ConditionSpec({"prompt_embeds": TensorSpec((3, 6))}),
    "audio": ConditionSpec({"class_labels": TensorSpec((5,), normalize=True)}),
}


class FakeDecoder:
    """Embeds captions by their hash; remembers how often it was asked."""

    def __init__(self, modality: Modality, salt: str = "") -> None:
        self.modality: Modality = modality
        self.condition = SPECS[modality]
        self.salt = salt
        self.asked: list[str] = []

    def encode_captions(self, captions: Sequence[str]) -> Condition:
        self.asked += captions
        tensors = {}
        for name, spec in self.condition:
            rows = []
            for caption in captions:
                seed = hashlib.sha256(f"{self.salt}{name}{caption}".encode()).digest()[:4]
                generator = torch.Generator().manual_seed(int.from_bytes(seed, "big"))
                rows.append(torch.randn(spec.shape, generator=generator))
            stacked = torch.stack(rows)
            tensors[name] = nn.functional.normalize(stacked, dim=-1) if spec.normalize else stacked
        return Condition(tensors)

    def __call__(self, condition: Condition, **run: object) -> torch.Tensor:
        raise AssertionError("no stage decodes")

    def decode_batch(
        self, condition: Condition, generators: Sequence[torch.Generator], **run: object
    ) -> torch.Tensor:
        raise AssertionError("no stage decodes")


def word_tokenizer() -> PreTrainedTokenizerFast:
    words = ["<pad>", "<s>", "</s>", "<unk>", "<user>", "<assistant>", *COLORS, *TEXT.split()]
    backend = Tokenizer(models.WordLevel({w: i for i, w in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=backend,
        pad_token="<pad>",
        bos_token="<s>",
        eos_token="</s>",
        unk_token="<unk>",
        additional_special_tokens=["<user>", "<assistant>"],
    )


def toy_parts(seed: int = 0, *, context: int = 128, layers: int = 1) -> StageParts:
    """The system; equal weights for equal seeds."""
    torch.manual_seed(seed)
    imagebind = ImageBind(
        ImageBindConfig(
            embed_dim=8,
            vision=VisionConfig(dim=8, num_blocks=1, num_heads=2, image_size=16, patch_size=8),
            audio=AudioConfig(
                dim=8,
                num_blocks=1,
                num_heads=2,
                num_mel_bins=16,
                num_frames=32,
                patch_size=8,
                stride=8,
            ),
        )
    ).eval()
    preprocessing = PreprocessingConfig(
        image=ImagePreprocessing(size=16), audio=AudioPreprocessing(num_mel_bins=16, num_frames=32)
    )
    encoders = {
        "image": ImageBindEncoder(imagebind, "image", preprocessing=preprocessing),
        "audio": ImageBindEncoder(imagebind, "audio", preprocessing=preprocessing),
    }
    tokenizer = word_tokenizer()
    lm = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=DIM,
            intermediate_size=24,
            num_hidden_layers=layers,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=context,
            tie_word_embeddings=False,
            initializer_range=0.3,
        )
    )
    config = LanguageConfig(signals=SignalSpec(image=3, video=0, audio=2))
    language = LanguageModel(lm, tokenizer, config)
    bridge = Bridge(
        encoders, language, BridgeConfig(ProjectorConfig(encoder_dim=8, language_dim=DIM))
    )
    sizes = {"hidden_dim": 16, "encoder_layers": 1, "decoder_layers": 1, "heads": 2, "ffn": 16}
    projectors = nn.ModuleDict({m: OutputProjector(DIM, s, **sizes) for m, s in SPECS.items()})
    return StageParts(
        bridge, projectors, {"image": FakeDecoder("image"), "audio": FakeDecoder("audio")}
    )


@functools.cache
def picture(color: str) -> ImagePart:
    return ImagePart(Image.new("RGB", (16, 16), COLORS[color]))


@functools.cache
def recording(pitch: int) -> AudioPart:
    time = np.arange(8000) / 16_000
    return AudioPart(np.sin(2 * np.pi * 100 * pitch * time)[None].astype(np.float32), 16_000)


def describing() -> ListSource:
    """Pictures and sounds to words."""
    seen = [
        Sample((turn("user", picture(c), "what is this ?"), turn("assistant", f"a {c} bell .")), c)
        for c in COLORS
    ]
    heard = Sample((turn("user", recording(3)), turn("assistant", "a drum .")), "drum")
    return ListSource([*seen, heard])


def drawing() -> ListSource:
    """Words to pictures and sounds."""
    samples = [
        Sample(
            (
                turn("user", f"draw a {c} bell"),
                turn("assistant", "here it is .", MediaTarget("image", f"a {c} bell")),
            ),
            c,
        )
        for c in COLORS
    ]
    for thing in ("bell", "drum"):
        reply = turn("assistant", MediaTarget("audio", f"a {thing} sounds"), "like this .")
        samples.append(Sample((turn("user", f"what sounds like a {thing} ?"), reply), thing))
    return ListSource(samples)


def editing() -> ListSource:
    """A picture comes in and a picture goes out, in one conversation, twice."""
    pairs = [("red", "blue"), ("blue", "green"), ("green", "pink"), ("pink", "red")]
    return ListSource(
        [
            Sample(
                (
                    turn("user", picture(one), "the same in", other),
                    turn("assistant", "here it is .", MediaTarget("image", f"a {other} bell")),
                    turn("user", "and then ?", recording(2)),
                    turn("assistant", "a drum", MediaTarget("audio", "a drum sounds")),
                ),
                f"{one}-{other}",
            )
            for one, other in pairs
        ]
    )
