"""The main job: every stage in order, each skipped where its result is already there."""

from __future__ import annotations

import hashlib
import logging
import math
import shutil
from collections.abc import Sequence
from functools import cached_property
from typing import Any

from rich.console import Console
from safetensors.torch import load_file
from torch import Tensor

from evo_agd.config import Settings
from evo_agd.deploy.students import calibration_inputs, finish_student
from evo_agd.evolve.candidates import Candidate
from evo_agd.evolve.search import Search, SearchState, check_constraints
from evo_agd.evolve.workers import Workers, check_address, cluster
from evo_agd.files import write_json, write_text
from evo_agd.nets.build import builder, space_of, supernet_of
from evo_agd.nets.students import write_weights
from evo_agd.nets.teachers import Teacher, TeacherCache, load_teacher
from evo_agd.progress import bar
from evo_agd.report.page import write_page
from evo_agd.run.directory import RunDirectory
from evo_agd.train.distillation import supernet_losses
from evo_agd.train.images import Photo
from evo_agd.train.loop import bf16_pays, cores, fit
from evo_agd.train.pairs import CropSampler, Pair, photo_paths, read_inputs, with_teacher
from evo_agd.train.retraining import Member, retrain, schedule_of, trained_student

log = logging.getLogger(__name__)

Inputs = list[tuple[str, Photo, Photo | None]]


def resolved(settings: Settings) -> Settings:
    """The settings with everything that depends on this machine, and changes figures, decided."""
    if settings.compute.precision != "auto":
        return settings
    compute = {"precision": "bf16" if bf16_pays() else "fp32"}
    return settings.model_copy(update={"compute": settings.compute.model_copy(update=compute)})


def chosen_for_retraining(members: Sequence[dict[str, Any]], count: int) -> list[dict[str, Any]]:
    """Front members spread evenly over the logarithm of cost, best and cheapest included.

    Only members with a better PSNR than every cheaper one are of use to somebody who picks by cost.
    """
    stairs: list[dict[str, Any]] = []
    for member in sorted(members, key=lambda m: (m["gmacs"], -m["psnr"])):
        if not stairs or member["psnr"] > stairs[-1]["psnr"]:
            stairs.append(member)
    if len(stairs) <= count:
        return stairs
    if count == 1:
        return stairs[-1:]
    low, high = math.log(stairs[0]["gmacs"]), math.log(stairs[-1]["gmacs"])
    chosen, between = [stairs[0], stairs[-1]], stairs[1:-1]
    for position in range(1, count - 1):
        wanted = low + (high - low) * position / (count - 1)
        nearest = min(between, key=lambda m: abs(math.log(m["gmacs"]) - wanted))
        between.remove(nearest)
        chosen.append(nearest)
    return sorted(chosen, key=lambda m: m["gmacs"])


