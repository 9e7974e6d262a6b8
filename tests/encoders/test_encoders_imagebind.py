"""ImageBind against the published network's numbers, names and read-outs."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from imagebind_fixtures import POCKET, TINY, huge_manifest, tensors, tiny_imagebind, tiny_state
from torch import Tensor, nn

from anyany.encoders import ImageBind, ImageBindConfig, IMUConfig, TextConfig, VisionConfig
from anyany.encoders.imagebind.transformer import SelfAttention, StochasticDepth, Trunk
from anyany.errors import ConfigError

LOGIT_SCALES = {"vision": 1.0, "text": 1 / 0.07, "audio": 20, "depth": 5, "thermal": 10, "imu": 5}
CASES = ["vision_112", "video", "text", "audio", "depth", "thermal", "imu"]


def _case(case: str) -> tuple[str, Tensor]:
    """Modality and input of a stored case."""
    if case == "video":  # two clips
        clip = tensors()["input.video.clip0"]
        return "vision", torch.stack([clip, -0.5 * clip], dim=1)
    return ("vision" if case == "vision_112" else case), tensors()[f"input.{case}"]


@pytest.mark.parametrize("case", CASES)
def test_equals_the_published_outputs(case: str) -> None:
    modality, batch = _case(case)
    with torch.no_grad():
        output = tiny_imagebind()({modality: batch})[modality]
    torch.testing.assert_close(output, tensors()[f"output.{case}"], atol=1e-5, rtol=0)


def test_a_picture_is_a_clip_that_stands_still() -> None:
    pixels = torch.randn(2, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    still = pixels[:, None, :, None].expand(-1, 1, -1, 2, -1, -1)
    with torch.no_grad():
        features = [tiny_imagebind().features("vision", batch) for batch in (pixels, still)]
    torch.testing.assert_close(features[0].tokens, features[1].tokens, atol=1e-6, rtol=0)
    torch.testing.assert_close(features[0].pooled, features[1].pooled, atol=1e-6, rtol=0)


def test_full_size_names_shapes_and_kinds_are_the_published_ones() -> None:
    with torch.device("meta"):
        model = ImageBind(ImageBindConfig.huge())
    parameters = dict(model.named_parameters())
    built: dict[str, list[object]] = {
        name: [
            list(tensor.shape),
            str(tensor.dtype).removeprefix("torch."),
            "parameter" if name in parameters else "buffer",
        ]
        for name, tensor in model.state_dict().items()
    }
    assert len(built) == 1_311
    assert built == huge_manifest()
    assert sum(parameter.numel() for parameter in parameters.values()) == 1_200_781_057


@pytest.mark.parametrize("case", CASES)
def test_pooled_readout_is_the_output_without_scale(case: str) -> None:
    modality, batch = _case(case)
    with torch.no_grad():
        features = tiny_imagebind().features(modality, batch)
    expected = tensors()[f"output.{case}"] / LOGIT_SCALES[modality]
    torch.testing.assert_close(features.pooled, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize(
    ("case", "grid"),
    [
        ("video", (16, 16)),
        ("vision_112", (8, 8)),
        ("audio", (12, 19)),
        ("depth", (14, 14)),
        ("imu", (250,)),
    ],
)
def test_patch_tokens_pass_norm_projection_and_normalisation(
    case: str, grid: tuple[int, ...]
) -> None:
    modality, batch = _case(case)
    clips = batch.unbind(1) if batch.ndim >= 5 else (batch,)
    model, state = tiny_imagebind(), tiny_state()
    head = f"modality_heads.{modality}."
    last = "3" if modality == "imu" else "2"
    with torch.no_grad():
        features = model.features(modality, batch)
        expected = []
        for clip in clips:
            hidden = model.stem_tokens(modality, clip).tokens
            hidden = model.modality_trunks[modality](hidden)[:, 1:]  # without the class token
            normed = F.layer_norm(
                hidden, hidden.shape[-1:], state[f"{head}0.weight"], state[f"{head}0.bias"], 1e-6
            )
            projected = normed @ state[f"{head}{last}.weight"].T
            expected.append(projected / projected.norm(dim=-1, keepdim=True))
    assert features.grid == grid
    assert features.tokens.shape == (len(batch), math.prod(grid), 24)
    torch.testing.assert_close(
        features.tokens, torch.stack(expected).mean(dim=0), atol=1e-6, rtol=0
    )


def test_text_features_hold_every_position() -> None:
    with torch.no_grad():
        features = tiny_imagebind().features("text", tensors()["input.text"])
    assert features.tokens.shape == (3, 77, 24)
    assert features.grid is None
    ends = tensors()["input.text"].argmax(dim=-1)
    torch.testing.assert_close(features.tokens[torch.arange(3), ends], features.pooled)


@pytest.mark.parametrize("bias_kv", [False, True])
def test_attention_equals_pytorchs_own(bias_kv: bool) -> None:
    generator = torch.Generator().manual_seed(1)
    ours = SelfAttention(12, 3, bias_kv=bias_kv)
    truth = nn.MultiheadAttention(12, 3, add_bias_kv=bias_kv, batch_first=True)
    for parameter in ours.parameters():
        nn.init.normal_(parameter, generator=generator)
    truth.load_state_dict(ours.state_dict(), strict=True)
    tokens = torch.randn(2, 5, 12, generator=generator)
    mask = None if bias_kv else torch.full((5, 5), float("-inf")).triu(1)
    expected = truth(tokens, tokens, tokens, attn_mask=mask, need_weights=False)[0]
    torch.testing.assert_close(ours(tokens, mask), expected, atol=1e-5, rtol=1e-5)


def test_text_is_causal() -> None:
    model = ImageBind(POCKET).eval()
    ids = torch.tensor([[18, 3, 4, 5, 19, 0]])
    changed = ids.clone()
    changed[0, 3] = 9
    with torch.no_grad():
        before, after = (model.features("text", batch).tokens for batch in (ids, changed))
    assert torch.equal(before[:, :3], after[:, :3])
    assert not torch.allclose(before[:, 3:], after[:, 3:])


def test_every_parameter_of_a_small_model_gets_a_gradient() -> None:
    torch.manual_seed(0)
    model = ImageBind(POCKET)
    outputs = model(
        {
            "vision": torch.randn(2, 2, 3, 2, 32, 32),
            "text": torch.tensor([[18, 3, 4, 19, 0, 0], [18, 5, 6, 7, 8, 19]]),
            "audio": torch.randn(2, 1, 16, 32),
        }
    )
    assert {name: tuple(output.shape) for name, output in outputs.items()} == {
        "vision": (2, 16),
        "text": (2, 16),
        "audio": (2, 16),
    }
    logits = outputs["vision"] @ outputs["text"].T + outputs["audio"] @ outputs["text"].T
    F.cross_entropy(logits, torch.arange(2)).backward()  # type: ignore[no-untyped-call]
    assert all(
        parameter.grad is not None and parameter.grad.abs().sum() > 0
        for parameter in model.parameters()
    )


def test_stochastic_depth_drops_whole_items_and_keeps_the_mean() -> None:
    torch.manual_seed(0)
    layer = StochasticDepth(0.75).train()
    branch = layer(torch.ones(4_000, 2, 3))
    kept = branch[:, 0, 0] > 0
    assert torch.equal(branch, torch.where(kept[:, None, None], 4.0, 0.0).expand_as(branch))
    assert abs(kept.float().mean().item() - 0.25) < 0.03
    assert torch.equal(layer.eval()(branch), branch)


def test_stochastic_depth_grows_to_its_rate_along_the_trunk() -> None:
    trunk = Trunk(8, 4, 2, bias_kv=True, pre_norm=False, drop_path=0.6)
    rates = [block.drop_path.rate for block in trunk.blocks]  # type: ignore[union-attr]
    assert rates == pytest.approx([0.0, 0.2, 0.4, 0.6])


def test_imu_head_drops_out_only_while_training() -> None:
    model = ImageBind(
        ImageBindConfig(
            embed_dim=8, imu=IMUConfig(dim=8, num_blocks=1, num_heads=2, num_samples=40)
        )
    )
    series = torch.randn(2, 6, 40)
    assert not torch.equal(model({"imu": series})["imu"], model({"imu": series})["imu"])
    model.eval()
    assert torch.equal(model({"imu": series})["imu"], model({"imu": series})["imu"])


def test_a_subset_of_towers_has_only_their_weights() -> None:
    model = ImageBind(replace(POCKET, audio=None))
    assert {name.split(".")[1] for name in model.state_dict()} == {"vision", "text"}
    with pytest.raises(ValueError, match=r"expected a modality among vision, text; got 'audio'"):
        model({"audio": torch.zeros(1, 1, 16, 32)})


@pytest.mark.parametrize(
    ("modality", "shape", "message"),
    [
        ("vision", (1, 1, 32, 32), r"expected a tensor \[batch, 3, \*, \*\] or \[batch, 3, 2, "),
        ("vision", (1, 1, 3, 3, 32, 32), r"got \[1, 3, 3, 32, 32\]"),
        ("vision", (1, 3, 32, 30), "multiples of the patch size 8; got 32 x 30"),
        ("audio", (1, 1, 16, 31), r"expected a tensor \[batch, 1, 16, 32\]; got \[1, 1, 16, 31\]"),
        ("text", (1, 7), r"expected a tensor \[batch, 6\]; got \[1, 7\]"),
    ],
)
def test_wrong_shapes_are_refused(modality: str, shape: tuple[int, ...], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        ImageBind(POCKET)({modality: torch.zeros(shape)})


def test_configurations_that_cannot_be_built_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected at least one tower among vision, text"):
        ImageBindConfig()
    with pytest.raises(
        ConfigError, match="expected dim to be a positive multiple of num_heads; got dim 10 and"
    ):
        ImageBindConfig(text=TextConfig(dim=10, num_heads=4))
    with pytest.raises(ConfigError, match="image_size to be a positive multiple of patch_size"):
        ImageBindConfig(vision=VisionConfig(image_size=64))
    assert POCKET.audio is not None
    with pytest.raises(ConfigError, match="at least patch_size 8; got 4 and 32"):
        replace(POCKET, audio=replace(POCKET.audio, num_mel_bins=4))


def test_huge_is_made_of_the_defaults() -> None:
    assert ImageBindConfig.huge().modalities == TINY.modalities
    assert ImageBindConfig.huge().vision == VisionConfig()
