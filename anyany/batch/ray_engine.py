"""The cluster engine: the same function and the same ledger, over Ray Data.

Tasks are written to a file below the run's folder, which every node must see under the same path;
Ray hands out their numbers in blocks of a stated size, and actors write items' folders there, too.
A row never raises: what fails comes back as its outcome. Ray restarts dead actors and repeats their
blocks; small files beside the tasks remember what was tried and finished, so that nothing is done
twice and an item that kills its actors is set aside.
"""

from __future__ import annotations

import json
import logging
import os
import queue
import secrets
import threading
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

from anyany.batch.engines import BACK_OFF, TRANSIENT_TRIES, TRIES, known_error, set_aside
from anyany.batch.feed import Feed
from anyany.batch.functions import Factory
from anyany.batch.items import Task, task_from_json, task_to_json
from anyany.batch.outcomes import Outcome
from anyany.batch.silence import Silence
from anyany.batch.worker import Carrier
from anyany.errors import AnyAnyError, RefusedError, ResourceError, UsageError

BLOCK: Final = 8  # items that come back, and may be repeated, together
OBJECT_STORE_BYTES: Final = 200 * 2**20
_TASKS: Final = "tasks.jsonl"
_PLACES: Final = "tasks.places"
_TICK: Final = 0.2  # seconds


