"""What the stages minimise, against loops that are written as they read."""

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl import AutoencoderKL
from diffusers.models.unets.unet_2d_condition import UNet2DConditionModel
from stage_toys import SPECS, FakeDecoder, drawing, editing, picture, recording, toy_parts
from torch import Tensor

from anyany.alignment.denoising import DenoisingLoss
from anyany.alignment.losses import min_snr_weights
from anyany.alignment.order import Draws
from anyany.alignment.samples import ListSource, MediaFile, MediaTarget, Sample, SampleSource, turn
from anyany.alignment.stage_errors import LossWeights
from anyany.alignment.stage_parts import StageParts
from anyany.alignment.stage_tasks import ConversationTask, ProjectorTask
from anyany.alignment.task import LossOutput
from anyany.decoders import Components, Condition, ImageDecoder, build_scheduler
from anyany.encoders import Encoder, ProjectorContext
from anyany.errors import PromptError, UsageError

WEIGHTS = LossWeights(text=0.5, signal=2.0, condition=3.0)


def loss_of(task: ConversationTask, indices: list[int]) -> LossOutput:
    draws = Draws(0, "loss", epochs=[0] * len(indices), indices=indices)
    return task.loss(task.batch(indices, draws), draws)


def plain(value: Tensor | float) -> float:
    return float(torch.as_tensor(value).detach())


def task_of(parts: StageParts, source: SampleSource, **options: object) -> ConversationTask:
    return ConversationTask(parts, source, WEIGHTS, **options)  # type: ignore[arg-type]


@torch.no_grad()
def naive(
    parts: StageParts, colors: tuple[str, str], scales: dict[str, float]
) -> dict[str, Tensor]:
    """One sample of `editing`, written out by hand: media in and out of the same conversation."""
    bridge, language = parts.bridge, parts.bridge.language
    one, other = colors
    media = []
    for modality, medium in (("image", picture(one).image), ("audio", recording(2))):
        encoder = bridge.encoders[modality]
        assert isinstance(encoder, Encoder)
        shown = encoder.prepare(medium)[None]
        features = encoder(shown).tokens
        context = ProjectorContext(modality, None, None)
        media.append(bridge.projectors["shared"](features, context)[0])
    image_in, audio_in = media

    def words(text: str) -> list[int]:
        return [language.tokenizer.convert_tokens_to_ids(word) for word in text.split()]

    first = language.vocab_size
    image_out, audio_out = [first, first + 1, first + 2], [first + 3, first + 4]
    pieces: list[tuple[object, str]] = [
        (words("<s> <user>"), ""),
        (image_in, ""),
        (words(f"the same in {other} <assistant>"), ""),
        (words("here it is ."), "text"),
        (image_out, "signal"),
        (words("</s>"), "text"),
        (words("<user> and then ?"), ""),
        (audio_in, ""),
        (words("<assistant>"), ""),
        (words("a drum"), "text"),
        (audio_out, "signal"),
        (words("</s>"), "text"),
    ]
    rows, ids, kinds = [], [], []
    for piece, kind in pieces:
        if isinstance(piece, Tensor):
            rows.append(piece)
            ids += [-1] * len(piece)
            kinds += [""] * len(piece)
            continue
        for token in piece:  # type: ignore[attr-defined]
            table = language.lm.get_input_embeddings().weight
            row = table[token] if token < first else language.rows.input_rows[token - first]
            rows.append(row[None])
            ids.append(token)
            kinds.append(kind)
    hidden = language.lm.model(inputs_embeds=torch.cat(rows)[None]).last_hidden_state[0]
    head = torch.cat([language.lm.lm_head.weight, language.rows.output_rows])
    sums = {"text": torch.zeros(()), "signal": torch.zeros(())}
    for place, kind in enumerate(kinds):
        if kind:
            logits = head @ hidden[place - 1]
            sums[kind] = sums[kind] - logits.log_softmax(0)[ids[place]]
    for modality, span, caption in (
        ("image", image_out, f"a {other} bell"),
        ("audio", audio_out, "a drum sounds"),
    ):
        start = ids.index(span[0])
        states = hidden[start : start + len(span)]
        states = states + language.rows.input_rows[[token - first for token in span]]
        said = parts.output_projector(modality)(states[None])
        (name,) = SPECS[modality].tensors
        wanted = FakeDecoder(modality).encode_captions([caption])[name][0]  # type: ignore[arg-type]
        width = SPECS[modality].tensors[name].width
        apart = (said[name][0] - wanted).reshape(-1, width)
        distances = [vector.square().sum().sqrt() for vector in apart]
        sums[f"condition_{modality}"] = sum(distances) / len(distances) / scales[modality]
    return sums


def scales_of(task: ConversationTask) -> dict[str, float]:
    return {
        modality: float(next(task.conditions.scales[modality].buffers()))
        for modality in ("image", "audio")
    }


