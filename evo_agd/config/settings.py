"""What a search-space file may say, key by key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, field_validator, model_validator

from evo_agd.config.genes import CellGenes, Section, SuperResolutionGenes, TranslationGenes

Objective = Literal[
    "gmacs",
    "params",
    "memory_mb",
    "int8_memory_mb",
    "latency_ms",
    "latency_int8_ms",
    "distillation_loss",
    "psnr",
    "psnr_int8",
]
MAXIMISED = frozenset({"psnr", "psnr_int8"})
ANALYTIC = frozenset(
    {"gmacs", "params", "memory_mb", "int8_memory_mb", "latency_ms", "latency_int8_ms"}
)
"""Objectives of cost, which are counted; with ``measured`` milliseconds are timed instead."""
BUNDLED = "bundled"
"""In place of a file or a folder: what travels with the packages."""
MEASURED = "measured"
"""In place of a latency table: every candidate is built and timed."""
LATENCY_TABLES = {"latency_ms": "latency_table", "latency_int8_ms": "latency_int8_table"}
"""The settings that objectives in milliseconds need."""

Share = Annotated[float, Field(ge=0, le=1)]
Weight = Annotated[float, Field(ge=0)]


class Data(Section):
    """Where the photographs of super-resolution are."""

    train: str = BUNDLED
    """A folder of high-resolution photographs, a DIV2K or BasicSR layout, or ``bundled``."""
    validation: str = BUNDLED
    train_low: str | None = None
    """A folder of low-resolution counterparts; without, they are made by bicubic reduction."""
    validation_low: str | None = None
    unpaired_shrink: tuple[Annotated[int, Field(ge=1, le=8)], ...] = ()
    """Also train on the photographs shrunk by these factors, for which only the teacher answers."""
    limit: PositiveInt | None = None
    """Use at most so many training photographs, spread evenly over the folder."""
    validation_limit: PositiveInt | None = None


class TranslationData(Section):
    """Where the photographs of a translation are."""

    train: str
    """A folder with trainA and testA (and B) as CycleGAN's data sets have them, or of images."""
    validation: str | None = None
    """The same for validation; without, testA or testB of ``train``."""
    domain: Literal["A", "B"] = "A"
    """Which of the two the generator takes."""
    limit: PositiveInt | None = None
    validation_limit: PositiveInt | None = None

    @property
    def unpaired_shrink(self) -> tuple[int, ...]:
        """Nothing is shrunk here."""
        return ()


class Losses(Section):
    """Weights of the distillation losses; 0 leaves one out."""

    teacher_l1: Weight = 0.0
    teacher_l2: Weight = 0.0
    truth_l1: Weight = 0.0
    truth_l2: Weight = 0.0
    lpips: Weight = 0.0
    """LPIPS distance to the teacher's output (Zhang et al., CVPR 2018)."""
    perceptual: Weight = 0.0
    """Distance of a backbone's features to those of the teacher's output."""
    gram: Weight = 0.0
    """Distance of their Gram matrices: texture, wherever it lies."""
    total_variation: Weight = 0.0
    frequency: Weight = 0.0
    """Distance to the teacher's output in the Fourier domain."""

    @model_validator(mode="after")
    def _something(self) -> Losses:
        if not any(getattr(self, name) for name in type(self).model_fields):
            raise ValueError("a loss with a weight above 0, found none")
        return self


class BackboneSettings(Section):
    """The classifier whose features the perceptual and Gram losses and the judges look at."""

    architecture: Literal["squeezenet1_1", "vgg16", "vgg19", "alexnet"] = "squeezenet1_1"
    weights: str | None = None
    """A file in torchvision's key layout; without, torchvision downloads its own."""


class LpipsSettings(Section):
    """The network of the LPIPS loss."""

    net: Literal["squeeze", "alex", "vgg"] = "squeeze"
    weights: str | None = None
    """Its backbone's weights in torchvision's key layout; without, they are downloaded."""


class Judge(Section):
    """What the students of a translation are measured by beside their teacher."""

    target_class: Annotated[int, Field(ge=0, le=999)] | None = None
    """ImageNet class of the target domain (340: zebra); the share called that is reported."""
    inception: str | None = None
    """InceptionV3 weights; with them the Frechet distance is the FID."""


class Bound(Section):
    """A constraint on one objective."""

    min: float | None = None
    max: float | None = None

    @model_validator(mode="after")
    def _says_something(self) -> Bound:
        if self.min is None and self.max is None:
            raise ValueError("min or max, found neither")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"min at most max, found min {self.min:g} and max {self.max:g}")
        return self

    def violation(self, value: float) -> float:
        """How far outside the bound a value is, 0 inside."""
        below = 0.0 if self.min is None else max(0.0, self.min - value)
        above = 0.0 if self.max is None else max(0.0, value - self.max)
        return below + above


