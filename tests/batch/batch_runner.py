"""A run of its own, to be killed: python batch_runner.py '{"path": ..., "out": ..., ...}'.

Prints one JSON line when it begins to work, and one at its end; exits as the command line would.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path
from typing import Any

from batch_faults import NotedFactory, PaintFactory

from anyany.batch import Factory, Run, RunOptions, SystemFactory, open_manifest
from anyany.errors import AnyAnyError


def main(text: str) -> int:
    """Carry out one run."""
    given: dict[str, Any] = json.loads(text)
    path = Path(given["path"])
    factory: Factory = PaintFactory(
        str(path.parent), given.get("seconds", 0.0), given.get("notes", "")
    )
    if given.get("system"):
        factory = SystemFactory(
            "pocket",
            str(path.parent),
            "cpu",
            threads=given.get("threads", 1),
            common={"max_new_tokens": 24},
            overrides={"num_inference_steps": 2},
        )
        if "notes" in given:
            factory = NotedFactory(factory, given["notes"])

    def tell(event: dict[str, Any]) -> None:
        print(json.dumps(event), file=sys.__stdout__, flush=True)

    run = Run(
        open_manifest(path, shard=tuple(given["shard"]) if "shard" in given else None),
        Path(given["out"]),
        factory,
        options=RunOptions(
            workers=given.get("workers", 1),
            engine=given.get("engine", "local"),
            retry_failed=given.get("retry_failed", False),
        ),
        on_event=tell,
    )
    try:
        summary = run()
    except AnyAnyError as error:
        tell({"event": "error", "message": str(error), "exit_code": error.exit_code})
        return error.exit_code
    tell({"event": "end", "pid": os.getpid(), **vars(summary.counts)})
    return summary.exit_code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
