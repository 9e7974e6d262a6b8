"""Any recipe at toy sizes: an encoder of two blocks, a word-level Llama of two, media and talks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from stage_toys import word_tokenizer
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from anyany.bridges import IGNORED, Bridge, BridgeRecipe, build_bridge, fitted, user_media
from anyany.encoders import (
    AudioConfig,
    AudioPreprocessing,
    ImageBind,
    ImageBindConfig,
    ImagePreprocessing,
    PreprocessingConfig,
    VideoPreprocessing,
    VisionConfig,
)
from anyany.language import (
    DecodeRequest,
    DecodeSettings,
    LanguageConfig,
    LanguageModel,
    SignalSpec,
    generate,
)
from anyany.messages import AudioPart, ImagePart, MediaPart, Message, TextPart, VideoPart

DIM = 16
TOWER: dict[str, Any] = {"dim": 16, "num_blocks": 2, "num_heads": 2}
IMAGEBIND = ImageBindConfig(
    embed_dim=16,
    vision=VisionConfig(**TOWER, image_size=16, patch_size=4),
    audio=AudioConfig(**TOWER, num_mel_bins=16, num_frames=32, patch_size=8, stride=8, drop_path=0),
)
SMALL = PreprocessingConfig(
    ImagePreprocessing(size=16),
    VideoPreprocessing(size=16, num_clips=1, num_crops=1),
    AudioPreprocessing(num_mel_bins=16, num_frames=32, num_clips=2),
)
ARCHITECTURE: dict[str, Any] = {
    "hidden_size": DIM,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "max_position_embeddings": 1024,
    "tie_word_embeddings": False,
    "initializer_range": 0.3,
}
LANGUAGE = LanguageConfig(source="language", signals=SignalSpec(image=2, video=0, audio=0))
EVERY = ("image", "video", "audio")


def toy_imagebind() -> ImageBind:
    torch.manual_seed(0)
    return ImageBind(IMAGEBIND).eval()


def toy_language(config: LanguageConfig = LANGUAGE, **sizes: Any) -> LanguageModel:
    torch.manual_seed(1)
    tokenizer = word_tokenizer()
    lm = LlamaForCausalLM(LlamaConfig(vocab_size=len(tokenizer), **{**ARCHITECTURE, **sizes}))
    return LanguageModel(lm, tokenizer, config)


def toy_bridge(recipe: BridgeRecipe, modalities: Sequence[str] = EVERY) -> Bridge:
    """The recipe's bridge, its sizes cut to the toys."""
    imagebind, language = toy_imagebind(), toy_language()
    torch.manual_seed(2)
    small = fitted(recipe, imagebind, language)
    return build_bridge(small, imagebind, language, modalities, preprocessing=SMALL)


@torch.no_grad()
def stir(bridge: Bridge) -> None:
    """Move every parameter from where it begins, as training would."""
    generator = torch.Generator().manual_seed(3)
    adapters = list(bridge.language.adapter.trainable())
    for parameter in [*bridge.encoders.parameters(), *bridge.projectors.parameters(), *adapters]:
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))


def photo(width: int = 40, height: int = 26, seed: int = 0) -> ImagePart:
    pixels = np.random.default_rng(seed).integers(0, 255, (height, width, 3), np.uint8)
    return ImagePart(Image.fromarray(pixels))


def clip(num_frames: int = 5) -> VideoPart:
    rng = np.random.default_rng(0)
    return VideoPart(rng.integers(0, 255, (num_frames, 16, 16, 3), np.uint8), 1.0)


def sound() -> AudioPart:
    noise = np.random.default_rng(0).normal(size=(1, 16_000)).astype(np.float32)
    return AudioPart(noise, 16_000)


MEDIA: dict[str, MediaPart] = {"image": photo(), "video": clip(), "audio": sound()}


def talk(*parts: MediaPart, answer: str | None = "a red bell .") -> list[Message]:
    asked = Message("user", (*parts, TextPart("what is this ?")))
    return [asked] if answer is None else [asked, Message("assistant", (TextPart(answer),))]


def read(bridge: Bridge, messages: Sequence[Message]) -> dict[int, Tensor]:
    """The projected media of a conversation, by their index."""
    asked = bridge.instructions(messages)
    return {i: bridge.read(part, asked.get(i)) for i, part in user_media(messages).items()}


def loss_of(bridge: Bridge, talks: Sequence[Sequence[Message]]) -> Tensor:
    """Mean cross-entropy of the replies, and the adapter's own loss."""
    media = [read(bridge, one) for one in talks]
    layouts = [
        bridge.layout(one, own, training=True) for one, own in zip(talks, media, strict=True)
    ]
    output = bridge(layouts, media)
    logits = bridge.language.logits(output.hidden[:, :-1])
    loss = F.cross_entropy(
        logits.flatten(0, 1), output.labels[:, 1:].flatten(), ignore_index=IGNORED
    )
    total: Tensor = loss + output.aux
    return total


@torch.no_grad()
def cached(bridge: Bridge, messages: Sequence[Message], length: int = 6) -> tuple[int, ...]:
    """What the decode loop writes, greedily."""
    media = read(bridge, messages)
    layout = bridge.layout(messages, media)
    request = DecodeRequest(
        bridge.embed(layout, media),
        outputs=frozenset({"text"}),
        max_new_tokens=length,
        layout=layout,
        visual=media,
    )
    return generate(bridge.language, [request], DecodeSettings(rows=1))[0].token_ids


@torch.no_grad()
def uncached(bridge: Bridge, messages: Sequence[Message], length: int = 6) -> tuple[int, ...]:
    """The same by the bridge's forward alone, over the whole conversation for every token."""
    language, media = bridge.language, read(bridge, messages)
    prompt = bridge.layout(messages, media)
    written: list[int] = []
    while len(written) < length:
        layout = _longer(prompt, written)
        hidden = bridge([layout], [media]).hidden[0, -1]
        scores = language.logits(hidden)[: language.vocab_size]
        if not language.decode(written).strip():  # text is asked for
            scores[list(language.stop_ids)] = -torch.inf
            if len(written) == length - 1:
                scores = scores.masked_fill(language.blank_ids, -torch.inf)
        token = int(scores.argmax())
        if token in language.stop_ids:
            break
        written.append(token)
    return tuple(written)


def _longer(layout: Any, written: Sequence[int]) -> Any:
    ids = torch.cat([layout.token_ids, torch.tensor(written, dtype=torch.long)])
    return type(layout)(ids, torch.zeros(len(ids), dtype=torch.bool), layout.slots, layout.spans)


def learn(
    bridge: Bridge, trained: Mapping[str, torch.nn.Parameter], steps: int = 3
) -> tuple[list[float], set[str]]:
    """Train on a talk for each modality.

    Three steps: a low-rank update behind a gate learns in the third, as both begin at 0.

    Returns:
        The losses, and the names of what never had a gradient other than 0.
    """
    optimizer = torch.optim.SGD(list(trained.values()), lr=0.05)
    talks = [talk(MEDIA[modality]) for modality in bridge.modalities]
    still, losses = set(trained), []
    for _ in range(steps):
        loss = loss_of(bridge, talks)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        losses.append(float(loss.detach()))
        still -= {n for n, p in trained.items() if p.grad is not None and bool(p.grad.any())}
        optimizer.step()
    return losses, still