class Pipeline:
    """One run, from photographs to a report.

    Reading the inputs happens on construction, before a run directory is needed, so that bad input
    leaves nothing behind.

    Args:
        settings: resolved, see :func:`resolved`.
        address: of a Ray cluster; None starts one on this machine.

    Raises:
        InputError: teacher, photographs, constraints or address are unusable.
    """

    def __init__(self, settings: Settings, console: Console, address: str | None = None) -> None:
        self.settings = settings
        self.console = console
        self.address = address
        self.space = space_of(settings)
        self.bf16 = settings.compute.precision == "bf16"
        check_constraints(self.space, settings.constraints)
        if address is not None:
            check_address(address)
        self.teacher: Teacher = load_teacher(settings.teacher, settings.scale)
        crop = max(settings.supernet.crop, settings.students.crop)
        data, scale = settings.data, settings.scale
        self.train_inputs: Inputs = read_inputs(
            photo_paths(data.train, validation=False), scale, crop, data.unpaired_shrink
        )
        # The crop of the metric takes `scale` pixels off each side: 3 input pixels leave something.
        self.validation_inputs: Inputs = read_inputs(
            photo_paths(data.validation, validation=True), scale, 3
        )

    @cached_property
    def inputs_digest(self) -> str:
        """Tells photographs and teacher apart from others."""
        digest = hashlib.sha256(self.teacher.digest.encode())
        for name, low, high in (*self.train_inputs, *self.validation_inputs):
            for part in (name.encode(), str(low.shape).encode(), low.tobytes()):
                digest.update(part)
            digest.update(b"" if high is None else high.tobytes())
        return digest.hexdigest()

    @property
    def workers(self) -> int:
        """Parallel workers: what the settings say, or one a core."""
        count = self.settings.compute.workers
        return cores() if count == "auto" else count

    def run(self, run: RunDirectory) -> None:
        """Run every stage that is not done yet."""
        train, validation = self.teach(run)
        self._train_supernet(run, train)
        weights = load_file(run.supernet)
        if not run.front.exists() or self._unfinished(run):
            with cluster(self.address, self.workers):
                self._search(run, weights, validation)
                self._retrain(run, weights, train)
        self._deploy(run, train, validation)
        shutil.rmtree(run.retraining, ignore_errors=True)
        with bar(self.console, "6/6 report", 1) as tick:
            write_page(run, self.settings, validation)
            tick(1, "")

    def _unfinished(self, run: RunDirectory) -> bool:
        return any(not run.student(m["id"]).exists() for m in self._chosen(run))

    def _chosen(self, run: RunDirectory) -> list[dict[str, Any]]:
        return chosen_for_retraining(run.read_front(), self.settings.students.count)

    def teach(self, run: RunDirectory) -> tuple[list[Pair], list[Pair]]:
        """Training and validation pictures with the teacher's answers, kept in the run."""
        cache = TeacherCache(run.teacher, self.teacher, self.settings.scale)
        total = len(self.train_inputs) + len(self.validation_inputs)
        with bar(self.console, "1/6 teacher's answers", total) as tick:

            def answer(before: int, index: int, low: Photo) -> Photo:
                result = cache.answer(low)
                tick(before + index + 1, "")
                return result

            train = with_teacher(self.train_inputs, lambda i, low: answer(0, i, low))
            before = len(self.train_inputs)
            validation = with_teacher(self.validation_inputs, lambda i, low: answer(before, i, low))
        return train, validation

    def _train_supernet(self, run: RunDirectory, train: list[Pair]) -> None:
        if run.supernet.exists():
            return
        settings = self.settings.supernet
        net, decode = supernet_of(self.settings), self.space.decode
        sampler = CropSampler(train, settings.batch, settings.crop, self.settings.seed)
        losses = supernet_losses(
            lambda low, genome: net(low, decode(genome)),
            self.space,
            sampler,
            warm_up=settings.warm_up,
            paths=settings.paths,
            anchored=settings.anchored,
            weight=settings.teacher_weight,
            bf16=self.bf16,
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

    def _search(
        self, run: RunDirectory, weights: dict[str, Tensor], validation: list[Pair]
    ) -> None:
        if run.front.exists():
            return
        settings = self.settings

        def keep(state: SearchState) -> None:
            run.write_history(state.rows())
            write_text(run.search_state, state.to_json())

        state = None
        if run.search_state.exists():
            state = SearchState.from_json(run.search_state.read_text())
        pool = Workers(self.workers, builder(settings), weights, validation, bf16=self.bf16)
        with bar(self.console, "3/6 search", settings.search.evaluations) as tick:
            search = Search(
                self.space,
                settings.search,
                settings.objectives,
                settings.constraints,
                seed=settings.seed,
                score=pool,
                keep=keep,
                tick=tick,
            )
            found = search.front(search.run(state))
        pool.close()
        write_json(run.front, [front_entry(c) for c in found])

    def _retrain(self, run: RunDirectory, weights: dict[str, Tensor], train: list[Pair]) -> None:
        settings = self.settings
        chosen = [m for m in self._chosen(run) if not run.student(m["id"]).exists()]
        if not chosen:
            return
        members = [Member(m["id"], self.space.parse(m["id"])) for m in chosen]
        with bar(self.console, "4/6 students", settings.students.steps * len(members)) as tick:
            retrain(
                members,
                run.retraining,
                train,
                settings.students,
                seed=settings.seed,
                bf16=self.bf16,
                space=self.space if settings.students.inherit else None,
                weights=weights if settings.students.inherit else None,
                tick=tick,
            )

    def _deploy(self, run: RunDirectory, train: list[Pair], validation: list[Pair]) -> None:
        settings = self.settings
        chosen = self._chosen(run)
        calibration = calibration_inputs(
            train, settings.int8.calibration, settings.students.crop * 2, settings.seed
        )
        with bar(self.console, "5/6 INT8", len(chosen)) as tick:
            for index, entry in enumerate(chosen):
                if not run.student(entry["id"]).exists():
                    member = Member(entry["id"], self.space.parse(entry["id"]))
                    finish_student(
                        run.student(entry["id"]),
                        entry["id"],
                        member.architecture,
                        trained_student(member, run.retraining),
                        calibration=calibration,
                        validation=validation,
                        settings=settings.int8,
                        threads=cores(),
                        known={
                            "gmacs": entry["gmacs"],
                            "params": entry["params"],
                            "memory_mb": entry["memory_mb"],
                            "psnr_supernet": entry["psnr"],
                        },
                    )
                tick(index + 1, entry["id"])


def front_entry(candidate: Candidate) -> dict[str, Any]:
    """A front member as ``front.json`` has it."""
    return {"id": candidate.id, "genome": list(candidate.genome), **candidate.values}
