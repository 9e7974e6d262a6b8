"""AnyToAny: what fails inside fails one request, with a line that says where."""

# ruff: noqa: F811 (fixtures are imported)

from collections.abc import Callable
from typing import Any

import pytest
import torch
from system_fixtures import pocket  # noqa: F401

from anyany import AnyToAny, Reply
from anyany.decoders import Condition
from anyany.errors import AnyAnyError, InternalError, ResourceError
from anyany.language import TextDelta
from anyany.requests import EngineSettings, Event, PartReady


def answers(
    model: AnyToAny, failing: Callable[[Event], None], outputs: set[str]
) -> list[Reply | AnyAnyError]:
    """Three requests at once, the second with a callback that fails."""
    plain: dict[str, Any] = {
        "outputs": outputs,
        "seed": 7,
        "max_new_tokens": 24,
    }
    if "image" in outputs:
        plain["image"] = {"num_inference_steps": 2}
    requests: list[dict[str, Any]] = [
        {**plain, "prompt": "a small red bell"},
        {**plain, "prompt": "a large green drum", "on_event": failing},
        {**plain, "prompt": "a blue bird on the left"},
    ]
    return list(model.generate_batch(requests, errors="return"))


@pytest.mark.parametrize(("kind", "stage"), [(TextDelta, "language"), (PartReady, "decode.image")])
def test_an_unexpected_failure_stays_with_its_request(
    pocket: AnyToAny, kind: type, stage: str, caplog: pytest.LogCaptureFixture
) -> None:
    def failing(event: Event) -> None:
        if isinstance(event, kind):
            raise RuntimeError("secret/path")

    first, second, third = answers(pocket, failing, {"text", "image"})

    assert isinstance(first, Reply)
    assert isinstance(third, Reply)
    assert first.images
    assert third.images
    assert isinstance(second, InternalError)
    assert str(second) == f"{stage} failed unexpectedly (RuntimeError); see the log"
    assert isinstance(second.__cause__, RuntimeError)
    assert f"{stage} failed" in caplog.text


def test_memory_that_runs_out_in_one_request_leaves_the_others(pocket: AnyToAny) -> None:
    def failing(event: Event) -> None:
        raise torch.OutOfMemoryError("address 0x7f")

    first, second, third = answers(pocket, failing, {"text"})

    assert isinstance(first, Reply)
    assert isinstance(third, Reply)
    assert isinstance(second, ResourceError)
    assert str(second).startswith("out of memory in language: shorten the request")


def test_where_neighbours_may_matter_a_call_that_is_too_large_is_halved(
    pocket: AnyToAny, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    decoder = pocket.decoders["image"]
    original = decoder.decode_batch

    def small(condition: Condition, generators: Any, **run: Any) -> torch.Tensor:
        sizes.append(len(generators))
        if len(generators) > 2:
            raise torch.OutOfMemoryError("address 0x7f")
        made: torch.Tensor = original(condition, generators, **run)
        return made

    monkeypatch.setattr(decoder, "decode_batch", small)
    monkeypatch.setattr(pocket, "settings", EngineSettings(batch_invariant=False))
    common: Any = {"outputs": {"image"}, "seed": 7, "num_inference_steps": 1}
    replies = list(pocket.generate_batch(["a bell", "a drum", "a bird"], **common))

    assert sizes == [3, 1, 2]
    assert all(isinstance(reply, Reply) and reply.images for reply in replies)

    sizes.clear()
    monkeypatch.setattr(pocket, "settings", EngineSettings(micro_batch=3))
    answers = list(pocket.generate_batch(["a bell", "a drum", "a bird"], errors="return", **common))

    assert sizes == [3]
    assert all(isinstance(answer, ResourceError) for answer in answers)
    assert "lower rows or micro_batch" in str(answers[0])
