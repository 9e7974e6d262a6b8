"""The one forward: where everything lies, and that company changes nothing."""

import hashlib

import numpy as np
import pytest
import torch
from stage_toys import DIM, picture, toy_parts

from anyany.bridges import IGNORED, Bridge, BridgeConfig, user_media
from anyany.encoders import ProjectorConfig, TilerConfig
from anyany.errors import ConfigError, PromptError, UsageError
from anyany.messages import AudioPart, ImagePart, Message, TextPart, VideoPart


@pytest.fixture(scope="module")
def bridge() -> Bridge:
    return toy_parts().bridge


def conversation() -> list[Message]:
    """A picture comes in and another goes out, so that spans stand behind a slot."""
    return [
        Message("user", (picture("red"), TextPart("make the same in green"))),
        Message("assistant", (TextPart("here it is ."), picture("green"))),
    ]


def projected(bridge: Bridge, messages: list[Message]) -> dict[int, torch.Tensor]:
    with torch.no_grad():
        return {
            index: bridge.project(bridge.encode(bridge.prepare(part)))
            for index, part in user_media(messages).items()
        }


def test_layout_places_slots_spans_and_loss(bridge: Bridge) -> None:
    messages = conversation()
    media = projected(bridge, messages)
    layout = bridge.layout(messages, media, training=True)
    signals = bridge.language.signals
    (slot,) = layout.slots
    (span,) = layout.spans
    assert media[0].shape == (slot.length, DIM)
    assert slot.index == 0
    assert span.index == 1
    assert tuple(layout.token_ids[span.positions].tolist()) == signals.span("image")
    assert layout.loss_mask[span.positions].all()
    assert not layout.loss_mask[: span.start - 4].any()
    assert layout.token_ids[-1] == bridge.language.tokenizer.eos_token_id


def test_embedding_puts_the_media_into_their_slot_and_nowhere_else(bridge: Bridge) -> None:
    messages = conversation()
    media = projected(bridge, messages)
    layout = bridge.layout(messages, media, training=True)
    embeds = bridge.embed(layout, media)
    (slot,) = layout.slots
    assert torch.equal(embeds[slot.positions], media[0])
    plain = bridge.language.embed(layout.token_ids[None])[0]
    outside = torch.ones(len(layout), dtype=torch.bool)
    outside[slot.positions] = False
    assert torch.equal(embeds[outside], plain[outside])


def test_padding_and_company_leave_hidden_states_as_they_are(bridge: Bridge) -> None:
    one = conversation()
    other = [Message("user", (TextPart("draw a bell"),)), Message("assistant", (TextPart("a"),))]
    layouts = [bridge.layout(m, projected(bridge, m), training=True) for m in (one, other)]
    media = [projected(bridge, m) for m in (one, other)]
    with torch.no_grad():
        both = bridge(layouts, media)
        alone = [bridge([layout], [own]) for layout, own in zip(layouts, media, strict=True)]
    for row, single in enumerate(alone):
        length = len(layouts[row])
        torch.testing.assert_close(both.hidden[row, :length], single.hidden[0], atol=1e-5, rtol=0)
        assert (both.labels[row, length:] == IGNORED).all()


def test_signal_states_are_those_of_the_spans_own_positions(bridge: Bridge) -> None:
    messages = conversation()
    media = projected(bridge, messages)
    layout = bridge.layout(messages, media, training=True)
    with torch.no_grad():
        output = bridge([layout], [media])
        states = bridge.signal_states(output, "image")
    (span,) = layout.spans
    rows = bridge.language.rows.input_rows[: span.length]
    expected = output.hidden[0, span.start : span.start + span.length] + rows
    torch.testing.assert_close(states, expected[None])
    assert bridge.signal_states(output, "audio").shape == (0, 2, DIM)


def test_projecting_together_equals_projecting_one_by_one(bridge: Bridge) -> None:
    rng = np.random.default_rng(0)
    sound = AudioPart(rng.uniform(-1, 1, (1, 16_000)).astype(np.float32), 16_000)
    encoded = bridge.encode_parts([picture("red"), sound, picture("blue")])
    together = bridge.project_batch(encoded)
    for item, rows in zip(encoded, together, strict=True):
        torch.testing.assert_close(rows, bridge.project(item), atol=1e-6, rtol=0)


def test_prepared_media_hash_by_content(bridge: Bridge) -> None:
    same = [bridge.prepare(picture("red")).sha256() for _ in range(2)]
    assert same[0] == same[1] != bridge.prepare(picture("blue")).sha256()
    assert len(same[0]) == len(hashlib.sha256().hexdigest())


def test_gradients_reach_projector_and_rows_but_not_a_frozen_encoder(bridge: Bridge) -> None:
    parts = toy_parts(1)
    parts.bridge.encoders.requires_grad_(False)
    parts.bridge.language.lm.requires_grad_(False)
    messages = conversation()
    media = {
        index: parts.bridge.project(parts.bridge.encode(parts.bridge.prepare(part)))
        for index, part in user_media(messages).items()
    }
    layout = parts.bridge.layout(messages, media, training=True)
    parts.bridge([layout], [media]).hidden.square().sum().backward()
    touched = {
        name for name, p in parts.bridge.named_parameters() if p.grad is not None and p.grad.any()
    }
    assert any(name.startswith("projectors") for name in touched)
    assert "language.rows.input_rows" in touched
    assert not any(name.startswith(("encoders", "language.lm")) for name in touched)


def test_what_does_not_fit_is_said_in_one_line(bridge: Bridge) -> None:
    clip = VideoPart(np.zeros((2, 16, 16, 3), np.uint8), 8.0)
    with pytest.raises(UsageError, match="expected media among image, audio; got video"):
        bridge.prepare(clip)
    encoders = {name: bridge.encoders[name] for name in ("image",)}
    for config, text in (
        (BridgeConfig(ProjectorConfig(encoder_dim=9, language_dim=DIM)), "encoder_dim: expected 8"),
        (BridgeConfig(ProjectorConfig(encoder_dim=8, language_dim=7)), "language_dim: expected 16"),
        (
            BridgeConfig(
                ProjectorConfig(encoder_dim=8, language_dim=DIM), tilers={"video": TilerConfig()}
            ),
            "tilers: expected modalities among image; got video",
        ),
    ):
        with pytest.raises(ConfigError, match=text):
            Bridge(encoders, bridge.language, config)  # type: ignore[arg-type]
    with pytest.raises(PromptError, match="prompt is empty"):
        bridge.layout([Message("user", (TextPart("  "),))], {})


def test_user_media_are_numbered_as_in_the_conversation() -> None:
    messages = [*conversation(), Message("user", (picture("blue"), TextPart("and this ?")))]
    assert list(user_media(messages)) == [0, 2]
    assert all(isinstance(part, ImagePart) for part in user_media(messages).values())
