"""`anyany chat`: a conversation in the terminal, or from a file, with media saved and named."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

from anyany.cli.generate import check_folder
from anyany.cli.options import Device, Dtype, Model, Residency, Threads, Weights, parse_outputs
from anyany.cli.terminal import ProgressBar, notes
from anyany.errors import AnyAnyError, UsageError
from anyany.messages import MediaPart, Message, Modality, Part, Reply, TextPart, read_part

if TYPE_CHECKING:
    from anyany.system import AnyToAny

PROMPT: Final = "> "
HELP: Final = """\
/attach FILE   put a picture, clip or recording before what you say next
/to LIST       text,image,video,audio: what must come; /to alone: the model chooses
/seed N        of the next replies, rising by one; /seed alone: drawn
/retry         the last reply again, with another seed
/save FILE     write the conversation as JSON lines that anyany serve understands
/new           begin anew
/help          this
/quit          end; so does Ctrl-D"""


@dataclass
class Chat:
    """A conversation and how it goes on.

    Args:
        system: that answers.
        folder: where media are saved.
        options: of `AnyToAny.generate` for every reply.
        outputs: what must come; None = the model chooses.
        seed: of the next reply; None = drawn.
    """

    system: AnyToAny
    folder: Path
    options: dict[str, Any]
    outputs: set[Modality] | None = None
    seed: int | None = None
    messages: list[Message] = field(default_factory=list)
    attached: list[MediaPart] = field(default_factory=list)
    count: int = 0  # replies, for names

    def take(self, line: str) -> bool:
        """A line of the user's; returns whether to go on.

        Raises:
            AnyAnyError: it cannot be carried out; the conversation is as it was.
        """
        line = line.strip()
        if not line and not self.attached:
            return True
        if line.startswith("/"):
            name, _, rest = line.partition(" ")
            command = self._commands().get(name)
            if command is None:
                raise UsageError(f"{name[:40]}: no such command; /help lists them")
            return command(rest.strip()) is not False
        parts: list[Part] = [*self.attached, *([TextPart(line)] if line else [])]
        self._answer([*self.messages, Message("user", tuple(parts))])
        self.attached = []
        return True

    def _commands(self) -> dict[str, Callable[[str], bool | None]]:
        return {
            "/attach": self._attach,
            "/to": self._to,
            "/seed": self._seed,
            "/retry": self._retry,
            "/save": self._save,
            "/new": self._new,
            "/help": lambda rest: print(HELP),
            "/quit": lambda rest: False,
            "/exit": lambda rest: False,
        }

    def _answer(self, messages: list[Message]) -> None:
        from anyany.language import Span, TextDelta
        from anyany.requests import DenoisingStep

        bar = ProgressBar()
        shows_text = self.outputs is None or "text" in self.outputs
        written = False

        def on_event(event: object) -> None:
            nonlocal written
            if isinstance(event, TextDelta) and shows_text:
                print(event.text if written else event.text.lstrip(), end="", flush=True)
                written = written or bool(event.text.strip())
            elif isinstance(event, Span) and written:
                print(flush=True)
                written = False
            elif isinstance(event, DenoisingStep):
                bar.update(f"{event.modality} {event.index}", event.step, event.total)

        try:
            reply = self.system.generate(
                messages, outputs=self.outputs, seed=self.seed, on_event=on_event, **self.options
            )
        finally:
            bar.close()
            if written:
                print(flush=True)
        self.messages = [*messages, reply.message()] if reply.parts else messages[:-1]
        for path in self._write(reply):
            print(path, flush=True)
        if self.seed is not None:
            self.seed += 1
        elif len(reply.parts) > len([part for part in reply.parts if part.modality == "text"]):
            notes.info("seed %d", reply.seed)
        if reply.finish_reason == "length":
            notes.warning("the reply was cut at --max-new-tokens")
        if reply.dropped_turns:
            notes.info("too long by now: made without the oldest %d", reply.dropped_turns)

    def _write(self, reply: Reply) -> Iterator[Path]:
        """Save a reply's media as reply_001_image_0.png and so on."""
        counts: dict[str, int] = {}
        for part in reply.parts:
            if isinstance(part, TextPart):
                continue
            if not counts:
                self.count = _next_number(self.folder, self.count)
            index = counts.get(part.modality, 0)
            counts[part.modality] = index + 1
            self.folder.mkdir(parents=True, exist_ok=True)
            name = f"reply_{self.count:03}_{part.modality}_{index}{part.extension}"
            yield part.save(self.folder / name)

    def _attach(self, rest: str) -> None:
        if not rest:
            raise UsageError("/attach FILE: expected a file")
        path = rest[1:-1] if rest[0] == rest[-1] and rest[0] in "'\"" and len(rest) > 1 else rest
        part = read_part(Path(path).expanduser())
        self.attached.append(part)
        notes.info("attached: %s, %s", part.modality, Path(path).name)

    def _to(self, rest: str) -> None:
        outputs = parse_outputs(rest) if rest else None
        for wanted in sorted((outputs or set()) - {"text", *self.system.decoders}):
            raise UsageError(f"{self.system.config.name} does not make {wanted}")
        self.outputs = outputs

    def _seed(self, rest: str) -> None:
        if rest and not (rest.isdecimal() and int(rest) < 2**63):
            raise UsageError(f"/seed N: expected a whole number from 0; got {rest[:40]!r}")
        self.seed = int(rest) if rest else None

    def _retry(self, rest: str) -> None:
        if len(self.messages) < 2:
            raise UsageError("/retry: there is no reply yet")
        self._answer(self.messages[:-1])

    def _save(self, rest: str) -> None:
        if not rest:
            raise UsageError("/save FILE: expected a file")
        path = Path(rest).expanduser()
        check_folder(path.parent)
        from anyany.cli.chat_file import write_chat

        print(write_chat(self.messages, path), flush=True)

    def _new(self, rest: str) -> None:
        self.messages, self.attached = [], []


