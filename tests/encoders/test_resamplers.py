"""Projectors with learnt queries: what the queries see, and that they differ from one another."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from anyany.encoders import (
    Projector,
    ProjectorConfig,
    ProjectorContext,
    ResamplerConfig,
    load_projector,
    save_projector,
)
from anyany.encoders import build_projector as build
from anyany.encoders.projectors.mixture import ROWS, MixtureProjector
from anyany.encoders.projectors.resamplers import PositionProjector, sines
from anyany.errors import ConfigError

RESAMPLERS = ("perceiver", "qformer", "instruct_qformer", "position2d", "mixture")
SIZES = ResamplerConfig(num_queries=4, dim=16, num_heads=2, mlp_ratio=2, max_tiles=3)
PLAIN = ProjectorContext("image", (3, 4))


def make(kind: Any, **sizes: int) -> Projector:
    torch.manual_seed(0)
    resampler = ResamplerConfig(**{**vars(SIZES), **sizes})
    config = ProjectorConfig(kind, encoder_dim=12, language_dim=20, resampler=resampler)
    return build(config).eval()


def asked(words: Tensor, mask: Tensor | None = None) -> ProjectorContext:
    return ProjectorContext("image", (3, 4), instruction=words, instruction_mask=mask)


@pytest.mark.parametrize("kind", [*RESAMPLERS, "context_content"])
def test_queries_are_distinct_at_the_start(kind: str) -> None:
    projected = make(kind)(torch.randn(2, 12, 12), PLAIN)
    count = projected.shape[1]
    assert projected.shape == (2, 2 if kind == "context_content" else 4, 20)
    assert torch.linalg.matrix_rank(projected[0] - projected[0].mean(0), atol=1e-6) == count - 1
    distances = torch.cdist(projected[0], projected[0]) + 9 * torch.eye(count)
    assert distances.min() > 1e-4


@pytest.mark.parametrize("kind", RESAMPLERS)
def test_any_number_of_tokens_becomes_the_same_few(kind: str) -> None:
    projector = make(kind)
    for rows, columns in ((3, 4), (16, 16), (1, 5)):
        context = ProjectorContext("image", (rows, columns))
        assert projector(torch.randn(1, rows * columns, 12), context).shape == (1, 4, 20)


@pytest.mark.parametrize("kind", [*RESAMPLERS, "context_content"])
def test_a_batch_equals_its_items_alone(kind: str) -> None:
    projector = make(kind)
    features, words = torch.randn(2, 12, 12), torch.randn(2, 5, 20)
    keep = torch.tensor([[True] * 5, [True, True, False, False, False]])
    both = projector(features, asked(words, keep))
    first = projector(features[:1], asked(words[:1]))
    second = projector(features[1:], asked(words[1:, :2]))  # alone without padding
    torch.testing.assert_close(both, torch.cat([first, second]), atol=1e-5, rtol=0)


@pytest.mark.parametrize("kind", ["instruct_qformer", "context_content"])
def test_the_question_changes_what_is_seen_and_so_does_the_picture(kind: str) -> None:
    projector = make(kind)
    one, other = torch.randn(2, 1, 12, 12)
    words, others = torch.randn(2, 1, 3, 20)
    seen = projector(one, asked(words))
    assert (seen - projector(one, asked(others)))[:, 0].abs().max() > 1e-5
    assert (seen - projector(other, asked(words)))[:, 0].abs().max() > 1e-5
    assert (seen - projector(one, PLAIN))[:, 0].abs().max() > 1e-5
    if kind == "context_content":
        assert torch.equal(seen[:, 1:], projector(one, asked(others))[:, 1:])


@pytest.mark.parametrize("kind", ["qformer", "perceiver", "position2d", "mixture"])
def test_the_others_do_not_look_at_the_question(kind: str) -> None:
    projector, features = make(kind), torch.randn(1, 12, 12)
    assert not projector.reads_instruction
    asked_for = projector(features, asked(torch.randn(1, 3, 20)))
    assert torch.equal(projector(features, PLAIN), asked_for)


@pytest.mark.parametrize("content", [1, 4, 16])
def test_context_and_content_are_one_and_n_tokens(content: int) -> None:
    projector = make("context_content", content_tokens=content)
    context = ProjectorContext("image", (4, 4))
    projected = projector(torch.randn(2, 16, 12), context)
    assert projected.shape == (2, 1 + content, 20)
    assert projector.num_outputs(16) == 1 + content


def test_content_is_the_mean_of_its_part_of_the_picture() -> None:
    projector = make("context_content", content_tokens=4)
    features = torch.randn(1, 16, 12)
    upper_right = features.view(1, 4, 4, 12)[:, :2, 2:].mean(dim=(1, 2))
    expected = projector.layer(upper_right)  # type: ignore[operator]
    seen = projector(features, ProjectorContext("image", (4, 4)))
    torch.testing.assert_close(seen[:, 2], expected)


def test_positions_in_the_plane_tell_order_and_alone_do() -> None:
    projector = make("position2d")
    assert isinstance(projector, PositionProjector)
    features = torch.randn(1, 12, 12)
    turned = features.flip(1)
    assert (projector(features, PLAIN) - projector(turned, PLAIN)).abs().max() > 1e-4
    projector.positions.zero_()
    plain, other = projector(features, PLAIN), projector(turned, PLAIN)
    torch.testing.assert_close(plain, other, atol=1e-5, rtol=0)


def test_sines_are_those_of_column_and_row() -> None:
    table = sines(3, 5, 8).view(3, 5, 8)
    angle = torch.tensor([2.0, 2.0 / 100.0])
    torch.testing.assert_close(table[1, 2, :4], torch.cat([angle.sin(), angle.cos()]))
    assert torch.equal(table[1, :, 4:], table[1, :1, 4:].expand(5, -1))
    assert torch.equal(table[:, 3, :4], table[:1, 3, :4].expand(3, -1))


def test_perceiver_marks_tiles_by_their_place() -> None:
    projector = make("perceiver")
    features = torch.randn(1, 12, 12)
    swapped = torch.cat([features[:, 6:], features[:, :6]], dim=1)
    two = ProjectorContext("video", None, ((0,), (1,)), (6, 6))
    none = ProjectorContext("image", None, (None, None), (6, 6))
    assert (projector(features, two) - projector(swapped, two)).abs().max() > 1e-4
    plain, other = projector(features, none), projector(swapped, none)
    torch.testing.assert_close(plain, other, atol=1e-5, rtol=0)
    many = ProjectorContext("video", None, tuple((t,) for t in range(6)), (2,) * 6)
    assert projector(features, many).shape == (1, 4, 20)  # more tiles than places: interpolated


def test_sizes_that_do_not_fit_are_refused() -> None:
    for sizes, message in (
        ({"dim": 10, "num_heads": 4}, "dim to be a multiple of num_heads; got 10 and 4"),
        ({"content_tokens": 3}, "expected a square as content_tokens; got 3"),
        ({"depth": 0}, "expected a positive depth; got 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            ResamplerConfig(**sizes)
    with pytest.raises(ConfigError, match="a square as num_queries"):
        ProjectorConfig("position2d", resampler=ResamplerConfig(num_queries=5))
    with pytest.raises(ValueError, match="expected 12 tokens in a grid"):
        make("position2d")(torch.randn(1, 12, 12), ProjectorContext("image", (2, 2)))


def test_a_mixture_is_of_the_rows_of_its_table() -> None:
    projector = make("mixture")
    assert isinstance(projector, MixtureProjector)
    assert projector.table.shape == (ROWS, 20)
    with torch.no_grad():
        projector.logits.weight.mul_(1000)  # as sure as can be
        tokens = projector(torch.randn(3, 12, 12), PLAIN).flatten(0, 1)
        assert torch.cdist(tokens, projector.table).amin(-1).max() < 1e-3
        projector.logits.weight.zero_()
        projector.logits.bias.zero_()
        tokens = projector(torch.randn(1, 12, 12), PLAIN)
    torch.testing.assert_close(tokens[0], projector.table.mean(0).expand(4, -1))


def test_a_mixture_reads_the_mean_of_the_features() -> None:
    projector = make("mixture")
    features = torch.randn(1, 12, 12)
    whole = projector(features, PLAIN)
    torch.testing.assert_close(projector(features.flip(1), PLAIN), whole)
    torch.testing.assert_close(projector(features.mean(1, keepdim=True), PLAIN), whole)


def test_a_mixture_is_marked_by_its_modality() -> None:
    projector = make("mixture")
    assert isinstance(projector, MixtureProjector)
    with torch.no_grad():
        projector.marks[1] = 1.0
        features = torch.randn(1, 12, 12)
        as_picture = projector(features, PLAIN)
        as_clip = projector(features, ProjectorContext("video", (3, 4)))
    torch.testing.assert_close(as_clip, as_picture + 1)


def test_the_rows_of_a_mixture_can_be_given_and_do_not_learn(tmp_path: Path) -> None:
    config = ProjectorConfig("mixture", 12, 20, resampler=SIZES, hidden_dim=7, given_table=True)
    projector = build(config)
    assert isinstance(projector, MixtureProjector)
    assert "table" not in dict(projector.named_parameters())
    with torch.no_grad():
        projector.table.copy_(torch.arange(140.0).view(7, 20))
    projector(torch.randn(1, 12, 12), PLAIN).sum().backward()
    assert projector.table.grad is None
    save_projector(projector, tmp_path / "words.safetensors")
    again = load_projector(tmp_path / "words.safetensors", config)
    assert isinstance(again, MixtureProjector)
    torch.testing.assert_close(again.table, torch.arange(140.0).view(7, 20), rtol=0, atol=0)
