"""The table of verbs, and the command that loads a verb's file only when it is called.

`anyany --help` reads the table alone, so it is quick and loads no torch.
"""

from __future__ import annotations

import importlib
import importlib.util
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Final

import typer
from typer.core import TyperGroup
from typer.main import get_command


@dataclass(frozen=True)
class Verb:
    """Where a verb lives.

    Args:
        module: holds the functions.
        help: one line for `anyany --help`.
        functions: one of them is the verb itself; several, or `group`, are its sub-verbs.
        group: sub-verbs follow even if there is but one.
    """

    module: str
    help: str
    functions: tuple[str, ...]
    group: bool = False


VERBS: Final[Mapping[str, Verb]] = {
    "generate": Verb(
        "anyany.cli.generate",
        "Answer a prompt of text and media in text and media.",
        ("generate",),
    ),
    "repro": Verb("anyany.cli.repro", "Make a file again, byte for byte.", ("repro",)),
    "chat": Verb("anyany.cli.chat", "Talk to a system in the terminal.", ("chat",)),
    "serve": Verb("anyany.cli.serve", "Serve a chat page and an HTTP API.", ("serve",)),
    "convert": Verb(
        "anyany.cli.convert",
        "Convert a folder or a manifest; resumable at any moment.",
        ("convert",),
    ),
    "status": Verb("anyany.cli.status", "Say how far a batch run is.", ("status",)),
    "verify": Verb("anyany.cli.verify", "Check a batch run's files, byte for byte.", ("verify",)),
    "report": Verb("anyany.cli.report", "Write a batch run as one HTML page.", ("report",)),
    "clean": Verb("anyany.cli.clean", "Remove what killed batch runs left.", ("clean",)),
    "train": Verb("anyany.cli.train", "Train one stage of a system.", ("train",)),
    "evaluate": Verb(
        "anyany.cli.evaluate", "Measure a system on held-out combinations.", ("evaluate",)
    ),
    "compare": Verb(
        "anyany.cli.compare", "Train bridges side by side, and table them.", ("compare",)
    ),
    "pocket": Verb(
        "anyany.cli.pocket",
        "Build the pocket system from nothing; make its gallery.",
        ("build", "gallery"),
        True,
    ),
    "models": Verb(
        "anyany.cli.models", "List, verify and show systems.", ("list", "verify", "show"), True
    ),
    "import": Verb(
        "anyany.cli.imports",
        "Turn published weights into safetensors.",
        ("imagebind", "nextgpt-7b-v0", "nextgpt-7b-v1.5"),
        True,
    ),
    "doctor": Verb(
        "anyany.cli.doctor", "Print versions, devices, codecs and folders.", ("doctor",)
    ),
}
_EPILOG: Final = """Everywhere: -v, -vv say more; -q says less; --debug shows tracebacks.

\b
Examples:
  anyany generate "a small red bell on the left" --to text,image -o out/
  anyany generate "what is this?" bell.png --to text
  anyany repro out/image_0.png

\b
Exit codes:
  0 all done   1 internal error   2 usage   3 some items failed
  4 disk or memory   5 locked or refused   130 interrupted
"""


def build_command() -> Any:
    """The whole command line, as a command of typer's own click."""
    app = typer.Typer(
        cls=_LazyGroup,
        no_args_is_help=True,
        rich_markup_mode=None,
        pretty_exceptions_enable=False,
        epilog=_EPILOG,
        help="Any mix of text, images, video and audio in; any mix of them out.",
        context_settings={"help_option_names": ["-h", "--help"]},
    )
    app.callback()(_everywhere)
    for name, verb in available().items():
        app.command(name, help=verb.help)(_placeholder)
    return get_command(app)


def available() -> dict[str, Verb]:
    """The verbs whose file is there."""
    return {
        name: verb
        for name, verb in VERBS.items()
        if importlib.util.find_spec(verb.module) is not None
    }


class _LazyGroup(TyperGroup):
    """Lists placeholders; loads a verb when it is called, or its words are completed."""

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        name, command, rest = super().resolve_command(ctx, args)
        return name, _load(str(name)) if name in VERBS else command, rest


def _load(name: str) -> Any:
    """Import a verb's file and build its command."""
    verb = VERBS[name]
    module = importlib.import_module(verb.module)
    app = typer.Typer(
        rich_markup_mode=None,
        no_args_is_help=verb.group,
        add_completion=False,
        context_settings={"help_option_names": ["-h", "--help"]},
        help=verb.help,
    )
    for function in verb.functions:
        called: Callable[..., Any] = getattr(module, _identifier(function))
        settings = getattr(called, "context_settings", None)
        app.command(function if verb.group else name, context_settings=settings)(called)
    if verb.group:
        app.callback()(_nothing)
    command = get_command(app)
    command.name = name
    return command


def _identifier(function: str) -> str:
    """How a sub-verb is called in Python."""
    return "list_" if function == "list" else function.replace("-", "_").replace(".", "_")


def _print_version(asked: bool) -> None:
    if asked:
        from anyany import __version__

        print(f"anyany {__version__}")
        raise typer.Exit


def _everywhere(
    version: Annotated[
        bool,
        typer.Option(
            "--version", help="Print the version.", is_eager=True, callback=_print_version
        ),
    ] = False,
) -> None:
    """What stands before the verb."""


def _placeholder() -> None:
    """Never called: `_LazyGroup` loads the verb instead."""


def _nothing() -> None:
    """Makes typer treat a single sub-verb as one."""
