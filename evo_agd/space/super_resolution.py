"""Super-resolution architectures: a body at low resolution and a searchable upsampler.

The skeleton: a 3x3 stem, up to ``max(depth)`` blocks, an activation, an upsampler that ends in
three channels, added to a bilinear enlargement of the input. Ids read from input to output:
``f24-r3x16-m5x8-i3x32-n12`` has 24 features, a 3x3 residual block 16 wide, a fused block with a
5x5 kernel 8 wide, an inverted residual 32 wide, and a nearest-neighbour upsampler 12 wide.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import cached_property

from evo_agd.space.cost import ConvLayer
from evo_agd.space.genes import Gene, Genome, SearchSpace

OPERATORS = {
    "residual": "r",
    "fused": "m",
    "inverted": "i",
    "separable": "b",
    "gated": "g",
    "reparameterised": "p",
}
UPSAMPLERS = {"shuffle": "s", "shuffle_twice": "t", "nearest": "n", "esrgan": "e"}

_ID = re.compile(r"f(\d+)((?:-[rmibgp]\d+x\d+)+)-(s|[tne]\d+)")


@dataclass(frozen=True, slots=True)
class Block:
    """One body block: its operator, the side of its kernel, its hidden channels."""

    operator: str
    kernel: int
    width: int


@dataclass(frozen=True, slots=True)
class SRArchitecture:
    """A member; ``upsampler_width`` is 0 for the upsampler that has none (``shuffle``)."""

    scale: int
    features: int
    blocks: tuple[Block, ...]
    upsampler: str
    upsampler_width: int


def block_layers(block: Block, features: int) -> tuple[ConvLayer, ...]:
    """The convolutions of one body block."""
    kernel, width = block.kernel, block.width
    if kernel == 1:
        return (ConvLayer(features, width, 1), ConvLayer(width, features, 1))
    if block.operator == "inverted":
        return (
            ConvLayer(features, width, 1),
            ConvLayer(width, width, kernel, groups=width),
            ConvLayer(width, features, 1),
        )
    if block.operator == "separable":
        return (
            ConvLayer(features, width, 1),
            ConvLayer(width, width, kernel, groups=width),
            ConvLayer(width, features, 1),
            ConvLayer(features, features, kernel, groups=features),
        )
    if block.operator == "gated":
        return (
            ConvLayer(features, width, kernel),
            ConvLayer(width, width, 1),
            ConvLayer(width, features, kernel),
        )
    # A re-parameterised block is a residual one once it is folded, which is what is deployed.
    back = 1 if block.operator == "fused" else kernel
    return (ConvLayer(features, width, kernel), ConvLayer(width, features, back))


def upsampler_layers(kind: str, features: int, width: int, scale: int) -> tuple[ConvLayer, ...]:
    """The convolutions of an upsampler from ``features`` channels to an RGB picture."""
    if kind == "shuffle":
        return (ConvLayer(features, 3 * scale**2, 3),)
    half = Fraction(scale, 2)
    if kind == "shuffle_twice":
        return (
            ConvLayer(features, 4 * width, 3),
            ConvLayer(width, 3 * (scale // 2) ** 2, 3, zoom=Fraction(2)),
        )
    full = ConvLayer(width, width, 3, zoom=Fraction(scale))
    return (
        ConvLayer(features, width, 3, zoom=half),
        *((full, full) if kind == "esrgan" else (full,)),
        ConvLayer(width, 3, 3, zoom=Fraction(scale)),
    )


class SuperResolutionSpace(SearchSpace[SRArchitecture]):
    """The space of all :class:`SRArchitecture` with the given choices.

    Args:
        scale: enlargement, 2 or 4.
        input_size: height and width at which cost is counted.
        features, depth, operators, kernels, widths, upsamplers, upsampler_widths: the choices,
            ascending where they are numbers.
    """

    def __init__(
        self,
        *,
        scale: int,
        input_size: tuple[int, int],
        features: tuple[int, ...],
        depth: tuple[int, ...],
        operators: tuple[str, ...],
        kernels: tuple[int, ...],
        widths: tuple[int, ...],
        upsamplers: tuple[str, ...],
        upsampler_widths: tuple[int, ...],
    ) -> None:
        self.scale = scale
        self.input_size = input_size
        self.features = features
        self.depth = depth
        self.operators = operators
        self.kernels = kernels
        self.widths = widths
        self.upsamplers = upsamplers
        self.upsampler_widths = upsampler_widths

    @cached_property
    def genes(self) -> tuple[Gene, ...]:
        genes = [Gene("features", self.features), Gene("depth", self.depth)]
        for index in range(max(self.depth)):
            genes.append(Gene(f"block{index}.operator", self.operators))
            genes.append(Gene(f"block{index}.kernel", self.kernels))
            genes.append(Gene(f"block{index}.width", self.widths))
        genes.append(Gene("upsampler", self.upsamplers))
        genes.append(Gene("upsampler_width", self.upsampler_widths))
        return tuple(genes)

    def blocks(self) -> list[Block]:
        """Every block that a member may have."""
        return [
            Block(operator, kernel, width)
            for operator in self.operators
            for kernel in self.kernels
            for width in self.widths
        ]

    def active(self, genome: Genome) -> tuple[bool, ...]:
        flags = [True, True]
        for index in range(max(self.depth)):
            here = index < self.depth[genome[1]]
            # With a 1x1 kernel the operators are one: expand, activate, project, pixel by pixel.
            spatial = self.kernels[genome[3 + 3 * index]] > 1
            flags += [here and spatial, here, here]
        flags += [True, self.upsamplers[genome[-2]] != "shuffle"]
        return tuple(flags)

    def decode(self, genome: Genome) -> SRArchitecture:
        genome = self.canonical(genome)
        blocks = []
        for index in range(self.depth[genome[1]]):
            operator, kernel, width = genome[2 + 3 * index : 5 + 3 * index]
            blocks.append(Block(self.operators[operator], self.kernels[kernel], self.widths[width]))
        upsampler = self.upsamplers[genome[-2]]
        width = 0 if upsampler == "shuffle" else self.upsampler_widths[genome[-1]]
        return SRArchitecture(self.scale, self.features[genome[0]], tuple(blocks), upsampler, width)

    def encode(self, architecture: SRArchitecture) -> Genome:
        a = architecture
        genome = [self.features.index(a.features), self.depth.index(len(a.blocks))]
        for block in a.blocks:
            genome += [self.operators.index(block.operator), self.kernels.index(block.kernel)]
            genome.append(self.widths.index(block.width))
        genome += [0] * (3 * (max(self.depth) - len(a.blocks)))
        genome.append(self.upsamplers.index(a.upsampler))
        genome.append(self.upsampler_widths.index(a.upsampler_width) if a.upsampler_width else 0)
        return self.canonical(tuple(genome))

    def name_of(self, architecture: SRArchitecture) -> str:
        parts = [f"f{architecture.features}"]
        for b in architecture.blocks:
            parts.append(f"{OPERATORS[b.operator]}{b.kernel}x{b.width}")
        parts.append(UPSAMPLERS[architecture.upsampler] + str(architecture.upsampler_width or ""))
        return "-".join(parts)

    def parse(self, name: str) -> SRArchitecture:
        match = _ID.fullmatch(name)
        if match is None:
            raise ValueError(f"{name!r} is not an architecture id such as f24-r3x16-i5x8-n12")
        operators = {letter: kind for kind, letter in OPERATORS.items()}
        upsamplers = {letter: kind for kind, letter in UPSAMPLERS.items()}
        blocks = []
        for part in match[2].strip("-").split("-"):
            kernel, _, width = part[1:].partition("x")
            blocks.append(Block(operators[part[0]], int(kernel), int(width)))
        tail = match[3]
        return SRArchitecture(
            self.scale, int(match[1]), tuple(blocks), upsamplers[tail[0]], int(tail[1:] or 0)
        )

    def layers(self, architecture: SRArchitecture) -> tuple[ConvLayer, ...]:
        a = architecture
        layers = [ConvLayer(3, a.features, 3)]
        for block in a.blocks:
            layers += block_layers(block, a.features)
        layers += upsampler_layers(a.upsampler, a.features, a.upsampler_width, a.scale)
        return tuple(layers)

    def count(self) -> int:
        kinds = sum(len(self.operators) if k > 1 else 1 for k in self.kernels)
        blocks = kinds * len(self.widths)
        tails = sum(1 if u == "shuffle" else len(self.upsampler_widths) for u in self.upsamplers)
        return len(self.features) * sum(blocks**d for d in self.depth) * tails

    def _extremes(self, *, largest: bool) -> list[Genome]:
        pick = max if largest else min
        found = []
        for operator in self.operators:
            blocks = (Block(operator, pick(self.kernels), pick(self.widths)),) * pick(self.depth)
            for upsampler in self.upsamplers:
                tail = 0 if upsampler == "shuffle" else pick(self.upsampler_widths)
                member = SRArchitecture(self.scale, pick(self.features), blocks, upsampler, tail)
                found.append(self.encode(member))
        return found

    def anchors(self) -> list[Genome]:
        """One per pair of operator and upsampler: the largest network built of just these."""
        return self._extremes(largest=True)

    def smallest(self) -> list[Genome]:
        """One per pair of operator and upsampler, as :meth:`anchors`."""
        return self._extremes(largest=False)
