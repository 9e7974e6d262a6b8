"""A Ray cluster by its address, with a token: the same tree as here, and a wrong token refused."""

from __future__ import annotations

import os
import secrets
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from batch_faults import tree, write_manifest

pytest.importorskip("ray")
pytestmark = [pytest.mark.slow, pytest.mark.timeout(900)]
ROOT = Path(__file__).resolve().parents[2]


def environment(token: str) -> dict[str, str]:
    return {
        **os.environ,
        "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": str(ROOT),
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": token,
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def convert(
    manifest: Path, out: Path, token: str, *options: str
) -> subprocess.CompletedProcess[str]:
    words = [sys.executable, "-m", "anyany", "convert", str(manifest), "-o", str(out), *options]
    return subprocess.run(words, env=environment(token), capture_output=True, text=True)


@pytest.fixture
def cluster() -> Iterator[tuple[str, str]]:
    """Address and token of a cluster of one machine."""
    token = secrets.token_hex(32)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    head = ("ray", "start", "--head", "--port", str(port), "--node-ip-address", "127.0.0.1")
    limits = ("--num-cpus", "3", "--include-dashboard=false", "--object-store-memory", "100000000")
    subprocess.run([*head, *limits], env=environment(token), check=True, capture_output=True)
    yield f"127.0.0.1:{port}", token
    subprocess.run(["ray", "stop"], env=environment(token), capture_output=True)


def test_a_cluster_by_address_makes_the_same_tree(cluster: tuple[str, str], tmp_path: Path) -> None:
    address, token = cluster
    says = ("hello", "what can you do?", "what does a bell do?", "thanks")
    records = [{"id": f"r{n}", "text": text, "outputs": ["text"]} for n, text in enumerate(says)]
    manifest = write_manifest(tmp_path / "m.jsonl", records)
    by_address = ("--engine", "ray", "--ray-address", address)
    refused = convert(manifest, tmp_path / "refused", secrets.token_hex(32), *by_address)
    assert refused.returncode == 4, refused
    assert "check --ray-address and its token" in refused.stderr
    made = convert(manifest, tmp_path / "out", token, *by_address)
    assert made.returncode == 0, made
    here = convert(manifest, tmp_path / "here", token)
    assert here.returncode == 0, here
    assert tree(tmp_path / "out") == tree(tmp_path / "here")
