"""AGD's translation space: CycleGAN's generator with searched widths and layers.

A 7x7 stem and two 3x3 convolutions of stride 2, searched layers at a quarter of the resolution, two
transposed 3x3 convolutions of stride 2 and a 7x7 one to three channels; instance norm and ReLU
behind all but the last (Zhu et al., ICCV 2017; Fu et al., ICML 2020). Ids read from input to
output: ``24.40.88-c88-r128-...-64.32`` has a stem of 24, 40 and 88 channels, a 3x3 convolution to
88, a residual layer of 128, ..., and a header of 64 and 32.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property, partial

from evo_agd.space.cost import ConvLayer
from evo_agd.space.genes import Gene, Genome, SearchSpace
from evo_agd.space.layers import LAYER_PATTERN, Layer, chain_convolutions, parse_layer

_ID = re.compile(rf"(\d+)\.(\d+)\.(\d+)((?:-{LAYER_PATTERN})+)-(\d+)\.(\d+)")
HALF, QUARTER = Fraction(1, 2), Fraction(1, 4)


@dataclass(frozen=True, slots=True)
class TranslationArchitecture:
    """A member: widths of the stem's three convolutions, its layers, widths of the header.

    ``frozen`` is not searched and not in the id: instance norm has given way to biases
    (:mod:`evo_agd.nets.freezing`).
    """

    stem: tuple[int, int, int]
    layers: tuple[Layer, ...]
    header: tuple[int, int]
    frozen: bool = False

    @property
    def scale(self) -> int:
        """The output is as large as the input."""
        return 1


class TranslationSpace(SearchSpace[TranslationArchitecture]):
    """The space of all :class:`TranslationArchitecture` with the given choices.

    Args:
        input_size: height and width at which cost is counted.
        layers: how many searched layers.
        operators: the choices of a layer.
        full_widths, half_widths, quarter_widths: channels at each resolution.
    """

    scale = 1

    def __init__(
        self,
        *,
        input_size: tuple[int, int],
        layers: int,
        operators: tuple[str, ...],
        full_widths: tuple[int, ...],
        half_widths: tuple[int, ...],
        quarter_widths: tuple[int, ...],
    ) -> None:
        self.input_size = input_size
        self.depth = layers
        self.operators = operators
        self.full_widths = full_widths
        self.half_widths = half_widths
        self.quarter_widths = quarter_widths

    @cached_property
    def genes(self) -> tuple[Gene, ...]:
        genes = [
            Gene("stem.full", self.full_widths),
            Gene("stem.half", self.half_widths),
            Gene("stem.quarter", self.quarter_widths),
        ]
        for index in range(self.depth):
            genes.append(Gene(f"layer{index}.operator", self.operators))
            genes.append(Gene(f"layer{index}.width", self.quarter_widths))
        genes.append(Gene("header.half", self.half_widths))
        genes.append(Gene("header.full", self.full_widths))
        return tuple(genes)

    def active(self, genome: Genome) -> tuple[bool, ...]:
        return (True,) * len(genome)

    def decode(self, genome: Genome) -> TranslationArchitecture:
        g = self.canonical(genome)
        stem = (self.full_widths[g[0]], self.half_widths[g[1]], self.quarter_widths[g[2]])
        layers = tuple(
            Layer(self.operators[g[3 + 2 * i]], self.quarter_widths[g[4 + 2 * i]])
            for i in range(self.depth)
        )
        return TranslationArchitecture(
            stem, layers, (self.half_widths[g[-2]], self.full_widths[g[-1]])
        )

    def encode(self, architecture: TranslationArchitecture) -> Genome:
        a = architecture
        if len(a.layers) != self.depth:
            raise ValueError(f"{self.name_of(a)} has not {self.depth} layers as here")
        full, half, quarter = a.stem
        genome = [self.full_widths.index(full), self.half_widths.index(half)]
        genome.append(self.quarter_widths.index(quarter))
        for layer in a.layers:
            genome.append(self.operators.index(layer.operator))
            genome.append(self.quarter_widths.index(layer.width))
        genome += [self.half_widths.index(a.header[0]), self.full_widths.index(a.header[1])]
        return self.canonical(tuple(genome))

    def name_of(self, architecture: TranslationArchitecture) -> str:
        a = architecture
        stem, header = (".".join(map(str, widths)) for widths in (a.stem, a.header))
        return "-".join([stem, *(layer.name for layer in a.layers), header])

    def parse(self, name: str) -> TranslationArchitecture:
        match = _ID.fullmatch(name)
        if match is None:
            raise ValueError(f"{name!r} is not an architecture id such as 24.40.88-c88-r88-40.24")
        return TranslationArchitecture(
            (int(match[1]), int(match[2]), int(match[3])),
            tuple(parse_layer(part) for part in match[4].strip("-").split("-")),
            (int(match[5]), int(match[6])),
        )

    def layers(self, architecture: TranslationArchitecture) -> tuple[ConvLayer, ...]:
        a = architecture
        full, half, quarter = a.stem
        up, top = a.header
        last = a.layers[-1].width
        normed = partial(ConvLayer, bias=False, norm=True)
        return (
            normed(3, full, 7),
            normed(full, half, 3, zoom=HALF, stride=2),
            normed(half, quarter, 3, zoom=QUARTER, stride=2),
            *chain_convolutions(a.layers, quarter, zoom=QUARTER, norm=True),
            normed(last, up, 3, zoom=HALF, stride=2, transposed=True),
            normed(up, top, 3, stride=2, transposed=True),
            ConvLayer(top, 3, 7),
        )

    def count(self) -> int:
        ends = len(self.full_widths) ** 2 * len(self.half_widths) ** 2 * len(self.quarter_widths)
        return int(ends * (len(self.operators) * len(self.quarter_widths)) ** self.depth)

    def _extremes(self, *, largest: bool) -> list[Genome]:
        pick = max if largest else min
        full, half, quarter = map(pick, (self.full_widths, self.half_widths, self.quarter_widths))
        return [
            self.encode(
                TranslationArchitecture(
                    (full, half, quarter), (Layer(operator, quarter),) * self.depth, (half, full)
                )
            )
            for operator in self.operators
        ]

    def anchors(self) -> list[Genome]:
        """One per operator: the largest network built of just this one."""
        return self._extremes(largest=True)

    def smallest(self) -> list[Genome]:
        """One per operator, as :meth:`anchors`."""
        return self._extremes(largest=False)
