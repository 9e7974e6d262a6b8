"""One thread, one engine, many clients.

Waiting requests are taken together, up to the engine's window: text first, then media; each is
answered as soon as it is finished, text before any medium is decoded. Text joins a call of text
that is at work as soon as there is room, unless others wait. While a medium is decoded, text that
has waited half a second is answered between denoising steps, and takes at most half of the time.
Batches' requests run when nobody else waits.

The inner call is safe because the engine keeps no state between requests: the two share weights
alone.
"""

from __future__ import annotations

import functools
import logging
import math
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Final, Protocol

from anyany.errors import AnyAnyError, Cancelled, InternalError
from anyany.messages import Reply
from anyany.requests import Request
from anyany.serve import errors
from anyany.serve.jobs import Job, Kind
from anyany.serve.metrics import Metrics

logger = logging.getLogger(__name__)

KINDS: Final[tuple[Kind, ...]] = ("text", "media", "background")
PATIENCE: Final = 8  # calls after which a waiting kind goes first
FEW: Final = 8  # jobs of a call that others cannot get into
MOST_JOINED: Final = 512  # jobs of a call that others join: it keeps them until its end
GATHER_SHARE: Final = 0.05  # of the last call's time, in which the next one may fill up
GATHER_MOST: Final = 0.05  # seconds
_MOST_RETRY: Final = 60  # seconds
_TEXT_WAITS: Final = 0.5  # seconds, for more of its kind and the next call: together is cheaper


class Runner(Protocol):
    """What the scheduler drives: `Engine`, or a stand-in."""

    def run(
        self, requests: Sequence[Request], more: Callable[[], Iterable[Request]] | None = None
    ) -> Iterator[tuple[int, Reply | AnyAnyError]]:
        """A request's number and its reply or error, each as soon as there is one.

        Args:
            requests: to begin with.
            more: asked while there is room: requests that came meanwhile, numbered on.
        """

    def notice(self) -> None:
        """Told that a request waits that could join."""