class Training(Section):
    """What the supernet's and the students' training have in common."""

    steps: PositiveInt
    batch: PositiveInt = 16
    crop: Annotated[int, Field(ge=8)] = 24
    """Side of a training crop in input pixels."""
    learning_rate: PositiveFloat = 3e-3
    rate_by_fan_in: bool = True
    """Lower the rate of wide layers in proportion to their fan-in."""
    ema: Annotated[float, Field(ge=0, lt=1)] = 0.998
    """Decay of the averaged weights, which are the ones that are kept."""


class SupernetTraining(Training):
    """The supernet stage."""

    warm_up: Annotated[int, Field(ge=0)]
    """First steps, in which only the largest networks are trained, one kind at a time."""
    paths: PositiveInt = 3
    """Uniformly drawn paths in each step after that."""
    anchored: Annotated[int, Field(ge=0)] = 1
    """Largest networks in each step after that."""
    constrained: bool = False
    """Train only paths that keep the constraints on cost: the largest of a space whose members
    differ by 50 times cost more than all the others."""

    @model_validator(mode="after")
    def _paths_are_sampled(self) -> SupernetTraining:
        if self.warm_up >= self.steps:
            raise ValueError(f"warm_up below steps, found {self.warm_up} of {self.steps}")
        return self


Crossover = Literal["uniform", "one_point", "two_point", "blend"]


class Evolution(Section):
    """The search stage."""

    population: Annotated[int, Field(ge=2)] = 48
    offspring: PositiveInt | None = None
    """Children bred, and scored, together; a sixth of the population if nothing is said. Workers do
    not wait for one another: while one brood is scored, the next is bred from the ones before."""
    evaluations: PositiveInt = 480
    """Architectures scored on the supernet in all; none is scored twice."""
    patience: PositiveInt | None = None
    """Stop when the hypervolume has not grown by a thousandth in so many broods; without, only the
    evaluations end the search."""
    crossover: Share = 0.9
    """Chance that a child has two parents."""
    crossovers: Annotated[tuple[Crossover, ...], Field(min_length=1)] = ("blend",)
    """Ways to mix two parents, each as likely as the others."""
    mutation: Share = 0.05
    """Chance of each active gene to change."""
    start: tuple[str, ...] = ()
    """Ids of architectures that the first brood begins with."""
    start_front: str | None = None
    """A run, or a front.json, whose front the first brood begins with."""
    pictures: PositiveInt | None = None
    """Score on at most so many validation pictures, spread evenly; without, on all."""
    racing: Annotated[float, Field(gt=0, lt=1)] | None = None
    """Score all candidates on the middle of the pictures first, this share of their area; only
    those that nothing dominates there are scored on all of it."""
    prefix_mb: PositiveFloat = 256.0
    """Megabytes of activations that each worker keeps for architectures that begin alike."""


