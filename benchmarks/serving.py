"""How fast `anyany serve` answers many clients, beside the same engine called in process.

    python benchmarks/serving.py                      all kinds at 1, 8 and 64 clients
    python benchmarks/serving.py --clients 1,8 --kinds text --rounds 3
    python benchmarks/serving.py --crowd 200          a crowd before a queue of 32, and /healthz

Every row is measured in alternation: a round in process, a round over HTTP, and so on, so that
whatever else the machine does falls on both. In process, c clients are batches of c requests
through `generate_batch` (one client: one request at a time). Over HTTP they are c connections that
ask again as soon as they are answered; the clients run in this process, the server in its own.
Same model, threads, requests and seeds; the replies' bytes are compared.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
import itertools
import json
import os
import signal
import statistics
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Final

from anyany import AnyToAny

KINDS: Final = ("text", "image", "mixed")
THINGS: Final = ("bell", "drum", "bird", "bee", "siren", "clock", "horn", "cloud")
COLORS: Final = ("red", "blue", "green", "yellow")


@dataclass
class Round:
    """One round of one way.

    Args:
        seconds: in all.
        latencies: seconds of each request.
        texts: what was answered, by the request's number.
    """

    seconds: float
    latencies: list[float]
    texts: dict[int, str]


def request_of(kind: str, number: int, steps: int | None) -> dict[str, Any]:
    """The number-th request of a kind, as keywords of `generate`."""
    thing, color = THINGS[number % 8], COLORS[number // 8 % 4]
    is_image = kind == "image" or (kind == "mixed" and number % 2 == 1)
    words = f"draw a {color} {thing}"
    outputs = ["text", "image"] if is_image else ["text"]
    asked: dict[str, Any] = {"prompt": words, "outputs": outputs, "seed": number}
    return {**asked, "num_inference_steps": steps} if is_image and steps else asked


def in_process(system: AnyToAny, kind: str, clients: int, total: int, steps: int | None) -> Round:
    """Requests in batches of `clients`."""
    latencies: list[float] = []
    texts: dict[int, str] = {}
    began = time.perf_counter()
    for first in range(0, total, clients):
        start = time.perf_counter()
        batch = [request_of(kind, n, steps) for n in range(first, min(first + clients, total))]
        for number, reply in enumerate(system.generate_batch(batch), start=first):
            texts[number] = reply.text  # type: ignore[union-attr]
            latencies.append(time.perf_counter() - start)
    return Round(time.perf_counter() - began, latencies, texts)


async def over_http(port: int, kind: str, clients: int, total: int, steps: int | None) -> Round:
    """Requests over `clients` connections."""
    numbers = iter(range(total))
    latencies: list[float] = []
    texts: dict[int, str] = {}

    async def client() -> None:
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        for number in numbers:
            asked = request_of(kind, number, steps)
            body = json.dumps(
                {
                    "messages": [{"role": "user", "content": asked["prompt"]}],
                    "modalities": asked["outputs"],
                    **{name: asked[name] for name in asked if name not in ("prompt", "outputs")},
                }
            ).encode()
            start = time.perf_counter()
            head = "POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\n"
            head += f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
            writer.write(head.encode() + body)
            status, data = await _read(reader)
            latencies.append(time.perf_counter() - start)
            if status != 200:
                raise SystemExit(f"the server answered {status}: {data[:300].decode()}")
            texts[number] = json.loads(data)["choices"][0]["message"]["content"]
        writer.close()

    began = time.perf_counter()
    await asyncio.gather(*(client() for _ in range(clients)))
    return Round(time.perf_counter() - began, latencies, texts)


async def _read(reader: asyncio.StreamReader) -> tuple[int, bytes]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower()
    length = int(head.partition("content-length: ")[2].partition("\r\n")[0])
    return int(head.split(" ", 2)[1]), await reader.readexactly(length)


def measure(
    system: AnyToAny,
    port: int,
    kind: str,
    clients: int,
    rounds: int,
    total: int,
    steps: int | None,
) -> dict[str, Any]:
    """A row: both ways in turn, medians over rounds."""
    inside: list[Round] = []
    outside: list[Round] = []
    for _ in range(rounds):
        inside.append(in_process(system, kind, clients, total, steps))
        outside.append(asyncio.run(over_http(port, kind, clients, total, steps)))
        if inside[-1].texts != outside[-1].texts:
            raise SystemExit("the two ways do not answer alike")
    latencies = sorted(second for one in outside for second in one.latencies)
    own = statistics.median(total / one.seconds for one in inside)
    served = statistics.median(total / one.seconds for one in outside)
    ratios = [a.seconds / b.seconds for a, b in zip(inside, outside, strict=True)]
    return {
        "kind": kind,
        "clients": clients,
        "requests": total * rounds,
        "in_process_per_second": round(own, 2),
        "served_per_second": round(served, 2),
        "share": round(statistics.median(ratios), 3),
        "shares": [round(ratio, 3) for ratio in ratios],
        "p50_seconds": round(latencies[len(latencies) // 2], 3),
        "p99_seconds": round(latencies[min(len(latencies) - 1, len(latencies) * 99 // 100)], 3),
    }


async def crowd(port: int, clients: int, seconds: float) -> dict[str, Any]:
    """Clients that ask for text and pictures in turn, and come again when they are told to.

    Returns:
        How often each status came, and how long /healthz took meanwhile, in seconds.
    """
    statuses: Counter[int] = Counter()
    asked = itertools.count()
    until = time.monotonic() + seconds

    async def client() -> None:
        while time.monotonic() < until:
            number = next(asked)
            request = request_of("mixed", number, 2)
            body = {
                "messages": [{"role": "user", "content": request["prompt"]}],
                "modalities": request["outputs"],
                "seed": number,
            }
            status, again = await asyncio.to_thread(_post, port, body)
            statuses[status] += 1
            await asyncio.sleep(again)

    asyncio.get_running_loop().set_default_executor(ThreadPoolExecutor(clients))
    probe = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _PROBE, str(port), str(seconds), stdout=asyncio.subprocess.PIPE
    )
    await asyncio.gather(*(client() for _ in range(clients)))
    told, _ = await probe.communicate()
    healthy = sorted(json.loads(told))
    return {
        "kind": "crowd",
        "clients": clients,
        "statuses": dict(sorted(statuses.items())),
        "healthz": len(healthy),
        "healthz_p50_seconds": round(healthy[len(healthy) // 2], 4),
        "healthz_p99_seconds": round(healthy[len(healthy) * 99 // 100], 4),
    }


def _post(port: int, body: dict[str, Any]) -> tuple[int, float]:
    """A request's status, and the seconds after which to come again."""
    link = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
    try:
        headers = {"Content-Type": "application/json"}
        link.request("POST", "/v1/chat/completions", json.dumps(body), headers)
        answer = link.getresponse()
        answer.read()
        return answer.status, float(answer.getheader("Retry-After") or 0)
    finally:
        link.close()