class Scheduler:
    """Carries out jobs in a thread of its own.

    Args:
        runner: the engine.
        queue: most jobs that wait, those of batches not counted.
        most_together: most jobs of one call; fewer, where text cannot be answered in between.
        nests: text may be answered while a medium is decoded.
        metrics: told what happens.
    """

    def __init__(
        self,
        runner: Runner,
        *,
        queue: int,
        most_together: int,
        metrics: Metrics,
        nests: bool = True,
    ) -> None:
        self._runner = runner
        self._most = queue
        few = min(most_together, FEW)
        most = most_together if nests else few
        self._together: Mapping[Kind, int] = {"text": most, "media": most, "background": few}
        self._nests = nests
        self._metrics = metrics
        self._waiting: Mapping[Kind, deque[Job]] = {kind: deque() for kind in KINDS}
        self._passed = dict.fromkeys(KINDS, 0)  # calls that a waiting kind has let go first
        self._at_work: set[Job] = set()
        self._changed = threading.Condition()
        self._ending = False
        self._nested = False
        self._ahead, self._mark = 0.0, 0.0  # seconds that text has had more than decoding
        self._pace = 0.1  # seconds a job, of late
        self._expected, self._until = 0, 0.0  # clients that may ask again, and until when
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    def start(self) -> None:
        """Begin to work."""
        self._thread.start()

    def submit(self, job: Job) -> None:
        """Queue a job.

        Raises:
            ApiError: 429, the queue is full; 503, the server is about to end.
        """
        with self._changed:
            if self._ending:
                raise errors.draining()
            if job.kind != "background" and self.depth >= self._most:
                self._purge()
                if self.depth >= self._most:
                    self._metrics.count("anyany_rejected_total", reason="queue_full")
                    wait = math.ceil(self.depth * self._pace)
                    raise errors.busy(min(max(1, wait), _MOST_RETRY))
            self._waiting[job.kind].append(job)
            self._changed.notify()
        if job.kind == "text":
            self._runner.notice()

    @property
    def depth(self) -> int:
        """How many jobs of clients wait."""
        return len(self._waiting["text"]) + len(self._waiting["media"])

    @property
    def running(self) -> int:
        """How many jobs are at work."""
        return len(self._at_work)

    @property
    def ending(self) -> bool:
        """Whether nothing more is taken."""
        return self._ending

    @property
    def alive(self) -> bool:
        """Whether its thread works, or could."""
        return self._thread.is_alive()

    def position(self, job: Job) -> int:
        """A waiting job's place in its line, from 1; 0 = it does not wait."""
        with self._changed:
            line = self._waiting[job.kind]
            return line.index(job) + 1 if job in line else 0

    def refuse(self) -> None:
        """Take nothing more; what waits is still carried out."""
        with self._changed:
            self._ending = True
            self._changed.notify()

    def close(self, seconds: float = 5.0) -> None:
        """Give up whatever is left and end the thread, waiting so long for its last step."""
        self.refuse()
        with self._changed:
            for job in [*self._at_work, *(job for line in self._waiting.values() for job in line)]:
                job.cancel()
            self._changed.notify()
        if self._thread.is_alive() and threading.current_thread() is not self._thread:
            self._thread.join(seconds)

    def _work(self) -> None:
        while batch := self._next():
            self._carry(batch)

    def _next(self) -> list[Job]:
        """The jobs of the next call; waits for one. Empty = the end."""
        with self._changed:
            while True:
                self._purge()
                lines = [kind for kind in KINDS if self._waiting[kind]]
                if lines and (lines[0] == "text" or not self._gather()):
                    break
                if not lines and self._ending:
                    return []
                if not lines:
                    self._changed.wait()
            kind = next((k for k in reversed(lines) if self._passed[k] >= PATIENCE), lines[0])
            both = self._nests and kind != "background"
            for other in lines:
                first = other == kind or (both and other != "background")
                self._passed[other] = 0 if first else self._passed[other] + 1
            most = self._together[kind]
            if not both:
                return self._take(kind, most)
            media = min(len(self._waiting["media"]), most // 2)  # no more than half, if text waits
            text = self._take("text", most - media)
            return text + self._take("media", most - len(text))

    def _gather(self) -> bool:
        """Wait a moment for clients that were just answered and ask again: together is cheaper.

        Text need not wait: it joins.

        Returns:
            Whether to look again.
        """
        left = self._until - time.monotonic()
        if self._ending or left <= 0 or self.depth >= self._expected:
            return False
        self._changed.wait(left)
        return True

    def _take(self, kind: Kind, most: int) -> list[Job]:
        line = self._waiting[kind]
        taken = [line.popleft() for _ in range(min(most, len(line)))]
        self._at_work.update(taken)
        return taken

    def _purge(self) -> None:
        """Answer the waiting jobs that nobody waits for."""
        for line in self._waiting.values():
            for job in [job for job in line if job.gone]:
                line.remove(job)
                job.finish(Cancelled("cancelled"))

    def _carry(self, batch: list[Job]) -> None:
        """One call of the engine."""
        began = time.monotonic()
        clients = len(batch) + self.depth
        for job in batch:
            self._metrics.observe("anyany_wait_seconds", began - job.made, kind=job.kind)
            if job.kind != "text" and self._nests:
                job.between = self._between
        self._mark = began
        joins = all(job.kind == "text" for job in batch) and not self._nested
        more = functools.partial(self._join, batch) if joins else None
        try:
            for number, answer in self._runner.run([job.request for job in batch], more):
                self._finish(batch[number], answer)
        except Exception as error:
            logger.error("the engine failed", exc_info=error)
        for job in batch:
            if job.finished is None:
                self._finish(job, InternalError("the engine gave no answer"))
        spent = time.monotonic() - began
        self._pace += 0.2 * (spent / len(batch) - self._pace)
        self._expected = min(max(clients, self.depth), self._together["text"])
        if self._expected > 1:
            self._until = began + spent + min(GATHER_SHARE * spent, GATHER_MOST)
        self._metrics.observe("anyany_call_jobs", len(batch), kind=batch[-1].kind)

    def _join(self, batch: list[Job]) -> list[Request]:
        """Text that came while a call of text is at work; none while others wait for their turn."""
        with self._changed:
            others = any(self._waiting[kind] for kind in KINDS if kind != "text")
            if others or len(batch) >= MOST_JOINED:
                return []
            self._purge()
            joined = self._take("text", FEW)
        for job in joined:
            self._metrics.observe("anyany_wait_seconds", time.monotonic() - job.made, kind=job.kind)
        batch += joined
        return [job.request for job in joined]

    def _finish(self, job: Job, answer: Reply | AnyAnyError) -> None:
        job.between = None
        with self._changed:
            self._at_work.discard(job)
        self._metrics.answered(answer)
        job.finish(answer)

    def _between(self) -> None:
        """Between two steps of decoding: answer text that waits, at most half of the time."""
        now = time.monotonic()
        self._ahead = max(0.0, self._ahead - (now - self._mark))
        self._mark = now
        if self._nested or self._ahead > 0:
            return
        with self._changed:
            self._purge()
            line = self._waiting["text"]
            if not line or time.monotonic() - line[0].made < _TEXT_WAITS:
                return
            batch = self._take("text", self._together["text"])
        self._nested = True
        try:
            self._carry(batch)
        finally:
            self._nested = False
            self._mark = time.monotonic()
            self._ahead = self._mark - now
