"""Training members as networks of their own, several at once, as a Ray Tune run.

Each member's weights and the state of its training lie in the run directory, written whole, so
that a run that was killed goes on where each member stood. (Tune's own experiment state may be
torn by a kill: ray#58179. Nothing here depends on it.)
"""

from __future__ import annotations

import logging
import os
import secrets
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from time import monotonic
from typing import Any

import ray
import torch
from ray import tune
from ray.exceptions import RayError
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy
from safetensors.torch import load_file
from torch import Tensor

from evo_agd.config.settings import Training
from evo_agd.errors import InputError
from evo_agd.files import write_text
from evo_agd.nets.build import Architecture, Space, Student, empty_supernet, student_of
from evo_agd.nets.students import WEIGHTS, write_weights
from evo_agd.train.distillation import student_losses
from evo_agd.train.loop import Schedule, Tick, fit
from evo_agd.train.losses import DistillationLoss
from evo_agd.train.pairs import CropSampler, Pair

log = logging.getLogger(__name__)
REPORT_SECONDS = 1.0
NODE_SECONDS = 60.0  # for a node to say whether it sees a folder


@dataclass(frozen=True)
class Member:
    """One network to train; ``seed`` tells repeated trainings of one architecture apart."""

    id: str
    architecture: Architecture
    seed: int = 0
    rate: float | None = None
    """Peak learning rate in place of the settings'."""

    @property
    def origin(self) -> str:
        """What initial weights and crops are drawn from: at every learning rate the same."""
        return self.id if self.seed == 0 else f"{self.id}+seed{self.seed}"

    @property
    def label(self) -> str:
        """Unique among the members of a run, and fit for a file name."""
        return self.origin if self.rate is None else f"{self.origin}+rate{self.rate:g}"


def fresh_student(member: Member) -> Student:
    """The member with random weights, from its id and seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(zlib.crc32(member.origin.encode()))
        return student_of(member.architecture)


def inherited_student(member: Member, space: Space, weights: dict[str, Tensor]) -> Student:
    """The member cut out of a trained supernet."""
    supernet = empty_supernet(space)
    supernet.load_state_dict(weights)
    architecture: Any = member.architecture
    return supernet.cut(architecture)


def schedule_of(settings: Training) -> Schedule:
    """The schedule that a section of the settings asks for."""
    return Schedule(
        settings.steps,
        settings.learning_rate,
        settings.ema,
        by_fan_in=settings.rate_by_fan_in,
    )


def train_member(
    member: Member,
    net: Student,
    pairs: Sequence[Pair],
    settings: Training,
    *,
    loss: DistillationLoss,
    seed: int,
    bf16: bool,
    checkpoint: Path | None = None,
    tick: Tick = lambda step, note: None,
) -> Student:
    """Train one student in place and return it."""
    if member.rate is not None:
        settings = settings.model_copy(update={"learning_rate": member.rate})
    key = zlib.crc32(f"{seed} {member.origin}".encode())
    sampler = CropSampler(pairs, settings.batch, settings.crop, key, upright=net.scale == 1)
    losses = student_losses(net, sampler, loss=loss, bf16=bf16)
    fit(net, losses, schedule_of(settings), checkpoint=checkpoint, tick=tick)
    return net


def _trial(
    config: dict[str, Member],
    *,
    folder: Path,
    pairs: list[Pair],
    settings: Training,
    loss: DistillationLoss,
    seed: int,
    bf16: bool,
    space: Space | None,
    weights: dict[str, Tensor] | None,
) -> None:
    """What a Tune worker does: one member, on the one thread that ``fit`` uses."""
    member = config["member"]
    if space is not None and weights is not None:
        net = inherited_student(member, space, weights)
    else:
        net = fresh_student(member)
    last = monotonic()

    def tick(step: int, note: str) -> None:
        nonlocal last
        if monotonic() - last > REPORT_SECONDS:
            last = monotonic()
            tune.report({"step": step})

    state = folder / f"{member.label}.state"
    train_member(
        member, net, pairs, settings, loss=loss, seed=seed, bf16=bf16, checkpoint=state, tick=tick
    )
    write_weights(folder / member.label / WEIGHTS, net)
    state.unlink(missing_ok=True)
    tune.report({"step": settings.steps})


def _no_tick(step: int, note: str) -> None:
    """What a bar becomes where nobody looks."""


class _Watch(tune.Callback):
    """Adds the trials' steps up for the progress bar."""

    def __init__(self, before: int, tick: Tick) -> None:
        self.before = before
        self.tick = tick
        self.steps: dict[str, int] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> _Watch:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        # Tune writes its callbacks to disk, and a progress bar holds a lock.
        return _Watch, (self.before, _no_tick)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self.steps[trial.trial_id] = result["step"]
        self.tick(self.before + sum(self.steps.values()), "")


