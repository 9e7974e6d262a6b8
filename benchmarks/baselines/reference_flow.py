"""A plain per-request flow that works as NExT-GPT's inference does, over pocket's own weights.

One request at a time; the whole sequence again for every token, without a key-value cache; all
hidden states of all steps kept until the reply is done; the text encoder loaded, and "" encoded,
in every picture's call; one call of diffusers' StableDiffusionPipeline a picture. What would make
it slower still is left out: attention maps are not returned, and the pipeline is not loaded anew
for each picture.

Shapes: T tokens so far, S tokens of a span, D language width.
"""

from __future__ import annotations

import time
import warnings
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from anyany.bridges import user_media
from anyany.decoders import build_scheduler, part_generator
from anyany.messages import Message
from anyany.system import AnyToAny


@dataclass
class PlainReply:
    """One answer.

    Args:
        token_ids: of the reply, signal tokens included.
        picture: uint8 [H, W, 3], if one was drawn.
        seconds: per stage.
    """

    token_ids: list[int]
    picture: npt.NDArray[np.uint8] | None = None
    seconds: dict[str, float] = field(default_factory=dict)


class ReferenceFlow:
    """Answers requests one by one.

    Args:
        model: whose encoder, language model, projectors and decoder are used.
        num_inference_steps: of the pipeline.
        guidance_scale: of the pipeline.
    """

    def __init__(
        self, model: AnyToAny, *, num_inference_steps: int = 50, guidance_scale: float = 7.5
    ) -> None:
        self.model = model
        self.language = model.language
        self.steps = num_inference_steps
        self.guidance = guidance_scale
        self.pipeline = _pipeline(model)

    @torch.no_grad()
    def answer(
        self, messages: tuple[Message, ...], *, draws: bool, max_new_tokens: int, seed: int
    ) -> PlainReply:
        """Answer one conversation with exactly `max_new_tokens` tokens.

        Args:
            messages: of the conversation.
            draws: whether a picture must come; it comes once.
            max_new_tokens: signal tokens included.
            seed: of the picture's noise.
        """
        began = time.perf_counter()
        embeds = self._prompt(messages)
        encoded = time.perf_counter()
        token_ids, signal_hidden = self._write(embeds, draws, max_new_tokens)
        written = time.perf_counter()
        reply = PlainReply(token_ids)
        if signal_hidden is not None:
            reply.picture = self._draw(signal_hidden, seed)
        reply.seconds = {
            "encode": encoded - began,
            "language": written - encoded,
            "decode": time.perf_counter() - written,
        }
        return reply

    def _prompt(self, messages: tuple[Message, ...]) -> Tensor:
        bridge = self.model.bridge
        media = {
            index: bridge.project(bridge.encode(bridge.prepare(part)))
            for index, part in user_media(messages).items()
        }
        return bridge.embed(bridge.layout(messages, media), media)[None]  # [1, T, D]

    def _write(
        self, embeds: Tensor, draws: bool, max_new_tokens: int
    ) -> tuple[list[int], Tensor | None]:
        """Greedy tokens, and what the output projector reads: [1, S, D] or None."""
        span = self.language.signals.span("image")
        start = embeds.shape[1]
        token_ids: list[int] = []
        kept: list[tuple[Tensor, ...]] = []  # as `generate` keeps them: every layer, every step
        forced: list[int] = []
        first: int | None = None
        while len(token_ids) < max_new_tokens:
            states = self._forward(embeds)
            kept.append(states)
            left = max_new_tokens - len(token_ids)
            if not forced and draws and first is None and left <= len(span):
                forced = list(span)
            if not forced:
                may_start = draws and first is None and left >= len(span)
                choice = self._choose(states[-1][0, -1], span[0] if may_start else None)
                forced = list(span) if choice == span[0] else [choice]
            if forced[0] == span[0]:
                first = len(token_ids)
            token_ids.append(forced.pop(0))
            last = torch.tensor([[token_ids[-1]]], device=embeds.device)
            embeds = torch.cat([embeds, self.language.embed(last)], dim=1)
        if first is None:
            return token_ids, None
        if first + len(span) == len(token_ids):  # the last signal token's own state
            kept.append(self._forward(embeds))
        places = slice(start + first, start + first + len(span))
        hidden = kept[-1][-1][:, places]  # [1, S, D]
        return token_ids, hidden + embeds[:, places]

    def _forward(self, embeds: Tensor) -> tuple[Tensor, ...]:
        output = self.language.lm.base_model(
            inputs_embeds=embeds, use_cache=False, output_hidden_states=True
        )
        states: tuple[Tensor, ...] = output.hidden_states
        return states

    def _choose(self, hidden: Tensor, span_start: int | None) -> int:
        """The best id: of the tokenizer's, or the picture's first signal token."""
        scores = self.language.logits(hidden).float()  # [V + n]
        known = min(len(self.language.tokenizer), self.language.vocab_size)
        best = int(scores[:known].argmax())
        if span_start is not None and scores[span_start] > scores[best]:
            return span_start
        return best

    def _draw(self, signal_hidden: Tensor, seed: int) -> npt.NDArray[np.uint8]:
        decoder = self.model.decoders["image"]
        condition = self.model.output_projectors["image"](signal_hidden)
        noise = torch.randn(
            (1, *decoder.latent_shape()), generator=part_generator(seed, "image", 0)
        )
        picture = self.pipeline(
            prompt_embeds=condition["prompt_embeds"],
            latents=noise,
            num_inference_steps=self.steps,
            guidance_scale=self.guidance,
            height=noise.shape[2] * self.pipeline.vae_scale_factor,
            width=noise.shape[3] * self.pipeline.vae_scale_factor,
        ).images[0]
        return np.asarray(picture)


def _pipeline(model: AnyToAny) -> Any:
    from diffusers import StableDiffusionPipeline

    decoder = model.decoders["image"]
    decoder.encode_captions([""])  # loads the text encoder, which the pipeline keeps
    with warnings.catch_warnings():  # it wants steps_offset 1, which trailing spacing ignores
        warnings.filterwarnings("ignore", "The configuration file of this scheduler", FutureWarning)
        pipeline = _build(StableDiffusionPipeline, decoder)
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def _build(kind: Any, decoder: Any) -> Any:
    return kind(
        vae=decoder.vae,
        text_encoder=decoder.text.text_encoder,
        tokenizer=decoder.text.tokenizer,
        unet=decoder.unet,
        scheduler=build_scheduler("ddim", decoder.scheduler_config),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
