"""The main job: every stage in order, each skipped where its result is already there."""

from __future__ import annotations

import logging
import os
import shutil

import numpy as np
from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor

from evo_agd.config import Settings, TranslationSettings
from evo_agd.deploy.latency_table import read_tables
from evo_agd.deploy.measures import (
    Measures,
    SuperResolutionMeasures,
    TranslationMeasures,
    judging_backbones,
)
from evo_agd.deploy.students import calibration_inputs, finish_student
from evo_agd.deploy.teacher import teacher_figures
from evo_agd.errors import InputError
from evo_agd.evolve.candidates import cost_values
from evo_agd.evolve.cluster import address_of, check_address, cluster
from evo_agd.evolve.search import Search, check_constraints
from evo_agd.evolve.state import SearchState, Store
from evo_agd.evolve.workers import Workers
from evo_agd.files import write_json
from evo_agd.nets.build import space_of, supernet_of
from evo_agd.nets.students import write_weights
from evo_agd.progress import bar
from evo_agd.report.page import write_page
from evo_agd.report.sheet import write_sheet
from evo_agd.run.directory import RunDirectory
from evo_agd.run.inputs import Inputs
from evo_agd.run.searching import first_genomes, pool_of
from evo_agd.run.students import (
    before_and_after,
    finished,
    front_entry,
    named_genomes,
    outstanding,
    race_of,
    settle,
)
from evo_agd.space.genes import Genome
from evo_agd.train.distillation import loss_of, supernet_losses
from evo_agd.train.images import read_photo
from evo_agd.train.loop import bf16_pays, cores, fit
from evo_agd.train.pairs import CropSampler, Pair
from evo_agd.train.retraining import Member, retrain, schedule_of, trained_student

log = logging.getLogger(__name__)


def resolved(settings: Settings) -> Settings:
    """The settings with everything that depends on this machine, and changes figures, decided."""
    if settings.compute.precision != "auto":
        return settings
    compute = {"precision": "bf16" if bf16_pays() else "fp32"}
    return settings.model_copy(update={"compute": settings.compute.model_copy(update=compute)})


