"""Training members as networks of their own, several at once, as a Ray Tune run.

Each member's weights and the state of its training lie in the run directory, written whole, so
that a run that was killed goes on where each member stood. (Tune's own experiment state may be
torn by a kill: ray#58179. Nothing here depends on it.)
"""

from __future__ import annotations

import os
import platform
import zlib
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from ray import tune
from safetensors.torch import load_file
from torch import Tensor

from evo_agd.config.settings import Training, TranslationTraining
from evo_agd.errors import InputError
from evo_agd.nets.build import Architecture, Space, Student, empty_supernet, student_of
from evo_agd.nets.students import WEIGHTS, write_weights
from evo_agd.nets.translation import TranslationStudent
from evo_agd.space.translation import TranslationArchitecture
from evo_agd.train.distillation import score, student_losses
from evo_agd.train.freezing import frozen_student
from evo_agd.train.loop import Schedule, Tick, fit
from evo_agd.train.losses import DistillationLoss
from evo_agd.train.pairs import CropSampler, Pair
from evo_agd.train.placement import resources_of
from evo_agd.train.rungs import Dominated, Notes, Race

REPORT_SECONDS = 1.0
FROZEN_KEY = "stem_full.bias"  # a weight that is there where norms are not


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
    """The schedule that a section of the settings asks for, but for steps without norms."""
    frozen = settings.frozen_steps if isinstance(settings, TranslationTraining) else 0
    return Schedule(
        settings.steps - frozen,
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
    device: str = "cpu",
    checkpoint: Path | None = None,
    tick: Tick = lambda step, note: None,
    looks: Collection[int] = (),
    look: Callable[[int], None] = lambda step: None,
) -> Student:
    """Train one student in place and return it; it and the loss are on ``device`` from then on."""
    if member.rate is not None:
        settings = settings.model_copy(update={"learning_rate": member.rate})
    net, loss = net.to(device), loss.to(device)
    key = zlib.crc32(f"{seed} {member.origin}".encode())
    sampler = CropSampler(pairs, settings.batch, settings.crop, key, upright=net.scale == 1)
    losses = student_losses(net, sampler, loss=loss, bf16=bf16, device=device)
    fit(
        net,
        losses,
        schedule_of(settings),
        checkpoint=checkpoint,
        tick=tick,
        looks=looks,
        look=look,
    )
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
    race: Race | None,
    device: str,
) -> None:
    """What a Tune worker does: one member, on the one thread that ``fit`` uses, or on its GPU."""
    if device == "cuda" and not torch.cuda.is_available():
        expected = "nodes with GPUs that their torch can use"
        raise InputError("compute.gpus_per_student", expected, f"none on {platform.node()}")
    member = config["member"]
    notes = Notes(folder, member.label)
    if space is not None and weights is not None:
        net = inherited_student(member, space, weights)
    else:
        net = fresh_student(member)
    last = monotonic()

    def report(step: int) -> None:
        values = race.values(notes.scores()) if race else []
        tune.report({"step": step, "label": member.label, "values": values})

    def tick(step: int, note: str) -> None:
        nonlocal last
        if monotonic() - last > REPORT_SECONDS:
            last = monotonic()
            report(step)

    def look(step: int) -> None:
        if race:
            notes.add(step, score(net, race.pictures, loss=loss, bf16=bf16, device=device))
            report(step)  # and wait: it may be the end

    normed = _normed(folder, member)
    if normed.exists():
        net.load_state_dict(load_file(normed))
    else:
        train_member(
            member,
            net,
            pairs,
            settings,
            loss=loss,
            seed=seed,
            bf16=bf16,
            device=device,
            checkpoint=_state(folder, member),
            tick=tick,
            looks=race.rungs if race else (),
            look=look,
        )
    if isinstance(settings, TranslationTraining) and settings.freeze is not None:
        write_weights(normed, net)
        _state(folder, member).unlink(missing_ok=True)
        assert isinstance(net, TranslationStudent)
        before = settings.steps - settings.frozen_steps
        net = frozen_student(
            net.to(device),
            pairs,
            settings,
            label=member.label,
            loss=loss.to(device),
            seed=seed,
            bf16=bf16,
            device=device,
            checkpoint=_frozen(folder, member),
            tick=lambda step, note: tick(before + step, note),
        )
    look(settings.steps)
    write_weights(folder / member.label / WEIGHTS, net.to("cpu"))
    for path in (_state(folder, member), normed, _frozen(folder, member)):
        path.unlink(missing_ok=True)
    report(settings.steps)


