"""Budgets, permissions and draws."""

import pytest
import torch
from language_toys import SMALL, SPACED

from anyany.errors import PromptError
from anyany.language import Sampling, check_outputs, least_budget
from anyany.language.rules import Permission, RowRules
from anyany.language.sampling import choose
from anyany.messages import Modality

FULL: set[Modality] = {"text", "image", "video", "audio"}


def opened(outputs: set[Modality] | None, budget: int) -> RowRules:
    return RowRules.open(SMALL.at(20), outputs, max_new_tokens=budget, max_spans=2)


def test_the_least_budget_counts_whole_spans_and_a_word() -> None:
    assert least_budget(SMALL, FULL) == 4 + 6 + 3 + 1
    assert least_budget(SPACED, FULL) == 7 + 11 + 5 + 1
    assert least_budget(SMALL, {"audio"}) == 3
    assert least_budget(SMALL, None) == 1
    check_outputs(SMALL, FULL, 14)
    with pytest.raises(PromptError, match=r"needs at least 14: set max_new_tokens to 14 or more$"):
        check_outputs(SMALL, FULL, 13)


def test_permissions_as_the_budget_runs_down() -> None:
    rules = opened({"text", "image"}, 7)
    assert rules.permission == Permission((True, False, False), True, False)
    rules.wrote_token()
    rules.wrote_token()  # five left: a word and a picture are owed
    assert rules.permission == Permission((True, False, False), True, True)
    assert rules.forced is None
    rules.wrote_token()
    rules.wrote_text()
    assert rules.forced == "image"
    rules.wrote_span("image")
    assert (rules.remaining, rules.reserve, rules.due) == (0, 0, None)


def test_a_free_span_never_eats_the_reserve() -> None:
    rules = opened({"image", "audio"}, 4 + 3 + 3)
    rules.wrote_span("audio")  # seven left, a picture owed: three to spare
    assert rules.permission.spans == (True, False, True)
    rules.wrote_token()
    assert rules.permission.spans == (True, False, False)
    assert opened(None, 5).permission.spans == (True, False, True)


def test_forced_spans_come_in_order() -> None:
    rules = opened({"audio", "video", "image"}, 13)
    order: list[Modality | None] = []
    while rules.forced:
        order.append(rules.forced)
        rules.wrote_span(rules.forced)
    assert order == ["image", "video", "audio"]
    assert rules.remaining == 0


def test_greedy_takes_the_largest_and_draws_follow_their_own_seed() -> None:
    scores = torch.randn(4, 50, generator=torch.Generator().manual_seed(0))
    assert choose(scores, [Sampling()] * 4, [0.0] * 4).tolist() == scores.argmax(1).tolist()
    hot = Sampling(temperature=1.0, seed=9)
    mixed = choose(scores, [Sampling(), hot, None, hot], [0.0, 0.3, 0.0, 0.3])
    assert mixed[0] == scores[0].argmax()
    alone = choose(scores[[1]], [hot], [0.3])
    assert mixed[1] == alone[0]
    assert hot.uniforms(5) == hot.uniforms(5) != Sampling(temperature=1.0, seed=10).uniforms(5)
    assert hot.uniforms(5) == hot.uniforms(8)[:5]
    assert Sampling().uniforms(5) == []


def test_draws_have_the_asked_distribution() -> None:
    probabilities = torch.tensor([0.1, 0.5, 0.0, 0.3, 0.1])
    scores = (probabilities.log()).expand(4000, 5)
    uniforms = ((torch.arange(4000) + 0.5) / 4000).tolist()

    def shares(**settings: float) -> list[float]:
        how = Sampling(temperature=1.0, **settings)  # type: ignore[arg-type]
        drawn = choose(scores, [how] * 4000, uniforms)
        return [round(float((drawn == i).float().mean()), 2) for i in range(5)]

    assert shares() == [0.1, 0.5, 0.0, 0.3, 0.1]
    assert shares(top_k=2) == [0.0, 0.62, 0.0, 0.38, 0.0]
    assert shares(top_p=0.5) == [0.0, 1.0, 0.0, 0.0, 0.0]
    assert shares(top_p=0.7) == [0.0, 0.62, 0.0, 0.38, 0.0]


def test_errors_of_sampling() -> None:
    with pytest.raises(PromptError, match=r"^temperature: expected 0 or more, got -1$"):
        Sampling(temperature=-1)
    with pytest.raises(PromptError, match=r"^top_p: expected 0 < top_p <= 1, got 0$"):
        Sampling(top_p=0)
    with pytest.raises(PromptError, match=r"^top_k: expected 0 \(all\) or more, got -2$"):
        Sampling(top_k=-2)
