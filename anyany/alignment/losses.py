"""The losses of all stages, as pure functions; each is written once for every modality.

B batch, T text tokens, S condition tokens, C condition width, V vocabulary. Masks are True = keep.
"""

from __future__ import annotations

from typing import Final, Literal

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor

from anyany.errors import UsageError

PredictionType = Literal["epsilon", "v_prediction", "sample"]

IGNORED: Final = -100  # the label of a token without a loss


def masked_cross_entropy(logits: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Next-token cross-entropy, the mean over the tokens that have a label.

    Args:
        logits: [B, T, V]; the logits at t are scored against the label at t + 1.
        labels: int64 [B, T]; IGNORED where there is nothing to predict.

    Returns:
        (mean, count): float32 scalars; 0 and 0 if no token has a label.
    """
    predicted = rearrange(logits[:, :-1].float(), "b t v -> (b t) v")
    expected = rearrange(labels[:, 1:], "b t -> (b t)")
    count = (expected != IGNORED).sum().float()
    total = F.cross_entropy(predicted, expected, ignore_index=IGNORED, reduction="sum")
    return total / count.clamp(min=1), count


class ConditionScale(torch.nn.Module):
    """The unit of `condition_distance`: how far a modality's targets are from their mean.

    Stored, not running: it is measured once over a sample of the targets before training (`fit`)
    and kept as a buffer, so every step, resume and process divides by the same number. NExT-GPT's
    raw distances are ~13.9 for images and ~0.94 for audio: an unscaled sum trains images alone.
    """

    distance: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("distance", torch.ones(()))

    @torch.no_grad()
    def fit(self, targets: Tensor) -> None:
        """Measure the mean distance of targets [N, S, C], N >= 2, from their mean [S, C].

        Raises:
            UsageError: fewer than two targets, or all are the same.
        """
        if targets.ndim != 3 or len(targets) < 2:
            raise UsageError(f"expected targets [N >= 2, S, C], got {list(targets.shape)}")
        distance = (targets.double() - targets.double().mean(dim=0)).norm(dim=-1).mean()
        if not distance > 0:
            raise UsageError("expected targets that differ, got the same embedding for all")
        self.distance.copy_(distance)


def condition_distance(
    predicted: Tensor, target: Tensor, *, scale: Tensor | float, keep: Tensor | None = None
) -> Tensor:
    """Mean L2 distance of condition tokens in units of the constant-mean predictor's.

    1 is what a constant reaches, 0 is perfect, for every modality alike, so the modalities of a
    batch can be summed. The distance itself is NExT-GPT's (arXiv 2309.05519, section 4.2): the norm
    over the width, averaged over tokens and samples.

    Args:
        predicted: [B, S, C].
        target: [B, S, C].
        scale: `ConditionScale.distance`.
        keep: bool [B, S]; None for all.
    """
    distance = _distance(predicted, target)
    if keep is None:
        return distance.mean() / scale
    return (distance * keep).sum() / keep.sum().clamp(min=1) / scale


def condition_distances(predicted: Tensor, target: Tensor, *, scale: Tensor | float) -> Tensor:
    """`condition_distance` of each condition by itself: [B, S, C] twice -> [B]."""
    return _distance(predicted, target).mean(dim=1) / scale


def _distance(predicted: Tensor, target: Tensor) -> Tensor:
    """The norm over the width: [B, S]."""
    squared = (predicted.float() - target.float()).square().sum(dim=-1)
    return (squared + 1e-12).sqrt()  # the gradient at 0 stays finite


def diffusion_target(
    prediction_type: PredictionType, clean: Tensor, noise: Tensor, alphas_cumprod: Tensor
) -> Tensor:
    """What the network should put out, for x_t = sqrt(a) x_0 + sqrt(1 - a) noise.

    Args:
        prediction_type: of the scheduler: noise, velocity sqrt(a) noise - sqrt(1 - a) x_0
            (Salimans and Ho, arXiv 2202.00512, appendix D), or x_0.
        clean: x_0, [B, ...].
        noise: [B, ...].
        alphas_cumprod: a of each sample's time step, [B].
    """
    if prediction_type == "epsilon":
        return noise
    if prediction_type == "sample":
        return clean
    if prediction_type == "v_prediction":
        a = alphas_cumprod.reshape(-1, *[1] * (clean.ndim - 1))
        return a.sqrt() * noise - (1 - a).sqrt() * clean
    raise UsageError(
        f"expected prediction_type epsilon, v_prediction or sample, got {prediction_type!r}"
    )


def add_noise(clean: Tensor, noise: Tensor, alphas_cumprod: Tensor) -> Tensor:
    """x_t = sqrt(a) x_0 + sqrt(1 - a) noise; clean and noise [B, ...], alphas_cumprod [B]."""
    a = alphas_cumprod.reshape(-1, *[1] * (clean.ndim - 1))
    return a.sqrt() * clean + (1 - a).sqrt() * noise


def min_snr_weights(
    prediction_type: PredictionType, alphas_cumprod: Tensor, *, gamma: float = 5.0
) -> Tensor:
    """Per-sample weights of Min-SNR-gamma (Hang et al., arXiv 2303.09556, section 3.4).

    The weight of the x_0 loss is min(snr, gamma); divided by snr for noise and by snr + 1 for
    velocity predictions. Finite at snr = 0 (zero terminal SNR) and at snr = infinity.

    Args:
        prediction_type: of the network.
        alphas_cumprod: [B].
        gamma: the clamp.

    Returns:
        float32 [B].
    """
    a = alphas_cumprod.float()
    snr = a / (1 - a).clamp(min=1e-20)
    if prediction_type == "sample":
        return snr.clamp(max=gamma)
    if prediction_type == "epsilon":
        return torch.where(snr > gamma, gamma / snr.clamp(min=gamma), 1.0)
    if prediction_type == "v_prediction":
        return snr.clamp(max=gamma) / (snr + 1)
    raise UsageError(
        f"expected prediction_type epsilon, v_prediction or sample, got {prediction_type!r}"
    )


def denoising_loss(
    output: Tensor,
    *,
    clean: Tensor,
    noise: Tensor,
    alphas_cumprod: Tensor,
    prediction_type: PredictionType,
    min_snr_gamma: float | None = None,
) -> Tensor:
    """The squared error of a denoising network, per sample: float32 [B] (take the mean).

    Each sample is weighted by its own time step; NExT-GPT multiplies the batch's mean by the mean
    of the weights, which weights nothing.

    Args:
        output: of the network at `add_noise(clean, noise, alphas_cumprod)`, [B, ...].
        clean: x_0, [B, ...].
        noise: [B, ...].
        alphas_cumprod: of each sample's time step, [B].
        prediction_type: of the scheduler.
        min_snr_gamma: gamma of `min_snr_weights`; None for equal weights.
    """
    target = diffusion_target(prediction_type, clean, noise, alphas_cumprod)
    error = (output.float() - target.float()).square().flatten(1).mean(dim=1)  # [B]
    if min_snr_gamma is None:
        return error
    return error * min_snr_weights(prediction_type, alphas_cumprod, gamma=min_snr_gamma)


def biased_timesteps(uniform: Tensor, num_train_timesteps: int, *, power: float = 1.0) -> Tensor:
    """Training time steps floor(N u^power); a power below 1 leans to high noise.

    Args:
        uniform: in [0, 1), [B], for example `draws.uniform()`.
        num_train_timesteps: N.
        power: 1 for uniform; 0.5 gives time step t a density proportional to t.

    Returns:
        int64 [B] in [0, N).
    """
    steps = (uniform.double().pow(power) * num_train_timesteps).long()
    return steps.clamp(0, num_train_timesteps - 1)


def contrastive_loss(
    first: Tensor, second: Tensor, *, log_scale: Tensor | float, same: Tensor | None = None
) -> Tensor:
    """Symmetric InfoNCE over a batch of pairs (van den Oord et al., arXiv 1807.03748; CLIP's form).

    Args:
        first: embeddings of one modality, [B, C]; normalised here.
        second: embeddings of their partners, [B, C].
        log_scale: logarithm of the inverse temperature, a learnable scalar; clamped at log(100).
        same: bool [B, B], True where item i of `first` also matches item j of `second` (repeated
            captions); the positives of a row share its target. The diagonal must be True.
    """
    scale = torch.as_tensor(log_scale, device=first.device).clamp(max=4.6052).exp()
    logits = F.normalize(first.float(), dim=-1) @ F.normalize(second.float(), dim=-1).T * scale
    if same is None:
        labels = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
    rows = same.float() / same.sum(dim=1, keepdim=True)
    columns = same.T.float() / same.T.sum(dim=1, keepdim=True)
    return (F.cross_entropy(logits, rows) + F.cross_entropy(logits.T, columns)) / 2