_PROBE: Final = """
import http.client, json, sys, time
end, found = time.monotonic() + float(sys.argv[2]), []
while time.monotonic() < end:
    began = time.monotonic()
    link = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]))
    link.request("GET", "/healthz")
    assert link.getresponse().read()
    link.close()
    found.append(time.monotonic() - began)
    time.sleep(0.05)
print(json.dumps(found))
"""  # in a process of its own: it measures the server, not this one's threads


def main(argv: Sequence[str] | None = None) -> None:
    """See the module."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--model", default="pocket")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--clients", default="1,8,64")
    parser.add_argument("--kinds", default=",".join(KINDS))
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument(
        "--requests", type=int, default=256, help="a round; for one client a quarter"
    )
    parser.add_argument("--steps", type=int, help="of denoising; the model's own if left out")
    parser.add_argument("--crowd", type=int, help="this many clients before a queue of 32, alone")
    given = parser.parse_args(argv)
    command = [sys.executable, "-m", "anyany", "-q", "serve", "--port", "0"]
    command += ["--model", given.model, "--threads", str(given.threads), "--timeout", "600"]
    command += ["--queue", "32"] if given.crowd else []
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        port = int(process.stdout.readline().rpartition(":")[2])
        if given.crowd:
            print(json.dumps(asyncio.run(crowd(port, given.crowd, 30.0))))
            return
        system = AnyToAny.from_pretrained(given.model, threads=given.threads)
        asyncio.run(over_http(port, "mixed", 2, 4, given.steps))  # both are warm
        in_process(system, "mixed", 2, 4, given.steps)
        for kind in given.kinds.split(","):
            for clients in (int(text) for text in given.clients.split(",")):
                total = given.requests // 4 if clients == 1 else given.requests
                row = measure(system, port, kind, clients, given.rounds, total, given.steps)
                row["load"] = round(os.getloadavg()[0], 1)
                print(json.dumps(row), flush=True)
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(60)


if __name__ == "__main__":
    main()
