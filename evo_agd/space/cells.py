"""AGD's super-resolution space: cells of layers in a row, between a fixed stem and a fixed tail.

The skeleton is ESRGAN's (Wang et al., 2018) with AGD's cells in place of its dense blocks: a 3x3
stem, cells whose output x 0.2 is added to their input, a 3x3 convolution and a long skip, and a
tail of nearest-neighbour enlargements and convolutions, all at full width. Ids read from input to
output, a cell between hyphens: ``c64-c24.r40.i64.p24.c64-...`` where the last layer of a cell has
the full width.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cached_property

from evo_agd.space.cost import ConvLayer
from evo_agd.space.genes import Gene, Genome, SearchSpace
from evo_agd.space.layers import LAYER_PATTERN, Layer, chain_convolutions, parse_layer
from evo_agd.space.super_resolution import upsampler_layers

_ID = re.compile(rf"c(\d+)((?:-{LAYER_PATTERN}(?:\.{LAYER_PATTERN})*)+)")
TAIL = "esrgan"


@dataclass(frozen=True, slots=True)
class CellArchitecture:
    """A member: its cells' layers, each cell ending at ``features`` channels."""

    scale: int
    features: int
    cells: tuple[tuple[Layer, ...], ...]


class CellSpace(SearchSpace[CellArchitecture]):
    """The space of all :class:`CellArchitecture` with the given choices.

    Args:
        scale: enlargement, 2 or 4.
        input_size: height and width at which cost is counted.
        features: channels between the cells.
        cells, layers: how many, and how many layers each.
        operators, widths: the choices of a layer; the last of a cell has ``features`` channels.
    """

    def __init__(
        self,
        *,
        scale: int,
        input_size: tuple[int, int],
        features: int,
        cells: int,
        layers: int,
        operators: tuple[str, ...],
        widths: tuple[int, ...],
    ) -> None:
        self.scale = scale
        self.input_size = input_size
        self.features = features
        self.cells = cells
        self.layers_per_cell = layers
        self.operators = operators
        self.widths = widths

    @cached_property
    def genes(self) -> tuple[Gene, ...]:
        genes = []
        for cell in range(self.cells):
            for layer in range(self.layers_per_cell):
                genes.append(Gene(f"cell{cell}.layer{layer}.operator", self.operators))
                if layer < self.layers_per_cell - 1:
                    genes.append(Gene(f"cell{cell}.layer{layer}.width", self.widths))
        return tuple(genes)

    def active(self, genome: Genome) -> tuple[bool, ...]:
        return (True,) * len(genome)

    def decode(self, genome: Genome) -> CellArchitecture:
        values = iter(self.canonical(genome))
        cells = []
        for _ in range(self.cells):
            layers = []
            for index in range(self.layers_per_cell):
                operator = self.operators[next(values)]
                last = index == self.layers_per_cell - 1
                layers.append(Layer(operator, self.features if last else self.widths[next(values)]))
            cells.append(tuple(layers))
        return CellArchitecture(self.scale, self.features, tuple(cells))

    def encode(self, architecture: CellArchitecture) -> Genome:
        a = architecture
        shape = (a.features, [len(cell) for cell in a.cells], {c[-1].width for c in a.cells})
        mine = (self.features, [self.layers_per_cell] * self.cells, {self.features})
        if shape != mine:
            raise ValueError(f"{self.name_of(a)} is not of {self.cells} cells as here")
        genome = []
        for cell in a.cells:
            for layer in cell[:-1]:
                genome += [self.operators.index(layer.operator), self.widths.index(layer.width)]
            genome.append(self.operators.index(cell[-1].operator))
        return self.canonical(tuple(genome))

    def name_of(self, architecture: CellArchitecture) -> str:
        cells = [".".join(layer.name for layer in cell) for cell in architecture.cells]
        return "-".join([f"c{architecture.features}", *cells])

    def parse(self, name: str) -> CellArchitecture:
        match = _ID.fullmatch(name)
        if match is None:
            raise ValueError(f"{name!r} is not an architecture id such as c64-c24.r40.c64-i24.p64")
        cells = match[2].strip("-").split("-")
        layers = tuple(tuple(parse_layer(part) for part in cell.split(".")) for cell in cells)
        return CellArchitecture(self.scale, int(match[1]), layers)

    def layers(self, architecture: CellArchitecture) -> tuple[ConvLayer, ...]:
        a = architecture
        body: tuple[ConvLayer, ...] = ()
        for cell in a.cells:
            body += chain_convolutions(cell, a.features)
        trunk = ConvLayer(a.features, a.features, 3)
        tail = upsampler_layers(TAIL, a.features, a.features, a.scale)
        return (ConvLayer(3, a.features, 3), *body, trunk, *tail)

    def count(self) -> int:
        searched = self.cells * (self.layers_per_cell - 1)
        operators = len(self.operators) ** (self.cells * self.layers_per_cell)
        return int(operators * len(self.widths) ** searched)

    def _extremes(self, *, largest: bool) -> list[Genome]:
        width = max(self.widths) if largest else min(self.widths)
        found = []
        for operator in self.operators:
            cell = (Layer(operator, width),) * (self.layers_per_cell - 1)
            cells = ((*cell, Layer(operator, self.features)),) * self.cells
            found.append(self.encode(CellArchitecture(self.scale, self.features, cells)))
        return found

    def anchors(self) -> list[Genome]:
        """One per operator: the largest network built of just this one."""
        return self._extremes(largest=True)

    def smallest(self) -> list[Genome]:
        """One per operator, as :meth:`anchors`."""
        return self._extremes(largest=False)