class StudentTraining(Training):
    """The retraining stage."""

    count: PositiveInt | Literal["all"] = 5
    """Front members to retrain, spread evenly over the front by GMACs; ``all`` is all of it."""
    ids: tuple[str, ...] = ()
    """Members to retrain in their place: of the front, or any that the search has scored. A search
    begins with them."""
    inherit: bool = True
    """Start from the supernet's weights instead of from scratch."""
    rungs: tuple[Annotated[float, Field(gt=0, lt=1)], ...] = (0.25, 0.5)
    """Shares of the steps at which members are scored on the pictures of the search and compared;
    without any, all of them train to the end."""
    margin: Annotated[float, Field(ge=0)] = 0.1
    """A member is stopped at a rung where one that costs less is better by more than this, in dB of
    averaged weights."""

    @field_validator("rungs")
    @classmethod
    def _one_after_another(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if list(value) != sorted(set(value)):
            raise ValueError(f"shares that grow, found {list(value)}")
        return value

    @property
    def rung_steps(self) -> tuple[int, ...]:
        """The steps after which members are compared."""
        steps = {round(share * self.steps) for share in self.rungs}
        return tuple(sorted(steps - {0, self.steps}))


class TranslationTraining(StudentTraining):
    """The retraining stage of a translation."""

    freeze: Annotated[float, Field(ge=0, le=0.4)] | None = 0.05
    """Instance norm gives way to biases for this share of the steps, the last ones; 0 freezes after
    the last one, ``null`` never. INT8 destroys a picture that goes through norms, and a few steps
    without them are what makes the ranges of activations narrow enough for 8 bits."""

    @property
    def frozen_steps(self) -> int:
        """The steps that are trained without norms."""
        return round((self.freeze or 0.0) * self.steps)


class Quantization(Section):
    """INT8 export."""

    calibration: PositiveInt = 24
    """Training crops from which the ranges of activations are taken."""
    method: Literal["minmax", "entropy", "percentile"] = "minmax"
    """How a range is found: all that was seen, the least change of distribution, 99.999 % of it."""
    max_drop: PositiveFloat = 0.1
    """dB of PSNR that INT8 may cost; over it the layers that cause it stay in FP32."""
    latency_size: Annotated[int, Field(ge=16)] = 128
    """Side of the input at which milliseconds are measured."""


class Compute(Section):
    """Where it runs. Figures do not depend on ``workers``."""

    workers: PositiveInt | Literal["auto"] = "auto"
    """Parallel evaluations and retrainings; ``auto`` is one a core, of the whole cluster if there
    is one."""
    gpus_per_worker: Annotated[float, Field(ge=0, le=1)] = 0.0
    """Of a GPU, for each evaluation: 0.25 puts four on one. 0 scores on the CPU."""
    gpus_per_student: Annotated[float, Field(ge=0, le=1)] = 0.0
    """The same of each retraining. 0 trains on the CPU, one core each."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Of training and scoring; ``auto`` is BF16 where the processor has it natively."""


class Settings(Section):
    """One search-space file: what every task has."""

    task: Literal["super_resolution", "image_translation"]
    budget: str | None = None
    """Which of the file's ``budgets`` was taken."""
    seed: Annotated[int, Field(ge=0)] = 0
    scale: int
    input_size: tuple[PositiveInt, PositiveInt] = (256, 256)
    """Height and width of the input at which cost is counted."""
    genes: Any
    teacher: str
    """A checkpoint, an ONNX or TorchScript file, ``module:function``, or ``bundled``."""
    teacher_range: Literal["auto", "unit", "symmetric"] = "auto"
    """What the teacher takes and gives: 0..1, -1..1, or whichever its answers show."""
    data: Any
    losses: Losses = Losses(teacher_l1=1.0)
    features: BackboneSettings = BackboneSettings()
    lpips: LpipsSettings = LpipsSettings()
    objectives: Annotated[tuple[Objective, ...], Field(min_length=2)] = (
        "gmacs",
        "distillation_loss",
        "psnr",
    )
    constraints: Mapping[Objective, Bound] = {}
    latency_table: str | None = None
    """A file of measured milliseconds per layer, or ``measured`` for every candidate's own; there
    is a ``latency_ms`` with it."""
    latency_int8_table: str | None = None
    """The same in INT8, for ``latency_int8_ms``; ``bundled`` is one of the default space."""
    supernet: SupernetTraining
    search: Evolution = Evolution()
    students: StudentTraining
    int8: Quantization = Quantization()
    compute: Compute = Compute()

    @model_validator(mode="after")
    def _objectives(self) -> Settings:
        if len(set(self.objectives)) != len(self.objectives):
            raise ValueError(f"objectives: all different, found {list(self.objectives)}")
        if not set(self.objectives) & ANALYTIC or not set(self.objectives) - ANALYTIC:
            raise ValueError(
                "objectives: at least one of cost and one of quality, "
                f"found {list(self.objectives)}"
            )
        for name, key in LATENCY_TABLES.items():
            if getattr(self, key) is None and name in (*self.objectives, *self.constraints):
                expected = f"a file or {MEASURED}, since {name} is asked for"
                raise ValueError(f"{key}: {expected}, found none")
        return self


class SuperResolutionSettings(Settings):
    """Enlargement by a body of residual blocks, with a searchable upsampler."""

    task: Literal["super_resolution"]
    scale: Literal[2, 4] = 4
    genes: SuperResolutionGenes
    teacher: str = BUNDLED
    data: Data = Data()


class CellSettings(SuperResolutionSettings):
    """Enlargement by AGD's cells."""

    genes: CellGenes  # type: ignore[assignment]


class TranslationSettings(Settings):
    """A generator whose output is as large as its input."""

    task: Literal["image_translation"]
    scale: Literal[1] = 1
    genes: TranslationGenes
    data: TranslationData
    judge: Judge = Judge()
    students: TranslationTraining

    @model_validator(mode="after")
    def _no_truth(self) -> TranslationSettings:
        if self.losses.truth_l1 or self.losses.truth_l2:
            raise ValueError("losses: only the teacher's, a translation has no truth, found truth")
        return self


def settings_class(value: Mapping[str, Any]) -> type[Settings]:
    """The settings that a file's ``task`` and ``genes.body`` call for."""
    genes = value.get("genes")
    if value.get("task") == "image_translation":
        return TranslationSettings
    cells = isinstance(genes, Mapping) and genes.get("body") == "cells"
    return CellSettings if cells else SuperResolutionSettings