def nodes_of(folder: Path) -> dict[str, float]:
    """What a training has to ask of Ray to be on a node that sees this folder.

    Nothing where all nodes do, as on one machine or with shared storage; else the driver's node.
    """
    nodes = [n for n in ray.nodes() if n["Alive"]]  # type: ignore[no-untyped-call]
    if len(nodes) < 2:
        return {}
    token = folder / "token"
    write_text(token, secrets.token_hex())
    kept = token.read_text()

    @ray.remote(num_cpus=0)
    def sees() -> bool:
        return token.is_file() and token.read_text() == kept

    asked = [
        sees.options(
            scheduling_strategy=NodeAffinitySchedulingStrategy(n["NodeID"], soft=False)
        ).remote()
        for n in nodes
    ]
    answered, _ = ray.wait(asked, num_returns=len(asked), timeout=NODE_SECONDS)
    seeing = 0
    for answer in answered:
        try:
            seeing += bool(ray.get(answer))
        except RayError:  # a node that has just gone, or that has no evo_agd
            continue
    token.unlink()
    if seeing == len(nodes):
        return {}
    log.warning("%d of %d nodes see %s: students train on this one", seeing, len(nodes), folder)
    return {f"node:{_own_address()}": 0.001}


def _own_address() -> str:
    address: str = ray.util.get_node_ip_address()  # type: ignore[no-untyped-call]
    return address


def retrain(
    members: Sequence[Member],
    folder: Path,
    pairs: Sequence[Pair],
    settings: Training,
    *,
    loss: DistillationLoss,
    seed: int,
    bf16: bool,
    space: Space | None = None,
    weights: dict[str, Tensor] | None = None,
    tick: Tick = lambda step, note: None,
) -> None:
    """Train all members that are not done yet; every core of the running Ray takes one at a time.

    Args:
        folder: keeps a ``<label>/student.safetensors`` for each, and what is needed to go on.
        space, weights: the supernet to inherit from; without, members start from scratch.

    Raises:
        RuntimeError: a training failed; what the others reached is kept.
    """
    open_members = [m for m in members if not (folder / m.label / WEIGHTS).exists()]
    if open_members:
        os.environ["TUNE_DISABLE_AUTO_CALLBACK_LOGGERS"] = "1"  # no files beside ours
        os.environ["TUNE_DISABLE_SIGINT_HANDLER"] = "1"  # Ctrl-C stops the run, not just this stage
        os.environ["RAY_AIR_NEW_OUTPUT"] = "0"  # the new one prints even when it is told not to
        trial = tune.with_resources(
            tune.with_parameters(
                _trial,
                folder=folder.resolve(),
                pairs=list(pairs),
                settings=settings,
                loss=loss,
                seed=seed,
                bf16=bf16,
                space=space,
                weights=weights,
            ),
            {"cpu": 1, **nodes_of(folder.resolve())},
        )
        before = (len(members) - len(open_members)) * settings.steps
        results = tune.Tuner(
            trial,
            param_space={"member": tune.grid_search(open_members)},
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(folder.resolve()),
                verbose=0,
                callbacks=[_Watch(before, tick)],
                failure_config=tune.FailureConfig(max_failures=2),
            ),
        ).fit()
        for error in results.errors:
            cause = getattr(error, "cause", None)
            if isinstance(cause, InputError):  # a full disk, say: worth a line of its own
                raise cause
            raise RuntimeError(f"retraining failed: {cause or error}")


def trained_student(member: Member, folder: Path) -> Student:
    """What :func:`retrain` left in ``folder`` for a member."""
    net = student_of(member.architecture)
    net.load_state_dict(load_file(folder / member.label / WEIGHTS))
    return net