def chat(
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FOLDER", help="Where media are saved.")
    ] = Path("chat"),
    to: Annotated[
        str | None, typer.Option(metavar="LIST", help="text,image,video,audio; else it chooses.")
    ] = None,
    attach: Annotated[
        list[str] | None, typer.Option(metavar="FILE", help="Before the first words; repeat.")
    ] = None,
    model: Model = "pocket",
    seed: Annotated[
        int | None, typer.Option(min=0, help="Of the first reply; rises by one. Drawn if left out.")
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Most tokens of a reply.")] = 128,
    temperature: Annotated[float, typer.Option(min=0.0, help="Of the text; 0 = greedy.")] = 0.0,
    device: Device = "auto",
    dtype: Dtype = None,
    threads: Threads = 2,
    residency: Residency = "resident",
    weights: Weights = None,
) -> int:
    """Talk to a system; each line is a turn.

    Text is printed as it is written, media are saved as reply_001_image_0.png and so on, and their
    paths printed. /help lists what else can be said. Lines may come from a file or pipe; the exit
    code is 3 then if one of them could not be carried out.

    \b
    Examples:
      anyany chat
      anyany chat --to text,image -o pictures/ --seed 1
      printf 'draw a red bell\\nmake it blue\\n' | anyany chat
    """
    outputs = parse_outputs(to)
    check_folder(out)
    attached = [read_part(Path(path)) for path in attach or ()]
    from anyany.cli.loading import load_system

    system = load_system(
        model,
        device=device,
        dtype=dtype,
        threads=threads,
        residency=residency,
        weights=weights,
    )
    options = {
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "truncate": "oldest_turns",
    }
    talk = Chat(system, out, options, outputs, seed, attached=attached)
    if sys.stdin.isatty():
        notes.info("/help lists what can be said beside words; Ctrl-D ends")
    failed = 0
    for line in _lines():
        try:
            if not talk.take(line):
                break
        except AnyAnyError as error:
            failed += 1
            notes.error("%s", " ".join(str(error).split()))
        except KeyboardInterrupt:
            if not sys.stdin.isatty():
                raise
            print(flush=True)
            notes.info("stopped")
    return 3 if failed and not sys.stdin.isatty() else 0


def _lines() -> Iterator[str]:
    """What is typed, or comes through the pipe, line by line."""
    if not sys.stdin.isatty():
        yield from sys.stdin
        return
    with contextlib.suppress(ImportError):  # a Python without it
        import readline  # noqa: F401  # editing and history of `input`
    while True:
        try:
            yield input(PROMPT)
        except EOFError:
            print(flush=True)
            return
        except KeyboardInterrupt:
            print(flush=True)


def _next_number(folder: Path, last: int) -> int:
    """The first number whose names are free: nothing of an earlier conversation is replaced."""
    number = last + 1
    while any(folder.glob(f"reply_{number:03}_*")):
        number += 1
    return number


__all__ = ["chat"]
