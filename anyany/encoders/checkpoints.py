"""Do tensors in a file fit a module: one comparison, one clear line, for all of this folder."""

from __future__ import annotations

from collections.abc import Collection, Mapping

from anyany.errors import CheckpointError

MAX_NAMED = 3  # names per kind of mismatch in an error line


def check_tensors(
    found: Mapping[str, tuple[int, ...]],
    expected: Mapping[str, tuple[int, ...]],
    *,
    source: str,
) -> None:
    """Compare names and shapes.

    Args:
        found: name -> shape in the file.
        expected: name -> shape in the module.
        source: what to call the file.

    Raises:
        CheckpointError: a name is missing or unexpected, or a shape differs; all in one line.
    """
    wrong = [
        f"{name} (expected {list(expected[name])}, got {list(found[name])})"
        for name in expected
        if name in found and tuple(found[name]) != tuple(expected[name])
    ]
    problems = [
        f"{len(names)} {kind}: {_first(names)}"
        for kind, names in (
            ("missing", [name for name in expected if name not in found]),
            ("unexpected", [name for name in found if name not in expected]),
            ("of another shape", wrong),
        )
        if names
    ]
    if problems:
        raise CheckpointError(
            f"{source}: the weights do not fit the configuration; {'; '.join(problems)}"
        )


def _first(names: Collection[str]) -> str:
    shown = ", ".join(list(names)[:MAX_NAMED])
    return shown if len(names) <= MAX_NAMED else f"{shown} and {len(names) - MAX_NAMED} more"