class RayEngine:
    """Actors of a Ray cluster.

    Args:
        factory: builds the function in each.
        work: where they write items' folders; seen by all nodes.
        workers: actors.
        log: takes what Ray would print.
        address: of a cluster; None = a local one for this run.
        insecure: take a cluster whose token authentication is off.
        metadata: keep records inside files.

    Raises:
        UsageError: Ray is not installed.
        RefusedError: a cluster by address, and no token.
    """

    def __init__(
        self,
        factory: Factory,
        work: Path,
        *,
        workers: int,
        log: Path,
        address: str | None = None,
        insecure: bool = False,
        metadata: bool = True,
    ) -> None:
        check_token(address, insecure, os.environ)
        try:
            import ray
            import ray.data
        except ImportError:
            raise UsageError("--engine ray needs Ray: pip install 'anyany[ray]'") from None
        self._ray: Any = ray
        self._factory = factory
        self._work = work.absolute()
        self._workers = workers
        self._address = address
        self._metadata = metadata
        self._gpus = 0
        self._silence = Silence(log)
        self._blocks: queue.Queue[list[Outcome] | BaseException | None] = queue.Queue(64)
        self._started = False

    def start(self, stopped: Callable[[], bool]) -> dict[str, Any]:
        """Connect, and load once on the cluster to learn what the function says of itself.

        Raises:
            AnyAnyError: the function cannot be built.
            ResourceError: the cluster cannot be reached.
        """
        ray = self._ray
        self._silence.begin()
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_worker_niceness", "0")  # as the local engine's, not behind all
        for name in ("ray", "ray.data"):
            logging.getLogger(name).setLevel(logging.ERROR)
        try:
            if self._address is None:
                ray.init(
                    num_cpus=self._workers + 1,  # one for Ray Data's own tasks
                    include_dashboard=False,
                    object_store_memory=OBJECT_STORE_BYTES,
                    log_to_driver=False,
                    logging_level="ERROR",
                    _node_ip_address="127.0.0.1",
                )
            else:
                ray.init(address=self._address, log_to_driver=False, logging_level="ERROR")
        except Exception:  # whatever Ray throws; its text names hosts and paths
            raise ResourceError(
                "the Ray cluster cannot be reached: check --ray-address and its token"
                if self._address
                else "the local Ray cluster cannot be started"
            ) from None
        self._started = True
        wants_gpu = getattr(self._factory, "device", "cpu") in ("auto", "cuda")
        self._gpus = int(wants_gpu and ray.cluster_resources().get("GPU", 0) > 0)
        asked = ray.remote(num_cpus=1, num_gpus=self._gpus)(_describe).remote(self._factory)
        while not stopped():
            ready, _ = ray.wait([asked], timeout=_TICK)
            if ready:
                kind, answer = self._got(asked)
                if kind:
                    raise known_error(kind, answer)
                return dict(answer)
        return {}

    def run(self, feed: Feed, stopped: Callable[[], bool]) -> Iterator[list[Outcome]]:
        """See engines.Engine.

        Raises:
            AnyAnyError: the source's, or an actor's that stops everything (a full disk).
        """
        count = yield from self._spool(feed, stopped)
        if count == 0 or stopped():
            return
        threading.Thread(target=self._pull, args=(count,), daemon=True).start()
        while not stopped():
            try:
                block = self._blocks.get(timeout=_TICK)
            except queue.Empty:
                yield []
                continue
            if block is None:
                return
            if isinstance(block, AnyAnyError):
                raise block
            if isinstance(block, BaseException):
                raise ResourceError(
                    f"the Ray job ended early ({type(block).__name__}): run the same again"
                )
            yield block

    def drain(self, seconds: float) -> list[Outcome]:
        """See engines.Engine."""
        deadline = time.monotonic() + seconds
        found: list[Outcome] = []
        while (left := deadline - time.monotonic()) > 0 and self._started:
            try:
                block = self._blocks.get(timeout=left)
            except queue.Empty:
                break
            if not isinstance(block, list):
                break
            found += block
        return found

    def close(self) -> None:
        """See engines.Engine."""
        if self._started:
            self._started = False
            self._ray.shutdown()
        self._silence.end()

    def memory(self) -> int:
        """See engines.Engine; actors may be anywhere and are not counted."""
        return 0

    def _spool(self, feed: Feed, stopped: Callable[[], bool]) -> Any:
        """Write all tasks to a file and where each begins to another; returns how many."""
        count = place = 0
        with open(self._work / _TASKS, "wb") as tasks, open(self._work / _PLACES, "wb") as places:
            while not stopped():
                task = feed.take()
                if task is None:
                    if feed.exhausted:
                        break
                    time.sleep(0.002)
                    yield []
                    continue
                line = task_to_json(task).encode() + b"\n"
                tasks.write(line)
                places.write(place.to_bytes(8, "little"))
                place += len(line)
                count += 1
        yield []
        return count

    def _pull(self, count: int) -> None:
        """Run the dataset; blocks of outcomes, then None or what went wrong, go to the queue."""
        warnings.simplefilter("ignore")  # Ray's advice to those who write its pipelines
        try:
            for batch in self._dataset(count).iter_batches(batch_size=None, prefetch_batches=2):
                outcomes = [outcome_from_json(str(text)) for text in batch["outcome"]]
                fatal = next((o for o in outcomes if isinstance(o, AnyAnyError)), None)
                if fatal is not None:
                    self._blocks.put(fatal)
                    return
                self._blocks.put([o for o in outcomes if isinstance(o, Outcome)])
            self._blocks.put(None)
        except BaseException as error:
            self._blocks.put(error)

    def _dataset(self, count: int) -> Any:
        data = self._ray.data
        context = data.DataContext.get_current()
        context.enable_progress_bars = False
        context.print_on_execution_start = False
        context.max_errored_blocks = 0  # it would drop a block's good rows without a word
        blocks = -(-count // BLOCK)
        return data.range(count, override_num_blocks=blocks).map_batches(
            RayWorker,
            fn_constructor_args=(self._factory, str(self._work), self._metadata),
            batch_size=BLOCK,
            compute=data.ActorPoolStrategy(size=min(self._workers, blocks)),
            num_cpus=1,
            num_gpus=self._gpus,
        )

    def _got(self, reference: Any) -> tuple[str, Any]:
        try:
            answer: tuple[str, Any] = self._ray.get(reference)
            return answer
        except Exception:
            return "ResourceError", "a Ray worker died while loading: is there memory enough?"


class RayWorker:
    """An actor's function over blocks of task numbers.

    Args:
        factory: builds the function.
        work: see RayEngine.
        metadata: keep records inside files.
    """

    def __init__(self, factory: Factory, work: str, metadata: bool) -> None:
        self._work = Path(work)
        self._marks = self._work / "marks"
        self._marks.mkdir(exist_ok=True)
        name = f"ray-{secrets.token_hex(4)}"
        self._carrier = Carrier(factory(), self._work, name, metadata=metadata)

    def __call__(self, batch: Mapping[str, Any]) -> dict[str, list[str]]:
        """Outcomes as JSON, one a row; a row never raises."""
        numbers = [int(number) for number in batch["id"]]
        try:
            found = self._finished(numbers)
            rest = [number for number in numbers if number not in found]
            fresh = [number for number in rest if not self._tries(number)]
            found |= self._carry(fresh)
            for number in rest:
                if number not in found:
                    found |= self._again(number)
        except AnyAnyError as error:
            told = json.dumps({"fatal": [type(error).__name__, str(error)]})
            return {"outcome": [told] * len(numbers)}
        return {"outcome": [found[number] for number in numbers]}

    def _carry(self, numbers: Sequence[int]) -> dict[int, str]:
        """Do tasks together, after a mark that they were tried; keep what came of them."""
        for number in numbers:
            with open(self._marks / f"{number}.tries", "ab") as file:
                file.write(b"x")
        outcomes = self._carrier.carry([self._task(number) for number in numbers])
        found = {}
        for number, outcome in zip(numbers, outcomes, strict=True):
            outcome = self._patiently(outcome)
            outcome.attempts = max(outcome.attempts, self._tries(number))
            found[number] = outcome_to_json(outcome)
            mark = self._marks / f"{number}.done"
            mark.with_suffix(".tmp").write_text(found[number], encoding="utf-8")
            os.replace(mark.with_suffix(".tmp"), mark)
        return found

    def _again(self, number: int) -> dict[int, str]:
        """A task that an actor died of, or beside: alone, and not too often."""
        tries = self._tries(number)
        if tries > TRIES:  # one among others, the rest its own
            return {number: outcome_to_json(set_aside(self._task(number), tries))}
        return self._carry([number])

    def _patiently(self, outcome: Outcome) -> Outcome:
        for attempt in range(1, TRANSIENT_TRIES):
            if not outcome.transient:
                break
            time.sleep(BACK_OFF * 2 ** (attempt - 1))
            (outcome,) = self._carrier.carry([outcome.task])
            outcome.attempts = attempt + 1
        return outcome

    def _finished(self, numbers: Sequence[int]) -> dict[int, str]:
        """What an earlier life of this actor, or another one, finished before it died."""
        marks = {number: self._marks / f"{number}.done" for number in numbers}
        return {n: mark.read_text(encoding="utf-8") for n, mark in marks.items() if mark.exists()}

    def _tries(self, number: int) -> int:
        try:
            return (self._marks / f"{number}.tries").stat().st_size
        except OSError:
            return 0

    def _task(self, number: int) -> Task:
        with open(self._work / _PLACES, "rb") as places:
            places.seek(8 * number)
            place = int.from_bytes(places.read(8), "little")
        with open(self._work / _TASKS, "rb") as tasks:
            tasks.seek(place)
            return task_from_json(tasks.readline().decode())


def check_token(address: str | None, insecure: bool, environment: Mapping[str, str]) -> None:
    """Refuse a cluster that lets anybody in: whoever reaches it runs code on it.

    Raises:
        RefusedError: an address is given, token authentication is off, and not `insecure`.
    """
    if address is None or insecure or environment.get("RAY_AUTH_MODE", "").lower() == "token":
        return
    raise RefusedError(
        "--ray-address: expected a cluster with token authentication: set RAY_AUTH_MODE=token and "
        "its token (RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH), or accept the risk by --insecure"
    )


def outcome_to_json(outcome: Outcome) -> str:
    """An outcome as one line; `outcome_from_json` reads it back."""
    record = {name: value for name, value in vars(outcome).items() if name != "task"}
    return json.dumps({**record, "task": asdict(outcome.task)}, separators=(",", ":"))


def outcome_from_json(text: str) -> Outcome | AnyAnyError:
    """What `outcome_to_json` wrote, or the error of an actor that stops everything."""
    record = json.loads(text)
    if "fatal" in record:
        return known_error(*record["fatal"])
    return Outcome(task_from_json(json.dumps(record.pop("task"))), **record)


def _describe(factory: Factory) -> tuple[str, Any]:
    try:
        return "", factory().describe()
    except AnyAnyError as error:
        return type(error).__name__, str(error)


__all__ = ["RayEngine", "RayWorker", "check_token"]
