import math

import pytest
import torch
from torch import Tensor

from anyany.alignment.losses import (
    IGNORED,
    ConditionScale,
    PredictionType,
    add_noise,
    biased_timesteps,
    condition_distance,
    contrastive_loss,
    denoising_loss,
    diffusion_target,
    masked_cross_entropy,
    min_snr_weights,
)
from anyany.errors import UsageError

TYPES: tuple[PredictionType, ...] = ("epsilon", "v_prediction", "sample")


@pytest.fixture
def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def test_cross_entropy_equals_a_loop_over_labelled_tokens(generator: torch.Generator) -> None:
    logits = torch.randn(3, 6, 11, generator=generator, requires_grad=True)
    labels = torch.randint(0, 11, (3, 6), generator=generator)
    labels[0, :3] = labels[1, 4] = labels[2] = IGNORED
    mean, count = masked_cross_entropy(logits, labels)
    total, tokens = 0.0, 0
    for row in range(3):
        for position in range(5):
            label = int(labels[row, position + 1])
            if label != IGNORED:
                scores = logits[row, position].tolist()
                total += math.log(sum(map(math.exp, scores))) - scores[label]
                tokens += 1
    assert int(count) == tokens == 7
    assert float(mean.detach()) == pytest.approx(total / tokens, rel=1e-5)
    mean.backward()  # type: ignore[no-untyped-call]
    assert logits.grad is not None
    used = logits.grad.abs().sum(-1) > 0
    assert used.tolist()[2] == [False] * 6
    assert not used[:, -1].any()


def test_cross_entropy_without_labels_is_zero_and_finite() -> None:
    logits = torch.randn(2, 4, 5, requires_grad=True)
    mean, count = masked_cross_entropy(logits, torch.full((2, 4), IGNORED))
    mean.backward()  # type: ignore[no-untyped-call]
    assert (float(mean.detach()), float(count)) == (0.0, 0.0)
    assert logits.grad is not None
    assert logits.grad.abs().max() == 0


def test_condition_distance_equals_a_loop(generator: torch.Generator) -> None:
    predicted, target = torch.randn(2, 2, 3, 4, generator=generator)
    keep = torch.tensor([[True, True, False], [False, True, False]])
    naive = [
        [math.dist(predicted[b, s].tolist(), target[b, s].tolist()) for s in range(3)]
        for b in range(2)
    ]
    distance = condition_distance(predicted, target, scale=2.0)
    assert float(distance) == pytest.approx(sum(map(sum, naive)) / 6 / 2)
    masked = condition_distance(predicted, target, scale=2.0, keep=keep)
    assert float(masked) == pytest.approx((naive[0][0] + naive[0][1] + naive[1][1]) / 3 / 2)
    nothing = condition_distance(predicted, target, scale=2.0, keep=torch.zeros(2, 3).bool())
    assert float(nothing) == 0.0


@pytest.mark.parametrize(("tokens", "width", "size"), [(77, 24, 30.0), (1, 16, 0.01)])
def test_a_constant_is_at_distance_one_in_every_modality(
    tokens: int, width: int, size: float, generator: torch.Generator
) -> None:
    targets = size * torch.randn(200, tokens, width, generator=generator) + 5 * size
    scale = ConditionScale()
    scale.fit(targets)
    constant = targets.mean(dim=0).expand_as(targets)
    distance = float(condition_distance(constant, targets, scale=scale.distance))
    assert distance == pytest.approx(1.0, rel=1e-3)
    assert float(condition_distance(targets, targets, scale=scale.distance)) < 1e-3
    assert set(scale.state_dict()) == {"distance"}
    assert not list(scale.parameters())


def test_the_scale_refuses_targets_that_say_nothing() -> None:
    with pytest.raises(UsageError, match=r"expected targets \[N >= 2, S, C\], got \[1, 2, 3\]"):
        ConditionScale().fit(torch.randn(1, 2, 3))
    with pytest.raises(UsageError, match="the same embedding for all"):
        ConditionScale().fit(torch.ones(5, 2, 3))


