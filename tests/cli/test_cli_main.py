"""The frame around the verbs: help, flags, exit codes, and what may be printed where."""

# ruff: noqa: F811 (fixtures are imported)

import errno
import logging
import subprocess
import sys
from pathlib import Path

import pytest
from cli_runs import SHORT, Anyany, anyany, loaded, system  # noqa: F401

from anyany import AnyToAny, Reply, __version__
from anyany.cli.terminal import split_flags
from anyany.cli.verbs import VERBS, available


def test_help_loads_no_torch_and_no_model() -> None:
    code = (
        "import sys\n"
        "from anyany.cli import main\n"
        "codes = [main(['--help']), main(['--version']), main(['generate', '--help'])]\n"
        "heavy = {'torch', 'transformers', 'diffusers', 'PIL', 'av'} & set(sys.modules)\n"
        "assert codes == [0, 0, 0], codes\n"
        "assert not heavy, heavy\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, timeout=120
    )

    assert done.returncode == 0, done.stderr
    assert "anyany generate" in done.stdout


def test_the_module_runs_as_a_program_and_prints_no_traceback(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "anyany", "generate", "what is this?", "gone.png"],
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
        cwd=tmp_path,
        env={"PYTHONPATH": str(Path(__file__).parents[2]), "PATH": ""},
    )

    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr == "error: gone.png: no such file\n"


def test_help_lists_every_verb_with_a_line_that_fits(anyany: Anyany) -> None:
    run = anyany("--help")

    assert run.code == 0
    for name in available():
        assert f"  {name} " in run.out
    assert "..." not in run.out.split("Commands:")[1].split("Everywhere")[0]
    for code in ("0 all done", "2 usage", "130 interrupted"):
        assert code in run.out


@pytest.mark.parametrize("name", sorted(available()))
def test_every_verb_helps_with_an_example(anyany: Anyany, name: str) -> None:
    verb = VERBS[name]
    for words in [(name, function) for function in verb.functions] if verb.group else [(name,)]:
        run = anyany(*words, "--help")

        assert run.code == 0, run.err
        assert f"anyany {' '.join(words)}" in run.out.split("Usage:")[1].split("\n", 1)[1]
        assert "TEXT" not in run.out.split("\n")[0]


def test_version(anyany: Anyany) -> None:
    assert anyany("--version") == (0, f"anyany {__version__}\n", "")


def test_without_a_verb_the_help_goes_to_stderr(anyany: Anyany) -> None:
    run = anyany()

    assert run.code == 2
    assert run.out == ""
    assert "Usage: anyany" in run.err


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (["genrate"], "error: No such command 'genrate'. Did you mean 'generate'?"),
        (["generate", "--sed", "3"], "error: No such option: --sed"),
        (["generate", "--seed", "three"], "error: Invalid value for '--seed': "),
        (["models", "lst"], "error: No such command 'lst'. Did you mean 'list'?"),
        (["repro"], "error: Missing argument 'FILE'"),
        (["generate", "hello", "--threads", "0"], "error: Invalid value for '--threads': "),
    ],
)
def test_mistyped_commands_get_one_line_and_a_suggestion(
    anyany: Anyany, arguments: list[str], line: str
) -> None:
    run = anyany(*arguments)

    assert run.code == 2
    assert run.out == ""
    assert run.err.startswith(line)
    assert run.err.count("\n") == 1
    assert "--help'" in run.err


def test_flags_are_taken_from_anywhere_before_two_dashes() -> None:
    kept, flags = split_flags(["-v", "generate", "--debug", "x", "-vv", "--", "-q", "--debug"])

    assert kept == ["generate", "x", "--", "-q", "--debug"]
    assert (flags.verbosity, flags.debug) == (3, True)
    assert split_flags(["generate", "-q"])[1].verbosity == -1


def fail_with(monkeypatch: pytest.MonkeyPatch, error: BaseException) -> None:
    def generate(*_: object, **__: object) -> Reply:
        raise error

    monkeypatch.setattr(AnyToAny, "generate", generate)


@pytest.mark.parametrize(
    ("error", "code", "line"),
    [
        (RuntimeError("secret"), 1, "internal error (RuntimeError): run with --debug for the"),
        (MemoryError(), 4, "error: out of memory: close other programs"),
        (OSError(errno.ENOSPC, "no space"), 4, "error: the disk is full"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_what_goes_wrong_inside_has_its_exit_code_and_one_line(
    anyany: Anyany,
    loaded: AnyToAny,
    monkeypatch: pytest.MonkeyPatch,
    error: BaseException,
    code: int,
    line: str,
) -> None:
    fail_with(monkeypatch, error)
    run = anyany("generate", "hello", "-q", *SHORT)

    assert run.code == code
    assert run.out == ""
    assert run.err.startswith(line)
    assert run.err.count("\n") == 1
    assert "secret" not in run.err


def test_debug_shows_the_traceback(
    anyany: Anyany, loaded: AnyToAny, monkeypatch: pytest.MonkeyPatch
) -> None:
    fail_with(monkeypatch, RuntimeError("secret"))
    run = anyany("generate", "hello", "--debug", *SHORT)

    assert run.code == 1
    assert "Traceback" in run.err
    assert "RuntimeError: secret" in run.err


def test_logging_is_put_back_as_it_was(anyany: Anyany) -> None:
    before = (logging.getLogger().level, list(logging.getLogger().handlers))
    anyany("generate", "-vv", "")

    assert (logging.getLogger().level, list(logging.getLogger().handlers)) == before
