"""The fixed mix of requests, and what every side of a comparison reports about it.

Every reply has exactly REPLY_TOKENS tokens on every side: the end-of-reply token is an ordinary one
here, so that nobody is faster by saying less. A reply with a picture spends its last tokens on the
picture's span.
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from anyany.messages import Message, Modality, to_messages
from anyany.pocket.captions import caption
from anyany.pocket.dialogues import ASK_WHAT, CHAT, draw_edit
from anyany.pocket.render import Jitter, render_image
from anyany.pocket.world import draw_scene

if TYPE_CHECKING:
    from anyany.system import AnyToAny

REPLY_TOKENS: Final = 24
KINDS: Final = ("text to text", "image to text", "text to image", "edit")


@dataclass(frozen=True, eq=False)
class Job:
    """One request of the mix.

    Args:
        kind: one of KINDS.
        messages: of the conversation.
        outputs: what must come.
        seed: of the noise.
    """

    kind: str
    messages: tuple[Message, ...]
    outputs: frozenset[Modality]
    seed: int

    @property
    def draws(self) -> bool:
        """Whether the reply has a picture."""
        return "image" in self.outputs


def build_mix(per_kind: int, seed: int = 0) -> list[Job]:
    """`per_kind` requests of each kind, the kinds in turn."""
    rng = random.Random(f"benchmark mix {seed}")
    jobs: list[Job] = []
    for _ in range(per_kind):
        for kind in KINDS:
            draws = kind in ("text to image", "edit")
            outputs: frozenset[Modality] = frozenset(("text", "image") if draws else ("text",))
            prompt = tuple(to_messages(_prompt(kind, rng)))
            jobs.append(Job(kind, prompt, outputs, len(jobs)))
    return jobs


def _prompt(kind: str, rng: random.Random) -> list[object]:
    scene = draw_scene(rng)
    picture = render_image(scene, Jitter.draw(rng))
    if kind == "text to text":
        return [rng.choice(CHAT)[0]]
    if kind == "image to text":
        return [picture, rng.choice(ASK_WHAT)]
    if kind == "text to image":
        return [f"draw {caption(scene, rng)}"]
    return [picture, draw_edit(scene, rng)[0]]


def load_pocket(source: str, threads: int, **settings: Any) -> AnyToAny:
    """The system on the CPU, its replies never ended by itself."""
    from anyany.system import AnyToAny

    model = AnyToAny.from_pretrained(source, device="cpu", threads=threads, **settings)
    model.language.stop_ids = ()
    return model


def peak_mib() -> float:
    """Largest resident size of this process so far, MiB (Linux: of this program alone)."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmHWM:"):
            return int(line.split()[1]) / 1024
    raise RuntimeError("expected VmHWM in /proc/self/status")
