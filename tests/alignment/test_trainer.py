import dataclasses
import math
import re
import signal
import textwrap
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from toy_task import CONFIG, NUM_SAMPLES, Linear, ToyTask, curve, same, weights

from anyany.alignment import checkpoints, trainer
from anyany.alignment.order import Draws
from anyany.alignment.task import moved
from anyany.alignment.trainer import (
    DivergedError,
    LossOutput,
    Task,
    TrainConfig,
    learning_rate,
    load_trained,
    train,
)
from anyany.errors import UsageError


@pytest.fixture(autouse=True)
def one_thread() -> Iterator[None]:
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_steps_equal_a_naive_loop_over_weighted_samples(tmp_path: Path) -> None:
    config = TrainConfig(
        steps=7, batch_size=2, accumulation=3, lr=0.05, warmup=2, schedule="linear", clip=0.7
    )
    task = Linear()
    train(task, config, tmp_path)

    naive = Linear()
    weight = naive.module.get_parameter("weight")
    first, second = torch.zeros(3), torch.zeros(3)
    losses = []
    for step in range(7):
        rows = task.seen[6 * step : 6 * step + 6]
        gradient, loss = torch.zeros(3), 0.0
        for row in rows:
            error = float(naive.inputs[row] @ weight.detach()[0] - naive.targets[row])
            gradient += 2 * error * naive.inputs[row] * naive.weights[row]
            loss += error**2 * float(naive.weights[row])
        unit = float(naive.weights[rows].sum())
        gradient, loss = gradient / unit, loss / unit
        losses.append(loss)
        gradient *= min(1.0, 0.7 / float(gradient.norm()))
        rate = 0.05 * ((step + 1) / 2 if step < 2 else 1 - (step - 2) / 5)
        first, second = 0.9 * first + 0.1 * gradient, 0.99 * second + 0.01 * gradient**2
        unbiased = first / (1 - 0.9 ** (step + 1))
        spread = (second / (1 - 0.99 ** (step + 1))).sqrt() + 1e-8
        with torch.no_grad():
            weight.mul_(1 - rate * 0.01).sub_(rate * unbiased / spread)
    torch.testing.assert_close(task.module.get_parameter("weight"), weight)
    units = [float(naive.weights[task.seen[6 * s : 6 * s + 6]].sum()) for s in range(7)]
    mean = sum(loss * unit for loss, unit in zip(losses, units, strict=True)) / sum(units)
    assert curve(tmp_path)[-1]["loss"] == pytest.approx(mean)
    assert curve(tmp_path)[-1]["weight"] == sum(units)


def test_epochs_end_exactly_and_show_every_sample_once_each(tmp_path: Path) -> None:
    task = ToyTask()
    config = dataclasses.replace(CONFIG, steps=None, epochs=2.0, batch_size=5, ema=None)
    result = train(task, config, tmp_path)
    assert result.step == math.ceil(2 * NUM_SAMPLES / 15)
    assert Counter(task.seen[:NUM_SAMPLES]) == Counter(range(NUM_SAMPLES))
    assert Counter(task.seen[NUM_SAMPLES:]) == Counter(range(NUM_SAMPLES))
    assert task.seen[:NUM_SAMPLES] != task.seen[NUM_SAMPLES:]


def test_overfits_sixty_four_samples(tmp_path: Path) -> None:
    class Memorise(Task):
        def __init__(self) -> None:
            torch.manual_seed(0)
            super().__init__(
                nn.Sequential(nn.Embedding(64, 32), nn.Linear(32, 64), nn.ReLU(), nn.Linear(64, 7)),
                64,
            )

        def batch(self, indices: Sequence[int], draws: Draws) -> Tensor:
            return torch.tensor(indices)

        def loss(self, batch: Tensor, draws: Draws) -> LossOutput:
            loss = nn.functional.cross_entropy(self.module(batch), (batch * 37 + 5) % 7)
            return LossOutput(loss, weight=len(batch))

    started = time.monotonic()
    train(Memorise(), TrainConfig(steps=150, batch_size=32, lr=1e-2, log_every=10), tmp_path)
    losses = [float(str(line["loss"])) for line in curve(tmp_path, "train")]
    assert losses[0] > 1.5
    assert losses[-1] < 0.01
    assert time.monotonic() - started < 60