class Pipeline:
    """One run, from photographs to a report.

    The inputs are looked at on construction, before a run directory is needed, so that bad input
    leaves nothing behind.

    Args:
        settings: resolved, see :func:`resolved`.
        address: of a Ray cluster; None starts one on this machine.

    Raises:
        InputError: teacher, photographs, constraints, weights or address are unusable.
    """

    def __init__(self, settings: Settings, console: Console, address: str | None = None) -> None:
        self.settings = settings
        self.console = console
        self.address = address = address_of(address)
        self.space = space_of(settings)
        read_tables(settings, self.space)
        self.start = [*first_genomes(settings, self.space), *named_genomes(settings, self.space)]
        self.bf16 = settings.compute.precision == "bf16"
        check_constraints(self.space, settings.constraints)
        if address is not None:
            check_address(address)
        self.loss = loss_of(settings)
        for stage in ("supernet", "students"):
            crop, least = getattr(settings, stage).crop, self.loss.smallest
            if crop * settings.scale < least:
                expected = f"output crops of at least {least} pixels, which its losses need"
                raise InputError(f"{stage}.crop", expected, crop * settings.scale)
        self.judges = judging_backbones(settings)
        self.inputs = Inputs(settings)

    @property
    def workers(self) -> int:
        """Parallel workers: what the settings say, or one a core."""
        count = self.settings.compute.workers
        return cores() if count == "auto" else count

    def run(self, run: RunDirectory) -> None:
        """Run every stage that is not done yet.

        On a cluster the run's path has to be absolute.
        """
        if self.address is not None:
            os.chdir(run.path)  # Ray may remove the folder that a job began in under its feet
        train, validation = self.teach(run)
        self._train_supernet(run, train)
        weights = load_file(run.supernet)
        if not run.front.exists() or outstanding(run, self.settings):
            with cluster(self.address, self.workers):
                self._search(run, weights, train, validation)
                self._retrain(run, weights, train, validation)
        self._deploy(run, train, validation)
        shutil.rmtree(run.retraining, ignore_errors=True)
        with bar(self.console, "6/6 report", 2) as tick:
            if not run.sheet.exists():
                write_sheet(run, self.settings, validation)
            tick(1, "sheet.png")
            write_page(run, self.settings, validation)
            tick(2, "")

    def teach(self, run: RunDirectory) -> tuple[list[Pair], list[Pair]]:
        """Training and validation pictures with the teacher's answers, kept in the run."""
        return self.inputs.pairs(run, self.console)

    def fits(self, genome: Genome, limit: float) -> bool:
        """Whether a genome keeps the constraints on cost, upper bounds tightened by a factor."""
        values = cost_values(self.space.cost(genome))
        for name, bound in self.settings.constraints.items():
            value = values.get(name)
            if value is not None and bound.max is not None and value > bound.max * limit:
                return False
            if value is not None and bound.min is not None and value < bound.min:
                return False
        return True

    def _train_supernet(self, run: RunDirectory, train: list[Pair]) -> None:
        if run.supernet.exists():
            return
        settings = self.settings.supernet
        net, decode = supernet_of(self.settings), self.space.decode
        upright = self.settings.scale == 1
        sampler = CropSampler(
            train, settings.batch, settings.crop, self.settings.seed, upright=upright
        )
        losses = supernet_losses(
            lambda low, genome: net(low, decode(genome)),
            self.space,
            sampler,
            warm_up=settings.warm_up,
            paths=settings.paths,
            anchored=settings.anchored,
            loss=self.loss,
            bf16=self.bf16,
            fits=self.fits if settings.constrained else None,
        )
        with bar(self.console, "2/6 supernet", settings.steps) as tick:
            fit(
                net,
                losses,
                schedule_of(settings),
                workers=self.workers,
                checkpoint=run.supernet_state,
                tick=tick,
            )
        write_weights(run.supernet, net)
        run.supernet_state.unlink(missing_ok=True)

    def pool(
        self,
        weights: dict[str, Tensor],
        train: list[Pair],
        validation: list[Pair],
        *,
        count: int | None = None,
    ) -> Workers:
        """The workers that score candidates, in the Ray that is running.

        Args:
            count: of workers; without, what the settings say.
        """
        everywhere = self.address is not None and self.settings.compute.workers == "auto"
        return pool_of(
            self.settings,
            self.space,
            weights,
            train,
            validation,
            loss=self.loss,
            count=count or (None if everywhere else self.workers),
        )

    def _search(
        self,
        run: RunDirectory,
        weights: dict[str, Tensor],
        train: list[Pair],
        validation: list[Pair],
    ) -> None:
        if run.front.exists():
            return
        settings = self.settings

        state = SearchState.read(run.history, run.search_state)
        store = Store(run.history, run.search_state)
        pool = self.pool(weights, train, validation)
        with bar(self.console, "3/6 search", settings.search.evaluations) as tick:
            search = Search(
                self.space,
                settings.search,
                settings.objectives,
                settings.constraints,
                seed=settings.seed,
                pool=pool,
                start=self.start,
                keep=store,
                tick=tick,
            )
            state = search.run(state)
            store.write(state)
            found = search.front(state)
        pool.close()
        write_json(run.front, [front_entry(c) for c in found])

    def _retrain(
        self,
        run: RunDirectory,
        weights: dict[str, Tensor],
        train: list[Pair],
        validation: list[Pair],
    ) -> None:
        settings = self.settings
        chosen = outstanding(run, settings)
        if not chosen:
            return
        race = race_of(run, settings, chosen, validation)
        members = [Member(m["id"], self.space.parse(m["id"])) for m in chosen]
        with bar(self.console, "4/6 students", settings.students.steps * len(members)) as tick:
            retrain(
                members,
                run.retraining,
                train,
                settings.students,
                loss=self.loss,
                seed=settings.seed,
                bf16=self.bf16,
                space=self.space if settings.students.inherit else None,
                weights=weights if settings.students.inherit else None,
                race=race,
                gpus=settings.compute.gpus_per_student,
                tick=tick,
            )
        settle(run, chosen, race)

    def _deploy(self, run: RunDirectory, train: list[Pair], validation: list[Pair]) -> None:
        settings = self.settings
        chosen = finished(run, settings)
        waiting = [entry for entry in chosen if not run.student(entry["id"]).exists()]
        with bar(self.console, "5/6 INT8", len(chosen)) as tick:
            tick(len(chosen) - len(waiting), "")
            if not waiting:
                return
            calibration = calibration_inputs(
                train, settings.int8.calibration, settings.students.crop * 2, settings.seed
            )
            measures = self._measures(validation)
            references = measures.references() | teacher_figures(
                self.inputs.teacher,
                settings.teacher,
                settings.input_size,
                size=settings.int8.latency_size,
                threads=cores(),
            )
            for index, entry in enumerate(waiting):
                member = Member(entry["id"], self.space.parse(entry["id"]))
                cost = cost_values(self.space.cost(tuple(entry["genome"])))
                finish_student(
                    run.student(entry["id"]),
                    entry["id"],
                    trained_student(member, run.retraining),
                    calibration=calibration,
                    inputs=[np.asarray(p.low) for p in validation],
                    measures=measures,
                    settings=settings.int8,
                    threads=cores(),
                    known={**cost, **before_and_after(entry), **references},
                )
                tick(len(chosen) - len(waiting) + index + 1, entry["id"])

    def _measures(self, validation: list[Pair]) -> Measures:
        if not isinstance(self.settings, TranslationSettings):
            return SuperResolutionMeasures(validation)
        backbone, inception = self.judges
        return TranslationMeasures(
            validation,
            [read_photo(source.photo) for source in self.inputs.target],
            backbone=backbone,
            inception=inception,
            target_class=self.settings.judge.target_class,
        )