def _state(folder: Path, member: Member) -> Path:
    """Where a member's training stands, while it goes on."""
    return folder / f"{member.label}.state"


def _normed(folder: Path, member: Member) -> Path:
    """A member that is trained but for what comes after its norms are frozen."""
    return folder / f"{member.label}.normed.safetensors"


def _frozen(folder: Path, member: Member) -> Path:
    """Where that stands, while it goes on."""
    return folder / f"{member.label}.frozen.state"


def _begin(folder: Path, member: Member, rungs: Sequence[int]) -> None:
    """Start a training over that was begun with other rungs: scores at these are missing."""
    notes = Notes(folder, member.label)
    if not notes.began_with(rungs):
        (folder / member.label / WEIGHTS).unlink(missing_ok=True)
        for path in (_state(folder, member), _normed(folder, member), _frozen(folder, member)):
            path.unlink(missing_ok=True)
        notes.begin(rungs)


def _no_tick(step: int, note: str) -> None:
    """What a bar becomes where nobody looks."""


class _Watch(tune.Callback):
    """Adds the trials' steps up for the progress bar.

    Args:
        before: steps of members that are done already.
        each: steps of one.
    """

    def __init__(self, before: int, each: int, tick: Tick) -> None:
        self.before = before
        self.each = each
        self.tick = tick
        self.steps: dict[str, int] = {}

    def __deepcopy__(self, memo: dict[int, Any]) -> _Watch:
        return self

    def __reduce__(self) -> tuple[Any, ...]:
        # Tune writes its callbacks to disk, and a progress bar holds a lock.
        return _Watch, (self.before, self.each, _no_tick)

    def on_trial_result(
        self, iteration: int, trials: list[Any], trial: Any, result: dict[str, Any], **info: Any
    ) -> None:
        self._note(trial, result["step"])

    def on_trial_complete(self, iteration: int, trials: list[Any], trial: Any, **info: Any) -> None:
        self._note(trial, self.each)

    def _note(self, trial: Any, step: int) -> None:
        self.steps[trial.trial_id] = step
        self.tick(self.before + sum(self.steps.values()), "")


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
    race: Race | None = None,
    gpus: float = 0.0,
    tick: Tick = lambda step, note: None,
) -> None:
    """Train all members that are not done yet; every core of the running Ray takes one at a time.

    Args:
        folder: keeps a ``<label>/student.safetensors`` for each, and what is needed to go on.
        space, weights: the supernet to inherit from; without, members start from scratch.
        race: scores members while they train and stops the dominated ones. Of those that are
            stopped there may be weights, if their verdict came late: :meth:`Race.outcome` tells.
        gpus: of a GPU, for each training; 0 for the CPU.

    Raises:
        InputError: GPUs are asked for, and there are none.
        RuntimeError: a training failed; what the others reached is kept.
    """
    known, dropped = {}, set[str]()
    if race is not None:
        for member in members:
            _begin(folder, member, race.rungs)
        known = {m.label: race.values(Notes(folder, m.label).scores()) for m in members}
        dropped = set(race.dropped(known))
    open_members = [
        m for m in members if m.label not in dropped and not has_weights(folder, m.label)
    ]
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
                race=race,
                device="cuda" if gpus else "cpu",
            ),
            resources_of(folder.resolve(), gpus),
        )
        before = (len(members) - len(open_members)) * settings.steps
        results = tune.Tuner(
            trial,
            param_space={"member": tune.grid_search(open_members)},
            tune_config=tune.TuneConfig(scheduler=Dominated(race, known) if race else None),
            run_config=tune.RunConfig(
                name="tune",
                storage_path=str(folder.resolve()),
                verbose=0,
                callbacks=[_Watch(before, settings.steps, tick)],
                failure_config=tune.FailureConfig(max_failures=2),
            ),
        ).fit()
        for error in results.errors:
            cause = getattr(error, "cause", None)
            if isinstance(cause, InputError):  # a full disk, say: worth a line of its own
                raise cause
            raise RuntimeError(f"retraining failed: {cause or error}")


def has_weights(folder: Path, label: str) -> bool:
    """Whether :func:`retrain` has trained a member in ``folder`` to the end."""
    return (folder / label / WEIGHTS).exists()


def trained_student(member: Member, folder: Path) -> Student:
    """What :func:`retrain` left in ``folder`` for a member."""
    weights = load_file(folder / member.label / WEIGHTS)
    architecture = member.architecture
    if isinstance(architecture, TranslationArchitecture) and FROZEN_KEY in weights:
        architecture = replace(architecture, frozen=True)
    net = student_of(architecture)
    net.load_state_dict(weights)
    return net