def test_the_distance_has_a_finite_gradient_where_it_is_zero() -> None:
    predicted = torch.zeros(1, 1, 3, requires_grad=True)
    condition_distance(predicted, torch.zeros(1, 1, 3), scale=1.0).backward()  # type: ignore[no-untyped-call]
    assert predicted.grad is not None
    assert predicted.grad.isfinite().all()


@pytest.mark.parametrize("kind", TYPES)
def test_every_target_leads_back_to_the_clean_sample(
    kind: PredictionType, generator: torch.Generator
) -> None:
    clean, noise = torch.randn(2, 5, 2, 3, 3, generator=generator, dtype=torch.float64)
    alphas = torch.tensor([0.999, 0.8, 0.5, 0.2, 0.01], dtype=torch.float64)
    noisy = add_noise(clean, noise, alphas)
    target = diffusion_target(kind, clean, noise, alphas)
    for row, a in enumerate(alphas.tolist()):
        x_t, out = noisy[row], target[row]
        back = {
            "epsilon": (x_t - math.sqrt(1 - a) * out) / math.sqrt(a),
            "v_prediction": math.sqrt(a) * x_t - math.sqrt(1 - a) * out,
            "sample": out,
        }[kind]
        torch.testing.assert_close(back, clean[row])


@pytest.mark.parametrize("kind", TYPES)
def test_the_weights_are_those_of_the_clean_sample_loss(kind: PredictionType) -> None:
    """By definition: weight times this loss = min(snr, gamma) times the squared error of x_0."""
    generator = torch.Generator().manual_seed(1)
    clean, noise, wrong = torch.randn(3, 6, 4, generator=generator, dtype=torch.float64)
    alphas = torch.tensor([0.9999, 0.95, 0.7, 0.5, 0.1, 1e-4], dtype=torch.float64)
    noisy = add_noise(clean, noise, alphas)
    a = alphas[:, None]
    guess = clean + 0.1 * wrong  # of x_0, turned into what the network would put out
    implied_noise = (noisy - a.sqrt() * guess) / (1 - a).sqrt()
    output = diffusion_target(kind, guess, implied_noise, alphas)
    loss = denoising_loss(
        output,
        clean=clean,
        noise=noise,
        alphas_cumprod=alphas,
        prediction_type=kind,
        min_snr_gamma=5.0,
    )
    snr = alphas / (1 - alphas)
    expected = snr.clamp(max=5.0) * (guess - clean).square().mean(dim=1)
    torch.testing.assert_close(loss.double(), expected, rtol=2e-2, atol=1e-9)
    plain = denoising_loss(
        output, clean=clean, noise=noise, alphas_cumprod=alphas, prediction_type=kind
    )
    torch.testing.assert_close(loss, plain * min_snr_weights(kind, alphas), rtol=1e-6, atol=0)


@pytest.mark.parametrize("kind", TYPES)
def test_the_weights_are_finite_at_both_ends(kind: PredictionType) -> None:
    weights = min_snr_weights(kind, torch.tensor([0.0, 1.0]))
    expected = {"epsilon": [1.0, 0.0], "v_prediction": [0.0, 0.0], "sample": [0.0, 5.0]}[kind]
    assert weights.tolist() == pytest.approx(expected, abs=1e-6)


def test_the_target_agrees_with_the_scheduler() -> None:
    from diffusers import DDIMScheduler

    scheduler = DDIMScheduler(prediction_type="v_prediction", rescale_betas_zero_snr=True)
    clean, noise = torch.randn(2, 4, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    steps = torch.tensor([0, 10, 500, 999])
    alphas = scheduler.alphas_cumprod[steps]
    torch.testing.assert_close(
        add_noise(clean, noise, alphas), scheduler.add_noise(clean, noise, steps)
    )
    torch.testing.assert_close(
        diffusion_target("v_prediction", clean, noise, alphas),
        scheduler.get_velocity(clean, noise, steps),
    )


def test_an_unknown_prediction_type_is_named() -> None:
    ones = torch.ones(1, 1)
    with pytest.raises(UsageError, match="epsilon, v_prediction or sample, got 'flow'"):
        diffusion_target("flow", ones, ones, ones[0])  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="epsilon, v_prediction or sample, got 'flow'"):
        min_snr_weights("flow", ones[0])  # type: ignore[arg-type]


