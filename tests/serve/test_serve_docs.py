"""docs/serving.md is true: its curl, Python and JavaScript examples run against a real server."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from serve_parts import served

from anyany import AnyToAny
from anyany.cli import main
from anyany.media import read_provenance
from anyany.serve import bodies
from anyany.serve.bodies import ChatBody
from anyany.serve.model import SystemModel

PAGE = Path(__file__).parents[2] / "docs" / "serving.md"


@pytest.fixture(scope="module")
def client() -> Iterator[httpx.Client]:
    system = AnyToAny.from_pretrained("pocket", threads=None)
    with served(SystemModel(system)) as (found, _):
        yield found


def block(language: str, number: int, client: httpx.Client) -> str:
    """The page's number-th block of a language, for this server."""
    text = PAGE.read_text(encoding="utf-8")
    found = re.findall(rf"^```{language}\n(.*?)^```", text, re.M | re.S)[number]
    assert isinstance(found, str)
    return found.replace("http://127.0.0.1:8000", str(client.base_url).rstrip("/"))


def test_the_curl_example(client: httpx.Client) -> None:
    if shutil.which("curl") is None or shutil.which("bash") is None:
        pytest.skip("no curl here")
    command = block("bash", 1, client)
    done = subprocess.run(["bash", "-c", command], capture_output=True, check=True, timeout=120)
    message = json.loads(done.stdout)["choices"][0]["message"]
    assert message["content"]
    assert message["images"][0]["seed"] == 7


def test_the_python_example(client: httpx.Client, tmp_path: Path) -> None:
    program = block("python", 0, client)
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, check=True, timeout=120, cwd=tmp_path
    )
    assert len(done.stdout.decode().strip().splitlines()) == 2
    record = read_provenance(tmp_path / "bell.png")
    assert record is not None
    assert (record.seed, record.prompt) == (7, "draw a small red bell on the left")


def test_the_javascript_example(client: httpx.Client, tmp_path: Path) -> None:
    node = shutil.which("node")
    if node is None:
        pytest.skip("no Node here")
    (tmp_path / "example.mjs").write_text(block("javascript", 0, client), encoding="utf-8")
    done = subprocess.run(
        [node, "example.mjs"], capture_output=True, check=True, timeout=120, cwd=tmp_path
    )
    assert done.stdout.decode().strip().endswith("image_0.png 3")


def test_the_tables_name_what_is_there(client: httpx.Client) -> None:
    text = PAGE.read_text(encoding="utf-8")
    paths = client.get("/openapi.json").json()["paths"]
    for path in re.findall(r"`(?:POST |GET )?(/(?:v1/|healthz|readyz|metrics)[\w/]*)`", text):
        assert path in paths, path
    chat = text.partition("## Chat completions")[2].partition("All of them may")[0]
    for name in re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| ([^|]+) \|", chat, re.M))):
        assert name in ChatBody.model_fields, name
    for name in bodies.DECODING:
        assert f"`{name}`" in chat


def test_its_options_exist(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--help"]) == 0
    shown = capsys.readouterr().out
    text = PAGE.read_text(encoding="utf-8").partition("## Load")[0]
    for option in set(re.findall(r"(?<![\w-])(--[a-z][a-z-]+)", text)):
        assert option in shown, option


def test_nothing_of_the_server_loads_with_the_package() -> None:
    program = (
        "import sys, anyany, anyany.cli.verbs\n"
        "from anyany.cli import main\n"
        "main(['--help'])\n"
        "print([m for m in ('fastapi', 'uvicorn', 'torch', 'pydantic') if m in sys.modules],"
        " file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.stderr.strip() == "[]"
    assert "serve" in done.stdout