@pytest.mark.parametrize("poisoned", [[14], [15, 16, 17], [15, 18, 24]])
def test_a_step_that_is_not_finite_is_skipped_and_counted(
    tmp_path: Path, poisoned: list[int]
) -> None:
    config = dataclasses.replace(CONFIG, steps=12, save_every=1, keep=20)
    result = train(ToyTask(poisoned=poisoned), config, tmp_path)
    steps = sorted({call // 3 for call in poisoned})
    assert result.skipped == len(steps)
    skipped = curve(tmp_path, "skipped")
    assert [line["step"] for line in skipped] == [step + 1 for step in steps]
    assert skipped[0]["samples"] == [steps[0] * 12, steps[0] * 12 + 12]
    assert curve(tmp_path, "train")[-1]["skipped"] == len(steps)
    before = checkpoints.load(tmp_path / f"step-{steps[0]}").tensors
    after = checkpoints.load(tmp_path / f"step-{steps[0] + 1}").tensors
    assert all(same(before[group], after[group]) for group in before)
    assert all(value.isfinite().all() for value in weights_of(tmp_path))


def weights_of(folder: Path) -> list[Tensor]:
    newest = checkpoints.load_latest(folder)
    assert newest is not None
    return [tensor for named in newest.tensors.values() for tensor in named.values()]


def test_three_steps_in_a_row_that_are_not_finite_stop_the_run(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, save_every=4)
    with pytest.raises(DivergedError, match=r"stopped at step 8: 3 steps in a row .* lr") as caught:
        train(ToyTask(poisoned=range(15, 99)), config, tmp_path)
    assert caught.value.exit_code == 1
    assert "\n" not in str(caught.value)
    newest, good = checkpoints.load_latest(tmp_path), checkpoints.load(tmp_path / "step-4")
    assert newest is not None
    assert newest.step == 8
    assert newest.record["state"]["skipped_in_a_row"] == 3
    assert not same(newest.tensors["parameters"], good.tensors["parameters"])  # step 5 was good
    assert all(tensor.isfinite().all() for tensor in weights_of(tmp_path))


class Evaluated(ToyTask):
    def __init__(self, *, interrupted_at: int | None = None) -> None:
        super().__init__()
        self.interrupted_at = interrupted_at
        self.evaluations: list[str] = []
        self.evaluated: list[dict[str, Tensor]] = []

    def evaluate(self, folder: Path) -> Mapping[str, float]:
        assert not any(part.training for part in self.module.modules())
        assert not torch.is_grad_enabled()
        self.evaluations.append(folder.name)
        if self.interrupted_at == len(self.evaluations):
            signal.raise_signal(signal.SIGTERM)
            raise AssertionError("the signal should have ended the evaluation")
        (folder / "grid.txt").write_text("samples")
        torch.rand(3)  # must not disturb the training
        self.evaluated.append(weights(self))
        return {"score": 0.5}


def test_evaluations_see_the_average_and_leave_the_training_as_it_was(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, steps=10, evaluate_every=4)
    plain, evaluated = ToyTask(), Evaluated()
    train(plain, dataclasses.replace(config, evaluate_every=0), tmp_path / "plain")
    train(evaluated, config, tmp_path / "evaluated")
    assert evaluated.evaluations == ["step-4", "step-8", "step-10"]
    assert same(weights(plain), weights(evaluated))
    assert (tmp_path / "evaluated/evaluations/step-8/grid.txt").exists()
    lines = curve(tmp_path / "evaluated", "evaluate")
    assert lines == [{"kind": "evaluate", "step": step, "score": 0.5} for step in (4, 8, 10)]
    averaged = ToyTask()
    assert load_trained(tmp_path / "evaluated", averaged.module) == 10
    assert same(weights(averaged), evaluated.evaluated[-1])
    assert not same(weights(averaged), weights(evaluated))
    load_trained(tmp_path / "evaluated", averaged.module, ema=False)
    assert same(weights(averaged), weights(evaluated))


def test_a_signal_cuts_an_evaluation_short_and_a_resume_makes_up_for_it(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, steps=10, evaluate_every=4, save_every=0)
    whole, stopped, resumed = Evaluated(), Evaluated(interrupted_at=2), Evaluated()
    train(whole, config, tmp_path / "whole")
    result = train(stopped, config, tmp_path / "stopped")
    assert (result.reason, result.step) == ("SIGTERM", 8)
    assert not same(weights(stopped), whole.evaluated[1])  # the average was swapped out again
    train(resumed, config, tmp_path / "stopped")
    assert resumed.evaluations == ["step-8", "step-10"]
    assert curve(tmp_path / "stopped") == curve(tmp_path / "whole")
    assert same(weights(whole), weights(resumed))


def test_the_average_equals_a_naive_one(tmp_path: Path) -> None:
    task = ToyTask()
    train(task, dataclasses.replace(CONFIG, steps=8, save_every=1, keep=99), tmp_path)
    saved = [checkpoints.load(tmp_path / f"step-{step}").tensors for step in range(1, 9)]
    average = ToyTask().module.get_parameter("body.2.weight").detach()
    for update, tensors in enumerate(saved, start=1):
        decay = min(0.9, (1 + update) / (10 + update))
        average = decay * average + (1 - decay) * tensors["parameters"]["body.2.weight"]
        torch.testing.assert_close(tensors["ema"]["body.2.weight"], average)


def test_frozen_parts_are_neither_trained_nor_saved(tmp_path: Path) -> None:
    task = ToyTask()
    before = weights(task)
    train(task, dataclasses.replace(CONFIG, steps=5), tmp_path)
    after = weights(task)
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        name for name in before if name.startswith("body.")
    }
    assert not task.frozen.training
    newest = checkpoints.load_latest(tmp_path)
    assert newest is not None
    assert not [name for group in newest.tensors.values() for name in group if "frozen" in name]


def test_what_cannot_be_trained_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="one of steps and epochs, got steps=None, epochs=None"):
        TrainConfig()
    with pytest.raises(UsageError, match="expected batch_size >= 1, got 0"):
        TrainConfig(steps=1, batch_size=0)
    task = ToyTask()
    task.module.requires_grad_(False)
    with pytest.raises(UsageError, match="nothing to train"):
        train(task, CONFIG, tmp_path)
    endless = ToyTask()
    endless.num_samples = None
    with pytest.raises(UsageError, match="epochs need a finite set"):
        train(endless, TrainConfig(epochs=1.0), tmp_path)


