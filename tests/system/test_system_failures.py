"""AnyToAny: what fails inside fails one request, with a line that says where."""

# ruff: noqa: F811 (fixtures are imported)

from collections.abc import Callable
from typing import Any

import pytest
import torch
from system_fixtures import pocket  # noqa: F401

from anyany import AnyToAny, Reply
from anyany.errors import AnyAnyError, InternalError, ResourceError
from anyany.language import TextDelta
from anyany.requests import Event, PartReady


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
