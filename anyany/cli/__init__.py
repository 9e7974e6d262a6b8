"""The command line: `anyany VERB ...`, one file per verb.

`main` parses, runs one verb and turns what went wrong into one line on stderr and the documented
exit code. stdout carries the verb's answer and nothing else. torch loads only inside verbs that
compute.
"""

from __future__ import annotations

import errno
import sys
import traceback
from collections.abc import Sequence
from typing import Final

from anyany.errors import AnyAnyError, ResourceError

INTERRUPTED: Final = 130
_DISK_FULL: Final = (errno.ENOSPC, errno.EDQUOT)


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        argv: the arguments after the program's name; None = those of the process.

    Returns:
        The exit code: 0 all done, 1 internal error (or `repro` found a difference), 2 usage or
        validation, 3 some items failed, 4 resources, 5 locked or refused, 130 interrupted.
    """
    from anyany.cli.terminal import logging_to_stderr, split_flags

    arguments, flags = split_flags(list(sys.argv[1:] if argv is None else argv))
    with logging_to_stderr(flags.verbosity):
        try:
            code = _run(arguments)
        except Exception as error:
            if flags.debug:
                traceback.print_exc()
            code = _report(error)
        except (KeyboardInterrupt, SystemExit) as stop:
            own = stop.code if isinstance(stop, SystemExit) else INTERRUPTED
            code = own if isinstance(own, int) else int(bool(own))
        if code == INTERRUPTED:
            _say("interrupted")
    return code


def _run(arguments: list[str]) -> int:
    import typer

    from anyany.cli.verbs import build_command

    try:
        done = build_command().main(args=arguments, prog_name="anyany", standalone_mode=False)
    except typer.Abort:
        return INTERRUPTED
    return done if isinstance(done, int) else 0


def _report(error: Exception) -> int:
    """Print one line; returns the exit code."""
    import typer

    click_error = typer.BadParameter.__mro__[2]  # ClickException, of typer's own click or the real
    if isinstance(error, click_error):
        return _report_usage(error)
    if isinstance(error, OSError) and error.errno in _DISK_FULL:
        error = ResourceError("the disk is full")
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        error = ResourceError("out of memory: close other programs, or take a smaller model")
    if isinstance(error, AnyAnyError):
        _say(f"error: {error}")
        return error.exit_code
    _say(f"internal error ({type(error).__name__}): run with --debug for the traceback")
    return 1


def _report_usage(error: Exception) -> int:
    message = error.format_message()  # type: ignore[attr-defined]
    if type(error).__name__ == "NoArgsIsHelpError":
        print(message, file=sys.stderr)
        return 2
    context = getattr(error, "ctx", None)
    hint = f" (see '{context.command_path} --help')" if context is not None else ""
    _say(f"error: {message.rstrip('.')}{hint}")
    return 2


def _say(line: str) -> None:
    print(" ".join(line.split()), file=sys.stderr, flush=True)


__all__ = ["main"]