def test_biased_timesteps_follow_their_density(generator: torch.Generator) -> None:
    uniform = torch.rand(50_000, generator=generator)
    plain, biased = biased_timesteps(uniform, 1000), biased_timesteps(uniform, 1000, power=0.5)
    assert int(plain.min()) >= 0
    assert int(biased.max()) <= 999
    assert float(plain.double().mean()) == pytest.approx(500, abs=8)
    assert float(biased.double().mean()) == pytest.approx(2000 / 3, abs=8)  # E[u^0.5] = 2/3
    quarter = float((biased < 500).double().mean())
    assert quarter == pytest.approx(0.25, abs=0.01)
    assert biased_timesteps(torch.tensor([0.0, 1 - 2**-24]), 1000, power=0.5).tolist() == [0, 999]


def naive_contrastive(first: Tensor, second: Tensor, scale: float) -> float:
    size, total = len(first), 0.0
    unit = [[v / float(torch.tensor(row).norm()) for v in row] for row in first.tolist()]
    other = [[v / float(torch.tensor(row).norm()) for v in row] for row in second.tolist()]
    score = [[scale * sum(map(float.__mul__, a, b)) for b in other] for a in unit]
    for i in range(size):
        total += math.log(sum(math.exp(v) for v in score[i])) - score[i][i]
        total += math.log(sum(math.exp(row[i]) for row in score)) - score[i][i]
    return total / size / 2


def test_contrastive_loss_equals_a_loop_and_trains_its_temperature(
    generator: torch.Generator,
) -> None:
    first, second = torch.randn(2, 5, 8, generator=generator)
    log_scale = torch.tensor(math.log(7.0), requires_grad=True)
    loss = contrastive_loss(first, second, log_scale=log_scale)
    assert float(loss.detach()) == pytest.approx(naive_contrastive(first, second, 7.0), rel=1e-5)
    loss.backward()  # type: ignore[no-untyped-call]
    assert log_scale.grad is not None
    assert abs(float(log_scale.grad)) > 1e-3
    capped = contrastive_loss(first, second, log_scale=math.log(1e6))
    assert float(capped) == pytest.approx(naive_contrastive(first, second, 100.0), rel=1e-3)


def test_repeated_captions_share_the_target(generator: torch.Generator) -> None:
    first, second = torch.nn.functional.normalize(torch.randn(2, 4, 6, generator=generator), dim=-1)
    same = torch.tensor([[i == j or {i, j} == {0, 1} for j in range(4)] for i in range(4)])
    score = (3.0 * first @ second.T).tolist()
    naive = 0.0
    for i in range(4):
        for j in range(4):
            if same[i, j]:
                share = 1 / int(same[i].sum())
                row = math.log(sum(math.exp(v) for v in score[i]))
                column = math.log(sum(math.exp(score[k][j]) for k in range(4)))
                naive += share * (row - score[i][j] + column - score[i][j]) / 8
    loss = contrastive_loss(first, second, log_scale=math.log(3.0), same=same)
    assert float(loss) == pytest.approx(naive, rel=1e-5)
    plain = contrastive_loss(first, second, log_scale=math.log(3.0))
    assert abs(float(plain) - naive) > 1e-3
    diagonal = contrastive_loss(
        first, second, log_scale=math.log(3.0), same=torch.eye(4, dtype=torch.bool)
    )
    torch.testing.assert_close(diagonal, plain)
