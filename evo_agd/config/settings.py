"""What a search-space file may say, key by key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveFloat, PositiveInt, model_validator

Objective = Literal["gmacs", "params", "memory_mb", "distillation_loss", "psnr"]
MAXIMISED = frozenset({"psnr"})
ANALYTIC = frozenset({"gmacs", "params", "memory_mb"})

Ascending = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]
Share = Annotated[float, Field(ge=0, le=1)]


class Section(BaseModel):
    """Base of all sections: frozen, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class SuperResolutionGenes(Section):
    """The choices of :class:`evo_agd.space.super_resolution.SuperResolutionSpace`."""

    features: Ascending
    """Channels between the blocks."""
    depth: Ascending
    """Number of body blocks."""
    operators: Annotated[tuple[Literal["residual", "fused", "inverted"], ...], Field(min_length=1)]
    kernels: Annotated[tuple[Literal[1, 3, 5, 7], ...], Field(min_length=1)]
    widths: Ascending
    """Hidden channels of a block."""
    upsamplers: Annotated[
        tuple[Literal["shuffle", "shuffle_twice", "nearest"], ...], Field(min_length=1)
    ]
    upsampler_widths: Ascending

    @model_validator(mode="after")
    def _distinct(self) -> SuperResolutionGenes:
        for name in type(self).model_fields:
            values = getattr(self, name)
            if len(set(values)) != len(values):
                raise ValueError(f"{name}: choices that are all different, found {list(values)}")
            if name not in ("operators", "upsamplers") and list(values) != sorted(values):
                raise ValueError(f"{name}: ascending choices, found {list(values)}")
        return self


class Data(Section):
    """Where the photographs are: a folder, or ``bundled``."""

    train: str = "bundled"
    validation: str = "bundled"
    unpaired_shrink: tuple[Annotated[int, Field(ge=1, le=8)], ...] = ()
    """Also train on the photographs shrunk by these factors, for which only the teacher answers."""


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
    teacher_weight: Share = 1.0
    """Share of the distance to the teacher in the loss; the rest is the distance to the truth."""
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

    @model_validator(mode="after")
    def _paths_are_sampled(self) -> SupernetTraining:
        if self.warm_up >= self.steps:
            raise ValueError(f"warm_up below steps, found {self.warm_up} of {self.steps}")
        return self


class Evolution(Section):
    """The search stage."""

    population: Annotated[int, Field(ge=2)] = 48
    evaluations: PositiveInt = 480
    """Architectures scored on the supernet in all; none is scored twice."""
    crossover: Share = 0.9
    """Chance that a child has two parents."""
    mutation: Share = 0.1
    """Chance of each active gene to change."""


class StudentTraining(Training):
    """The retraining stage."""

    count: PositiveInt = 5
    """Front members to retrain, spread evenly over the front by cost."""
    inherit: bool = True
    """Start from the supernet's weights instead of from scratch."""


class Quantization(Section):
    """INT8 export."""

    calibration: PositiveInt = 24
    """Training crops from which the ranges of activations are taken."""
    method: Literal["minmax", "entropy", "percentile"] = "minmax"
    latency_size: Annotated[int, Field(ge=16)] = 128
    """Side of the input at which milliseconds are measured."""


class Compute(Section):
    """Where it runs. Figures do not depend on ``workers``."""

    workers: PositiveInt | Literal["auto"] = "auto"
    """Parallel evaluations and retrainings; ``auto`` is one a core."""
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    """Of training and scoring; ``auto`` is BF16 where the processor has it natively."""


class Settings(Section):
    """One search-space file."""

    task: Literal["super_resolution"]
    seed: Annotated[int, Field(ge=0)] = 0
    scale: Literal[2, 4] = 4
    input_size: tuple[PositiveInt, PositiveInt] = (256, 256)
    """Height and width of the low-resolution input at which cost is counted."""
    genes: SuperResolutionGenes
    teacher: str = "bundled"
    """A checkpoint that spandrel recognises, or ``bundled``."""
    data: Data = Data()
    objectives: Annotated[tuple[Objective, ...], Field(min_length=2)] = (
        "gmacs",
        "distillation_loss",
        "psnr",
    )
    constraints: Mapping[Objective, Bound] = {}
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
        return self
