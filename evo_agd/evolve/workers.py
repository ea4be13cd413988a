"""Ray actors that score genomes on the supernet, and the pool that keeps them busy.

What crosses processes is tuples of integers and floats; supernet and validation pictures go to the
object store once, where all workers of a node read the same copy.

A worker that dies costs what it held, which others then do. A batch that a worker died over, or
that failed, is done again genome by genome, so that one bad candidate is told from its
neighbours; a genome that fails :data:`RETRIES` times alone is given up, with the reason.
"""

from __future__ import annotations

import logging
import os
import platform
import warnings
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from types import MappingProxyType
from typing import Any

import numpy as np
import ray
import torch
from numpy.typing import NDArray
from ray.exceptions import OutOfMemoryError, RayActorError
from torch import Tensor, nn

from evo_agd.errors import InputError
from evo_agd.evolve.scoring import Scored, Scorer, keep_memory
from evo_agd.space.genes import Genome
from evo_agd.train.losses import DistillationLoss
from evo_agd.train.pairs import Pair

log = logging.getLogger(__name__)

AHEAD = 2  # batches given to a worker: one to work on, one that waits behind it
RETRIES = 3  # of one genome
SHARE = 2  # a worker is first given half of its part of what there is, then of the rest, ...
LEAST = 2  # at a time: a call of Ray takes a millisecond of the driver's, which shares the cores
DEATHS = 20  # of workers in a row without one result between them
STARTS = 3  # of a worker that never answers, until its place is given up
PATIENCE = 60.0  # seconds without any answer before the log says so

Build = Callable[[], tuple[nn.Module, Callable[[Genome], Any]]]
Race = Callable[[Sequence[Scored]], Sequence[int]]
Extras = Mapping[str, Callable[[nn.Module], float]]


@dataclass(frozen=True)
class Resources:
    """What a worker takes and how it computes.

    Args:
        gpus: of a GPU, 0.25 puts four workers on one; 0 for the CPU, on one core.
        prefix_mb: megabytes of activations that it may keep.
    """

    bf16: bool
    prefix_mb: float
    gpus: float = 0.0


class _Evaluator:
    """A worker: tuples in, floats out. One torch thread."""

    def __init__(self, build: Build, stored: Sequence[Any], resources: Resources) -> None:
        torch.set_num_threads(1)
        keep_memory()
        self.problem = bool(resources.gpus) and not torch.cuda.is_available()
        if self.problem:
            return
        weights, validation, race, loss, extras = ray.get(list(stored))
        net, decode = build()
        net.load_state_dict(_tensors(weights), assign=True)
        scorer = partial(
            Scorer,
            net,
            decode,
            loss=loss,
            bf16=resources.bf16,
            prefix_mb=resources.prefix_mb,
            device="cuda" if resources.gpus else "cpu",
        )
        self.scorers = [scorer(validation, extras=extras), scorer(race)]

    def pid(self) -> int:
        """The worker's process."""
        return os.getpid()

    def node(self) -> str:
        """The node that it is on."""
        return str(ray.get_runtime_context().get_node_id())

    def evaluate(self, genomes: Sequence[Genome], quick: bool) -> tuple[list[Scored], float]:
        """What came of each, and the seconds spent inside the network.

        Raises:
            InputError: a GPU was asked for, and torch finds none where this worker is.
        """
        if self.problem:  # not told on construction, where Ray would make another error of it
            expected = "nodes with GPUs that their torch can use"
            raise InputError("compute.gpus_per_worker", expected, f"none on {platform.node()}")
        scorer = self.scorers[quick]
        before = scorer.network_seconds
        found = scorer.score(genomes)
        return found, scorer.network_seconds - before


def _arrays(weights: dict[str, Tensor]) -> dict[str, NDArray[np.float32]]:
    """Weights as the object store shares them: contiguous arrays, channels last."""
    return {
        name: np.ascontiguousarray((w.permute(0, 2, 3, 1) if w.dim() == 4 else w).numpy())
        for name, w in weights.items()
    }


def _tensors(arrays: dict[str, NDArray[np.float32]]) -> dict[str, Tensor]:
    """Views of what :func:`_arrays` stored, nothing copied; they must not be written to."""
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the object store's memory is not to be written to
        for name, array in arrays.items():
            tensor = torch.from_numpy(array)
            found[name] = tensor.permute(0, 3, 1, 2) if tensor.dim() == 4 else tensor
    return found


@dataclass
class _Batch:
    """Places of one submission, given to one worker at once."""

    submission: _Submission
    places: list[int]
    quick: bool


