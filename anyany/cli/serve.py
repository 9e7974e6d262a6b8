"""`anyany serve`: the chat page and the API, on this machine unless a key lets others in."""

from __future__ import annotations

import functools
import importlib.util
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from anyany.cli.options import Device, Dtype, Model, Residency, Threads, Weights
from anyany.cli.terminal import notes
from anyany.errors import UsageError

_NEEDED: Final = ("fastapi", "uvicorn", "python_multipart")
_Seconds = Annotated[float, typer.Option(metavar="S", min=1.0, help="Until a request is given up.")]


def serve(
    host: Annotated[
        str,
        typer.Option(
            metavar="ADDRESS", help="To listen on; others than this machine's need a key."
        ),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 = any free one.")] = 8000,
    model: Model = "pocket",
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="ANYANY_API_KEY",
            metavar="KEY",
            help="Whoever asks must have it; several with commas. Better by the variable.",
        ),
    ] = None,
    api_key_file: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Holds keys, one a line.")
    ] = None,
    allow_host: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A further name of this server; repeat."),
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(metavar="URL", help="Pages from there may ask (CORS); repeat."),
    ] = None,
    queue: Annotated[int, typer.Option(min=1, help="Most requests that wait.")] = 128,
    batch: Annotated[int, typer.Option(min=1, max=64, help="Most requests of one call.")] = 64,
    timeout: _Seconds = 60.0,
    job_timeout: Annotated[
        float, typer.Option(metavar="S", min=1.0, help="Likewise of clips and batches.")
    ] = 1800.0,
    drain: Annotated[
        float, typer.Option(metavar="S", min=0.0, help="To finish in when it is told to end.")
    ] = 25.0,
    max_body: Annotated[int, typer.Option(metavar="MIB", min=1, help="Of a request.")] = 32,
    max_part: Annotated[int, typer.Option(metavar="MIB", min=1, help="Of one medium.")] = 16,
    max_tokens: Annotated[int, typer.Option(min=1, help="Most that a request may ask for.")] = 1024,
    max_steps: Annotated[int, typer.Option(min=1, max=1000, help="Of denoising.")] = 200,
    state: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where files and batches outlive the server."),
    ] = None,
    device: Device = "auto",
    dtype: Dtype = None,
    threads: Threads = 2,
    residency: Residency = "resident",
    weights: Weights = None,
) -> None:
    """Serve a chat page and an API that OpenAI's clients speak.

    Prints one line with the address once it answers. Ctrl-C or SIGTERM finish what is at work and
    end it. What it allows and refuses: docs/serving.md.

    \b
    Examples:
      anyany serve
      anyany serve --port 0 --model folder/ --timeout 300
      ANYANY_API_KEY=... anyany serve --host 0.0.0.0 --allow-host example.org
    """
    _check_extra()
    from anyany.cli.loading import load_system
    from anyany.serve.engine_process import EngineProcess

    mebibyte = 2**20
    settings = _settings(
        host=host,
        port=port,
        api_keys=_keys(api_key, api_key_file),
        allow_hosts=tuple(name.lower() for name in allow_host or ()),
        allow_origins=tuple(url.rstrip("/") for url in allow_origin or ()),
        queue=queue,
        together=batch,
        seconds=timeout,
        job_seconds=job_timeout,
        drain_seconds=drain,
        body_bytes=max_body * mebibyte,
        bodies_bytes=max(256, 4 * max_body) * mebibyte,
        part_bytes=max_part * mebibyte,
        max_new_tokens=max_tokens,
        most_steps=max_steps,
        state=state,
    )
    load = functools.partial(
        load_system,
        model,
        device=device,
        dtype=dtype,
        threads=threads,
        residency=residency,
        weights=weights,
    )
    with EngineProcess(load) as process:  # it loads while this imports
        from anyany.serve.app import Server
        from anyany.serve.remote import RemoteModel
        from anyany.serve.run import address, announce, listen
        from anyany.serve.run import serve as run

        with listen(host, port) as opened:
            url = address(opened)
            run(Server(RemoteModel(process), settings), opened, lambda: announce(url))
    notes.info("ended")


def _settings(**values: Any) -> Any:
    from dataclasses import replace

    from anyany.serve.settings import SERVER_MEDIA, ServeSettings

    media = replace(SERVER_MEDIA, file_bytes=values["part_bytes"])
    return ServeSettings(media=media, **values)


def _check_extra() -> None:
    if any(importlib.util.find_spec(name) is None for name in _NEEDED):
        raise UsageError("anyany serve needs its extra: pip install 'anyany[serve]'")


def _keys(given: str | None, file: Path | None) -> tuple[str, ...]:
    """The API keys.

    Raises:
        UsageError: the file cannot be read.
    """
    keys = [key.strip() for key in (given or "").split(",")]
    if file is not None:
        try:
            keys += file.read_text(encoding="ascii").split()
        except (OSError, ValueError):
            raise UsageError(f"--api-key-file: {file.name} cannot be read as text") from None
    found = tuple(dict.fromkeys(key for key in keys if key))
    if not found and (given is not None or file is not None):
        raise UsageError("expected an API key; got none in what was given")
    return found


__all__ = ["serve"]
