"""The genes of each space as a search-space file names them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, model_validator

Ascending = Annotated[tuple[PositiveInt, ...], Field(min_length=1)]


class Section(BaseModel):
    """Base of all sections: frozen, and unknown keys are errors."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Genes(Section):
    """Lists of choices: all different, and ascending where they are numbers."""

    @model_validator(mode="after")
    def _distinct(self) -> Genes:
        for name in type(self).model_fields:
            values = getattr(self, name)
            if not isinstance(values, tuple):
                continue
            if len(set(values)) != len(values):
                raise ValueError(f"{name}: choices that are all different, found {list(values)}")
            if isinstance(values[0], int) and list(values) != sorted(values):
                raise ValueError(f"{name}: ascending choices, found {list(values)}")
        return self


class SuperResolutionGenes(Genes):
    """The choices of :class:`evo_agd.space.super_resolution.SuperResolutionSpace`."""

    body: Literal["blocks"] = "blocks"
    features: Ascending
    """Channels between the blocks."""
    depth: Ascending
    """Number of body blocks."""
    operators: Annotated[
        tuple[
            Literal["residual", "fused", "inverted", "separable", "gated", "reparameterised"], ...
        ],
        Field(min_length=1),
    ]
    kernels: Annotated[tuple[Literal[1, 3, 5, 7], ...], Field(min_length=1)]
    widths: Ascending
    """Hidden channels of a block."""
    upsamplers: Annotated[
        tuple[Literal["shuffle", "shuffle_twice", "nearest", "esrgan"], ...], Field(min_length=1)
    ]
    upsampler_widths: Ascending


LayerOperators = Annotated[
    tuple[Literal["conv1x1", "conv3x3", "residual", "inverted"], ...], Field(min_length=1)
]


class CellGenes(Genes):
    """The choices of :class:`evo_agd.space.cells.CellSpace`."""

    body: Literal["cells"]
    features: PositiveInt = 64
    """Channels between the cells, and of the fixed tail."""
    cells: PositiveInt = 5
    layers: Annotated[int, Field(ge=2)] = 5
    """Layers of a cell; the last has the full width."""
    operators: LayerOperators
    widths: Ascending
    """Output channels of a layer."""


class TranslationGenes(Genes):
    """The choices of :class:`evo_agd.space.translation.TranslationSpace`."""

    layers: PositiveInt = 9
    operators: LayerOperators
    full_widths: Ascending
    """Channels at full resolution: behind the first convolution and before the last."""
    half_widths: Ascending
    """Channels at half resolution, in stem and header."""
    quarter_widths: Ascending
    """Channels at quarter resolution: of the stem's last convolution and of each layer."""