class _Submission:
    """Genomes handed in together.

    Args:
        order: their places, those that share a front together.
        work: roughly what each genome takes, in any unit above 0.
        workers: how many there are; each has a part of its own, so that neighbours go to one.
    """

    def __init__(
        self,
        genomes: Sequence[Genome],
        order: Sequence[int],
        work: Sequence[float],
        workers: int,
        race: Race | None,
    ) -> None:
        self.genomes = genomes
        self.order = order
        self.work = work
        self.workers = workers
        self.race = race
        self.quick = race is not None
        self.found: dict[int, Scored] = {}
        self.raced: dict[int, Scored] = {}
        self.attempts: Counter[int] = Counter()
        self.alone: deque[int] = deque()
        """To be done one by one, after a failure."""
        self.parts: list[deque[int]] = []
        self._deal(order)

    @property
    def done(self) -> bool:
        """Whether everything is there."""
        return not self.quick and len(self.found) == len(self.genomes)

    def take(self, worker: int) -> list[int]:
        """The next places for a worker; none if all are given out."""
        if self.alone:
            return [self.alone.popleft()]
        part = self.parts[worker % len(self.parts)]
        if part:
            count = max(LEAST, -(-len(part) // SHARE))
            return [part.popleft() for _ in range(min(count, len(part)))]
        longest = max(self.parts, key=len)  # help the one that has most left, from its end
        return [longest.pop()] if longest else []

    def put(self, place: int, scored: Scored) -> None:
        """Note a result; when the last quick one is there, let the others start."""
        if not self.quick:
            before = self.raced.get(place)
            if before is not None:
                seconds = scored.seconds + before.seconds
                scored = replace(scored, quick=before.figures, seconds=seconds)
            self.found[place] = scored
            return
        self.raced[place] = scored
        if len(self.raced) < len(self.genomes):
            return
        assert self.race is not None
        results = [self.raced[i] for i in range(len(self.genomes))]
        through = set(self.race(results))
        for i, result in enumerate(results):
            if i not in through:
                self.found[i] = replace(result, figures=None, quick=result.figures)
        self.quick = False
        self.attempts.clear()
        self._deal([i for i in self.order if i in through])

    def _deal(self, places: Sequence[int]) -> None:
        """Give each worker a part of as much work."""
        self.parts = [deque() for _ in range(self.workers)]
        total, before = sum(self.work[i] for i in places), 0.0
        for place in places:
            middle = before + self.work[place] / 2
            self.parts[min(int(self.workers * middle / total), self.workers - 1)].append(place)
            before += self.work[place]


class Workers:
    """A pool of workers to which genomes are submitted, and which answers in order.

    Args:
        count: of workers; None for as many as there is room for.
        build: makes the empty supernet and the function from genome to path, in the worker.
        weights, validation, race, loss, extras: go to the object store once; ``race`` are the
            pictures of quick scores, ``extras`` see :class:`~evo_agd.evolve.scoring.Scorer`.
        order: sorts genomes so that those that share a front stand together.
        work: roughly what a genome takes, in any unit above 0.

    Raises:
        InputError: GPUs are asked for, and no node has any.

    Attributes:
        network_seconds: that workers spent inside the network.
    """

    def __init__(
        self,
        count: int | None,
        build: Build,
        weights: dict[str, Tensor],
        validation: Sequence[Pair],
        *,
        loss: DistillationLoss,
        resources: Resources,
        order: Callable[[Genome], Any],
        work: Callable[[Genome], float],
        race: Sequence[Pair] = (),
        extras: Extras = MappingProxyType({}),
    ) -> None:
        self.order = order
        self.work = work
        self.kind: Any = ray.remote(num_cpus=1, num_gpus=resources.gpus)(_Evaluator)
        shared = (_arrays(weights), list(validation), list(race), loss, dict(extras))
        stored = [ray.put(v) for v in shared]
        self.arguments = (build, stored, resources)
        self.actors: list[Any] = []
        self.starting: dict[Any, int] = {}
        self.nodes: dict[int, str] = {}
        self.starts: Counter[int] = Counter()
        """Of each place, since its worker last answered."""
        self.running: dict[Any, tuple[_Batch, int]] = {}
        self.waiting: deque[_Submission] = deque()
        self.deaths = 0
        self.network_seconds = 0.0
        for number in range(_places(count, resources.gpus)):
            self.actors.append(None)
            self._start(number)

    def _start(self, number: int) -> None:
        """Put a new actor in a place; it is given work when it answers, wherever that may be."""
        actor = self.actors[number] = self.kind.remote(*self.arguments)
        self.starts[number] += 1
        self.starting[actor.node.remote()] = number

    def submit(self, genomes: Sequence[Genome], *, race: Race | None = None) -> None:
        """Hand genomes in; :meth:`collect` gives their results in the order of submissions.

        Args:
            race: with it all are scored on the race's pictures first, and then, on all pictures,
                only the places that it returns for these scores.
        """
        order = sorted(range(len(genomes)), key=lambda i: self.order(genomes[i]))
        work = [self.work(genome) for genome in genomes]
        self.waiting.append(_Submission(genomes, order, work, len(self.actors), race))
        self._feed()

    def collect(self, tick: Callable[[int], None] = lambda done: None) -> list[Scored]:
        """What came of the oldest submission's genomes, in their order.

        Args:
            tick: called with the number of its results that are there.

        Raises:
            RuntimeError: workers die as fast as they are started.
        """
        oldest = self.waiting[0]
        tick(len(oldest.found))
        while not oldest.done:
            self._feed()
            open_references = [*self.starting, *self.running]
            done, _ = ray.wait(open_references, num_returns=1, timeout=PATIENCE)
            if not done:
                log.warning("no answer from %d workers for a while", len(self.actors))
            for reference in done:
                self._receive(reference)
            tick(len(oldest.found))
        self.waiting.popleft()
        return [oldest.found[place] for place in range(len(oldest.genomes))]

    def _feed(self) -> None:
        """Give every worker that is there something to do and something that waits."""
        held = Counter(number for _, number in self.running.values())
        absent = set(self.starting.values())
        for number, actor in enumerate(self.actors):
            if actor is None or number in absent:
                continue
            for _ in range(AHEAD - held[number]):
                batch = self._next(number)
                if batch is None:
                    break
                genomes = [batch.submission.genomes[place] for place in batch.places]
                reference = actor.evaluate.remote(genomes, batch.quick)
                self.running[reference] = (batch, number)

    def _next(self, worker: int) -> _Batch | None:
        for submission in self.waiting:
            if places := submission.take(worker):
                return _Batch(submission, places, submission.quick)
        return None

    def _receive(self, reference: Any) -> None:
        """Take what a worker has done, or find it dead."""
        number = self.starting.pop(reference, None)
        if number is None and reference not in self.running:
            return
        batch = None
        if number is None:
            batch, number = self.running.pop(reference)
        try:
            answer = ray.get(reference)
        except (RayActorError, OutOfMemoryError) as error:
            self._died(number, batch, error)
            return
        if batch is None:
            self.nodes[number] = answer
            self.starts[number] = 0
            if not self.starting:
                log.info("%d workers on %d nodes", len(self.nodes), len(set(self.nodes.values())))
            return
        self.deaths = 0
        found, seconds = answer
        self.network_seconds += seconds
        for place, scored in zip(batch.places, found, strict=True):
            if scored.figures is None:
                self._failed(batch.submission, place, scored)
            else:
                batch.submission.put(place, scored)

    def _failed(self, submission: _Submission, place: int, scored: Scored) -> None:
        submission.attempts[place] += 1
        if submission.attempts[place] >= RETRIES:
            log.warning("%s failed: %s", submission.genomes[place], scored.error)
            submission.put(place, scored)
        else:
            submission.alone.append(place)

    def _died(self, number: int, batch: _Batch | None, error: Exception) -> None:
        """Start another worker in its place and have others do what it held.

        Raises:
            RuntimeError: workers die as fast as they are started, or none of them starts.
        """
        self.deaths += batch is not None
        if self.deaths > DEATHS:
            raise RuntimeError(f"workers die as fast as they are started: {error}") from error
        if self.starts[number] < STARTS:
            self._start(number)
        else:  # as on a node without evo_agd; the others do without
            self.actors[number] = None
            reason = " ".join(str(error).split())
            log.warning("worker %d did not start %d times: %s", number, STARTS, reason[-600:])
            if not any(self.actors):
                raise RuntimeError(f"no worker starts: {reason[-400:]}") from error
        held = [(r, b) for r, (b, other) in self.running.items() if other == number]
        for reference, _ in held:
            del self.running[reference]
        if batch is None and not held:
            return
        # What it worked on, or may have; what waited behind that is not to blame.
        first, *behind = [*([batch] if batch else []), *(b for _, b in held)]
        done_again = len(first.places) + sum(len(b.places) for b in behind)
        log.warning("a worker died; %d evaluations are done again", done_again)
        if len(first.places) == 1:
            self._failed(first.submission, first.places[0], Scored(None, 0.0, "its worker died"))
        else:
            first.submission.alone.extend(first.places)
        for other in behind:
            other.submission.alone.extend(other.places)

    def close(self) -> None:
        """Free the actors."""
        for actor in filter(None, self.actors):
            ray.kill(actor)


def _places(count: int | None, gpus: float) -> int:
    """How many workers to start: ``count``, or as many as the nodes have room for."""
    there: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    room = int(there.get("CPU", 1))
    if gpus:
        room = min(room, int(there.get("GPU", 0) / gpus))
        if room < 1:
            expected = f"nodes with {gpus:g} of a GPU free"
            raise InputError("compute.gpus_per_worker", expected, "none in this Ray")
    return max(1, room if count is None else min(count, room))