def test_media_in_and_out_of_one_conversation_equal_a_naive_loop() -> None:
    parts = toy_parts()
    source = editing()
    task = task_of(parts, source)
    scales = scales_of(task)
    sums = [naive(parts, pair, scales) for pair in (("red", "blue"), ("pink", "red"))]
    total = {name: sum(float(one[name]) for one in sums) for name in sums[0]}
    with torch.no_grad():
        output = loss_of(task, [0, 3])
    counts = {"text": 2 * 8, "signal": 2 * 5, "condition_image": 2, "condition_audio": 2}
    each = {"text": 0.5, "signal": 2.0, "condition_image": 3.0, "condition_audio": 3.0}
    for name, count in counts.items():
        assert plain(output.named[name]) == pytest.approx(total[name] / count, rel=1e-4)
    weight = sum(counts[name] * each[name] for name in counts)
    assert output.weight == pytest.approx(weight)
    expected = sum(total[name] * each[name] for name in counts) / weight
    assert plain(output.total) == pytest.approx(expected, rel=1e-4)


def test_gradients_do_not_depend_on_how_a_batch_is_cut() -> None:
    parts = toy_parts()
    task = task_of(parts, ListSource([*editing().samples, *drawing().samples]))
    parameters = [*parts.output_projectors.parameters(), parts.bridge.language.rows.input_rows]

    def gradient(cuts: list[list[int]]) -> list[Tensor]:
        weight = 0.0
        for parameter in parameters:
            parameter.grad = None
        for cut in cuts:
            output = loss_of(task, cut)
            (output.total * output.weight).backward()  # type: ignore[no-untyped-call]
            weight += float(output.weight)
        return [p.grad / weight for p in parameters if p.grad is not None]

    whole = gradient([[0, 4, 9, 1]])
    for one, other in zip(whole, gradient([[0], [4, 9], [1]]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


def test_a_constant_is_at_distance_one() -> None:
    task = task_of(toy_parts(), drawing())
    targets = [task.targets(t) for s in drawing().samples for t in s.targets.values()]
    stacked = torch.cat([c["prompt_embeds"] for c in targets if "prompt_embeds" in c.tensors])
    apart = (stacked - stacked.mean(0)).norm(dim=-1).mean()
    assert scales_of(task)["image"] == pytest.approx(float(apart))


def test_captions_are_embedded_once_and_embeddings_are_taken_as_they_are(tmp_path: Path) -> None:
    from anyany.alignment.caches import MemoryStore

    parts = toy_parts()
    embedding = {"prompt_embeds": torch.ones(3, 6)}
    given = Sample(
        (turn("user", "draw a bell"), turn("assistant", MediaTarget("image", embedding=embedding)))
    )
    task = task_of(parts, ListSource([*drawing().samples, given]), store=MemoryStore())
    for _ in range(2):
        loss_of(task, [0, 1, 2, 6])
    decoder = parts.decoders["image"]
    assert isinstance(decoder, FakeDecoder)
    drawn = [caption for caption in decoder.asked if caption.endswith("bell")]
    assert sorted(drawn) == sorted(set(drawn))
    (item,) = task.batch([6], Draws(0, "batch", epochs=[0], indices=[6]))
    assert torch.equal(item.wanted.conditions[0]["prompt_embeds"], torch.ones(1, 3, 6))


def test_an_embedding_of_another_decoder_is_refused() -> None:
    wide = MediaTarget("image", embedding={"prompt_embeds": torch.ones(3, 7)})
    sample = Sample((turn("user", "draw a bell"), turn("assistant", wide)))
    with pytest.raises(UsageError, match=r"\[B, 3, 6\], got \[1, 3, 7\]"):
        task_of(toy_parts(), ListSource([sample]))


def test_samples_that_cannot_be_used_are_left_out_by_name(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    lost = MediaFile("image", tmp_path / "lost.png")
    missing = Sample((turn("user", lost, "what is this ?"), turn("assistant", "a bell .")), "lost")
    long = Sample((turn("user", "bell " * 99), turn("assistant", "a bell .")), "long")
    good = Sample((turn("user", "what is this ?"), turn("assistant", "a bell .")), "good")
    parts = toy_parts(context=64)
    task = task_of(parts, ListSource([missing, long, good]))
    with caplog.at_level(logging.WARNING):
        alone = loss_of(task, [2])
        mixed = loss_of(task, [0, 1, 2])
        loss_of(task, [0, 1])
    assert plain(alone.total) == pytest.approx(plain(mixed.total), rel=1e-5)
    assert len(caplog.records) == 2
    assert "sample lost" in caplog.text
    assert "sample long: 106 tokens, the context holds 64" in caplog.text
    nothing = loss_of(task, [0, 1])
    assert nothing.weight == 0
    assert plain(nothing.total) == 0
    nothing.total.backward()  # type: ignore[no-untyped-call]


def test_a_conversation_out_of_order_is_named() -> None:
    wrong = Sample((turn("assistant", "hello"),), "row 7")
    with pytest.raises(PromptError, match="sample row 7: expected a user's turn"):
        loss_of(task_of(toy_parts(), ListSource([wrong])), [0])


def test_projectors_alone_see_the_conditions_of_the_whole() -> None:
    parts = toy_parts()
    whole = loss_of(task_of(parts, editing()), [0, 1])
    alone = loss_of(ProjectorTask(parts, editing(), WEIGHTS), [0, 1])
    for name in ("condition_image", "condition_audio"):
        torch.testing.assert_close(whole.named[name], alone.named[name], rtol=1e-4, atol=1e-5)
    assert alone.weight == 4 * 3.0
    assert "text" not in alone.named
    alone.total.backward()  # type: ignore[no-untyped-call]
    assert parts.bridge.language.rows.input_rows.grad is None
    assert all(p.grad is not None for p in parts.output_projectors.parameters())


@pytest.fixture(scope="module")
def image_decoder() -> Any:
    torch.manual_seed(0)
    unet = UNet2DConditionModel(
        sample_size=4,
        in_channels=2,
        out_channels=2,
        down_block_types=("CrossAttnDownBlock2D",),
        up_block_types=("CrossAttnUpBlock2D",),
        block_out_channels=(8,),
        layers_per_block=1,
        cross_attention_dim=6,
        attention_head_dim=2,
        norm_num_groups=2,
    )
    vae = AutoencoderKL(
        in_channels=3,
        out_channels=3,
        latent_channels=2,
        block_out_channels=(4, 4),
        down_block_types=("DownEncoderBlock2D",) * 2,
        up_block_types=("UpDecoderBlock2D",) * 2,
        norm_num_groups=2,
    )
    scheduler = {"_class_name": "DDIMScheduler", "prediction_type": "v_prediction"}
    return ImageDecoder(Components(unet, vae, scheduler), SPECS["image"])


def test_the_denoising_loss_equals_a_naive_loop(image_decoder: Any) -> None:
    loss = DenoisingLoss(image_decoder, min_snr_gamma=5.0, timestep_power=0.5)
    targets = [MediaTarget("image", medium=picture(color)) for color in ("red", "blue")]
    latents = torch.stack([loss.latents(target) for target in targets])  # type: ignore[misc]
    assert latents.shape == (2, 2, 4, 4)
    condition = Condition({"prompt_embeds": torch.randn(2, 3, 6)})
    found = loss(condition, latents, [torch.Generator().manual_seed(n) for n in (3, 4)])
    alphas = build_scheduler("native", image_decoder.scheduler_config).alphas_cumprod
    for row in range(2):
        generator = torch.Generator().manual_seed(3 + row)
        step = int(float(torch.rand(1, generator=generator).double() ** 0.5) * 1000)
        noise = torch.randn(2, 4, 4, generator=generator)
        a = alphas[step]
        noisy = a.sqrt() * latents[row] + (1 - a).sqrt() * noise
        said = image_decoder.unet(
            noisy[None],
            torch.tensor([step]),
            encoder_hidden_states=condition["prompt_embeds"][[row]],
        ).sample[0]
        velocity = a.sqrt() * noise - (1 - a).sqrt() * latents[row]
        error = (said - velocity).square().mean() * min_snr_weights("v_prediction", a[None])[0]
        assert plain(found[row]) == pytest.approx(plain(error), rel=1e-4)


def test_the_denoising_loss_teaches_the_projector_through_a_frozen_unet(
    image_decoder: Any,
) -> None:
    base = toy_parts()
    parts = StageParts(base.bridge, base.output_projectors, {"image": image_decoder})
    target = MediaTarget("image", medium=picture("red"))  # no caption: denoising alone
    both = MediaTarget(
        "image", embedding={"prompt_embeds": torch.zeros(3, 6)}, latents=torch.ones(2, 4, 4)
    )
    source = ListSource(
        [Sample((turn("user", "draw a bell"), turn("assistant", t))) for t in (target, both)]
    )
    weights = LossWeights(text=0, signal=0, condition=1.0, denoising=2.0)
    task = ConversationTask(parts, source, weights)
    output = loss_of(task, [0, 1])
    assert output.weight == 1.0 + 2 * 2.0
    expected = output.named["condition_image"] + 4 * output.named["denoising_image"]
    assert plain(output.total) == pytest.approx(plain(expected) / 5, rel=1e-5)
    output.total.backward()  # type: ignore[no-untyped-call]
    assert all(p.grad is not None for p in parts.output_projector("image").parameters())
    assert all(p.grad is None for p in image_decoder.parameters())
    assert plain(loss_of(task, [0, 1]).total) == pytest.approx(plain(output.total))


def test_the_denoising_loss_says_what_it_needs(image_decoder: Any) -> None:
    with pytest.raises(UsageError, match="decoder of image with a UNet"):
        DenoisingLoss(FakeDecoder("image"))
    loss = DenoisingLoss(image_decoder)
    with pytest.raises(UsageError, match="for audio give latents"):
        loss.latents(MediaTarget("audio", medium=recording(1)))
    with pytest.raises(UsageError, match=r"latents \[2, 4, 4\], got \[1, 4, 4\]"):
        loss.latents(MediaTarget("image", latents=torch.zeros(1, 4, 4)))
    assert loss.latents(MediaTarget("image", caption="a bell")) is None
