"""Members trained as networks of their own, as benchmarks do it, and what they reach."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from rich.console import Console
from torch import Tensor

from evo_agd.benchmarks.quality import BICUBIC, Enlarge, ImageSet, Score, load_methods, measure
from evo_agd.config.settings import StudentTraining
from evo_agd.nets.build import Space
from evo_agd.nets.students import write_student
from evo_agd.progress import bar
from evo_agd.run.directory import RunDirectory
from evo_agd.run.pipeline import Pipeline
from evo_agd.train.distillation import score
from evo_agd.train.images import upscale
from evo_agd.train.loop import cores, threads
from evo_agd.train.losses import DistillationLoss
from evo_agd.train.pairs import Pair
from evo_agd.train.retraining import Member, retrain, trained_student

NETWORKS = "networks"  # beside the trainings: students as anything that takes a model opens them


def budget_of(students: StudentTraining, steps: int | None, batch: int | None) -> StudentTraining:
    """The students' training with another number of steps or crops, where one is given."""
    given = {"steps": steps, "batch": batch}
    return students.model_copy(update={k: v for k, v in given.items() if v is not None})


def folder_of(parent: Path, budget: StudentTraining) -> Path:
    """Where trainings of a budget lie, so that a call with another repeats none of them."""
    return parent / f"steps{budget.steps}-batch{budget.batch}"


@dataclass(frozen=True)
class Course:
    """What all members of a comparison are trained on and towards, and judged by."""

    train: list[Pair]
    validation: list[Pair]
    loss: DistillationLoss
    seed: int
    bf16: bool
    console: Console

    @classmethod
    def of(cls, pipeline: Pipeline, run: RunDirectory) -> Course:
        """That of a run."""
        train, validation = pipeline.teach(run)
        seed = pipeline.settings.seed
        return cls(train, validation, pipeline.loss, seed, pipeline.bf16, pipeline.console)

    def run(
        self,
        title: str,
        members: Sequence[Member],
        folder: Path,
        budget: StudentTraining,
        space: Space | None = None,
        weights: dict[str, Tensor] | None = None,
    ) -> None:
        """Train those that ``folder`` does not have yet; see :func:`retrain`."""
        with bar(self.console, title, budget.steps * len(members)) as tick:
            retrain(
                members,
                folder,
                self.train,
                budget,
                loss=self.loss,
                seed=self.seed,
                bf16=self.bf16,
                space=space,
                weights=weights,
                tick=tick,
            )

    def psnr(self, member: Member, folder: Path) -> float:
        """On the validation pictures, in dB."""
        net = trained_student(member, folder)
        return score(net, self.validation, loss=self.loss, bf16=self.bf16).psnr

    def on_sets(
        self, sets: Sequence[ImageSet], members: Sequence[Member], folder: Path
    ) -> dict[str, dict[str, Score]]:
        """What ``benchmark quality`` finds of trained members: by label, by test set.

        Bicubic enlargement is among them as :data:`BICUBIC`.
        """
        if not sets:
            return {}
        for member in members:
            net = trained_student(member, folder).folded()
            write_student(folder / NETWORKS / member.label, member.id, net)
        scale = members[0].architecture.scale
        found = load_methods([str(folder / NETWORKS / m.label) for m in members], scale)
        enlarging: dict[str, Enlarge] = {BICUBIC: partial(upscale, scale=scale)}
        for member, method in zip(members, found, strict=True):
            enlarging[member.label] = partial(method.enlarge, scale=scale)
        with threads(cores()):
            scores = {s.name: measure(s, enlarging, scale, self.console) for s in sets}
        return {name: {s: scores[s][name] for s in scores} for name in enlarging}