@pytest.mark.parametrize(
    ("schedule", "middle"), [("cosine", 0.5), ("linear", 0.5), ("constant", 1)]
)
def test_the_schedule_warms_up_and_falls(
    schedule: Literal["cosine", "linear", "constant"], middle: float
) -> None:
    config = TrainConfig(steps=110, lr=2.0, warmup=10, schedule=schedule)
    rates = [learning_rate(config, step, 110) for step in range(110)]
    assert rates[:10] == pytest.approx([0.2 * (step + 1) for step in range(10)])
    assert rates[10] == 2.0
    assert rates[60] == pytest.approx(2.0 * middle)
    assert rates[-1] == pytest.approx(2.0 if schedule == "constant" else 0.0, abs=0.05)
    with pytest.raises(UsageError, match=re.escape("cosine, linear or constant, got 'steps'")):
        TrainConfig(steps=1, schedule="steps")  # type: ignore[arg-type]


def test_the_example_of_the_docstring_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert trainer.__doc__ is not None
    example = re.search(r"\n\n((?: {4}.*\n|\n)+)", trainer.__doc__)
    assert example is not None
    monkeypatch.chdir(tmp_path)
    names = {
        **{name: getattr(trainer, name) for name in trainer.__all__},
        **{"nn": nn, "torch": torch, "Tensor": Tensor, "Sequence": Sequence, "Path": Path},
        **{"Draws": Draws, "unet": nn.Conv2d(1, 1, 1)},
        "render": lambda index: torch.full((1, 2, 2), float(index % 2)),
    }
    with pytest.raises(SystemExit) as left:
        exec(textwrap.dedent(example[1]), names)
    assert left.value.code == 0
    assert checkpoints.load(tmp_path / "runs/unet/step-100").step == 100


def test_checkpoints_by_the_clock(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, steps=4, save_every=0, save_seconds=1e-9, keep=9)
    train(ToyTask(), config, tmp_path)
    names = [path.name for path in checkpoints.list_checkpoints(tmp_path)]
    assert names == ["step-1", "step-2", "step-3", "step-4"]


def test_autocast_covers_the_forward_pass_alone(tmp_path: Path) -> None:
    class Recorded(ToyTask):
        dtypes: tuple[torch.dtype, ...] = ()

        def batch(self, indices: Sequence[int], draws: Draws) -> Tensor:
            assert not torch.is_autocast_enabled("cpu")
            return super().batch(indices, draws)

        def loss(self, batch: Tensor, draws: Draws) -> LossOutput:
            self.dtypes = (*self.dtypes, self.frozen(batch).dtype)
            return super().loss(batch, draws)

    cases: list[tuple[Literal["none", "bfloat16"], torch.dtype]] = [
        ("bfloat16", torch.bfloat16),
        ("none", torch.float32),
    ]
    for autocast, dtype in cases:
        task = Recorded()
        config = dataclasses.replace(CONFIG, steps=2, autocast=autocast)
        train(task, config, tmp_path / autocast)
        assert set(task.dtypes) == {dtype}
        assert {p.dtype for p in task.module.parameters()} == {torch.float32}


def test_a_batch_of_any_nesting_is_moved() -> None:
    class Pair(NamedTuple):
        left: Tensor
        right: str

    batch = {"a": [torch.ones(2), (torch.ones(1), 3)], "b": Pair(torch.ones(3), "kept")}
    there = moved(batch, torch.device("meta"))
    assert there["a"][0].device.type == there["a"][1][0].device.type == "meta"
    assert there["a"][1][1] == 3
    assert isinstance(there["b"], Pair)
    assert (there["b"].left.device.type, there["b"].right) == ("meta", "kept")


@pytest.mark.gpu
def test_on_a_gpu_a_resumed_run_stays_close(tmp_path: Path) -> None:
    config = dataclasses.replace(CONFIG, device="cuda", autocast="bfloat16", steps=15)
    whole, stopped, resumed = ToyTask(), ToyTask(signals={19: signal.SIGTERM}), ToyTask()
    train(whole, config, tmp_path / "whole")
    train(stopped, config, tmp_path / "stopped")
    train(resumed, config, tmp_path / "stopped")
    for name, expected in weights(whole).items():
        torch.testing.assert_close(weights(resumed)[name], expected, rtol=1e-3, atol=1e-3)
