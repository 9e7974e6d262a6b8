"""H8: requests drawn from the server's own schema, and broken ones, never get a 500."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from serve_parts import FakeModel, served

FULL = 60  # cases of each of some twenty operations, valid and broken
QUICK = ("/v1/chat/completions", "/v1/images/generations", "/v1/videos/{video_id}")


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    with served(FakeModel(), most_steps=4, keep_files=10_000) as (found, _):
        yield found


def _operations(client: httpx.Client) -> list[Any]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the library about itself
        import schemathesis

        schema: Any = schemathesis.openapi.from_dict(client.get("/openapi.json").json())
        return [found.ok() for found in schema.get_all_operations()]


def _check(client: httpx.Client, cases: int, only: tuple[str, ...] = ()) -> int:
    """Send drawn requests to operations; returns how many there were."""
    from schemathesis import GenerationMode

    sent = 0
    for operation in _operations(client):
        if only and operation.path not in only:
            continue
        for mode in (GenerationMode.POSITIVE, GenerationMode.NEGATIVE):
            try:
                strategy = operation.as_strategy(generation_mode=mode)
            except Exception:  # nothing about it can be wrong
                continue

            @settings(
                max_examples=cases,
                deadline=None,
                database=None,
                derandomize=True,
                phases=[Phase.generate],
                suppress_health_check=list(HealthCheck),
            )
            @given(case=strategy)
            def send(case: Any) -> None:
                nonlocal sent
                response = case.call(base_url=str(client.base_url))
                sent += 1
                assert response.status_code < 500, (case.method, case.path, case.body)
                if response.status_code >= 400:
                    assert set(response.json()["error"]) == {"message", "type", "param", "code"}

            try:
                send()
            except Exception as error:
                if "Unsatisfiable" not in type(error).__name__:
                    raise
    assert client.get("/healthz").status_code == 200
    return sent


@pytest.mark.filterwarnings("ignore")
def test_h8_drawn_requests_get_no_500(client: httpx.Client) -> None:
    assert _check(client, 5, QUICK) >= 20


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_h8_a_thousand_drawn_requests_get_no_500(client: httpx.Client) -> None:
    assert _check(client, FULL) >= 1000
