"""Genes, genomes and the space they span, for any skeleton.

A genome is a flat tuple of small integers, one per gene, each an index into the gene's choices.
Genes that do not matter for a given genome (the width of a block that is not there) are set to 0
by :meth:`SearchSpace.canonical`, so that genomes and networks correspond one to one.
"""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Generic, TypeVar

import numpy as np

from evo_agd.space.cost import ConvLayer, Cost, cost_of

Genome = tuple[int, ...]
A = TypeVar("A")


@dataclass(frozen=True)
class Gene:
    """A named decision with its choices, in the order in which the genome counts them."""

    name: str
    choices: tuple[int | str, ...]


class SearchSpace(ABC, Generic[A]):
    """A finite set of architectures of type ``A``, each addressed by a canonical genome.

    Subclasses list their genes and turn a genome into an architecture and back; everything else
    follows from that.
    """

    input_size: tuple[int, int]
    latency: Mapping[ConvLayer, float] | None = None
    """Measured milliseconds of each layer in FP32, where there is a table of them."""
    latency_int8: Mapping[ConvLayer, float] | None = None
    """The same of INT8 layers."""

    @cached_property
    @abstractmethod
    def genes(self) -> tuple[Gene, ...]:
        """All genes, in genome order."""

    @abstractmethod
    def active(self, genome: Genome) -> tuple[bool, ...]:
        """Which genes have an effect, given the values of the others."""

    @abstractmethod
    def decode(self, genome: Genome) -> A:
        """The architecture that a genome stands for."""

    @abstractmethod
    def encode(self, architecture: A) -> Genome:
        """The canonical genome of an architecture.

        Raises:
            ValueError: the architecture is not a member of this space.
        """

    @abstractmethod
    def name_of(self, architecture: A) -> str:
        """The readable id of an architecture."""

    @abstractmethod
    def parse(self, name: str) -> A:
        """The architecture with this id.

        Raises:
            ValueError: not an id of this kind of architecture.
        """

    @abstractmethod
    def layers(self, architecture: A) -> tuple[ConvLayer, ...]:
        """Every convolution of the network, in order."""

    @abstractmethod
    def anchors(self) -> list[Genome]:
        """The largest member of each family; no member has more MACs or parameters than all."""

    @abstractmethod
    def count(self) -> int:
        """How many distinct architectures there are."""

    @abstractmethod
    def smallest(self) -> list[Genome]:
        """The smallest member of each family; no member has fewer MACs or parameters than all."""

    def canonical(self, genome: Genome) -> Genome:
        """The one genome among all that build the same network.

        Raises:
            ValueError: wrong length, or a value outside its gene's choices.
        """
        if len(genome) != len(self.genes):
            raise ValueError(f"a genome has {len(self.genes)} genes, this one {len(genome)}")
        for value, gene in zip(genome, self.genes, strict=True):
            if not 0 <= value < len(gene.choices):
                raise ValueError(f"gene {gene.name}: {value} is not in 0..{len(gene.choices) - 1}")
        active = self.active(genome)
        return tuple(v if on else 0 for v, on in zip(genome, active, strict=True))

    def random(self, rng: np.random.Generator) -> Genome:
        """A canonical genome, uniform over the genes' choices."""
        return self.canonical(tuple(int(rng.integers(len(g.choices))) for g in self.genes))

    def stratified(self, rng: np.random.Generator, count: int) -> list[Genome]:
        """``count`` canonical genomes, each uniform, that share out every gene's choices evenly.

        One path of each kind per step, as in FairNAS (Chu et al., ICCV 2021), instead of three of
        one kind by chance.
        """
        columns = []
        for gene in self.genes:
            choices = len(gene.choices)
            rounds = -(-count // choices)
            column = np.concatenate([rng.permutation(choices) for _ in range(rounds)])
            columns.append(rng.permutation(column[:count]))
        return [self.canonical(tuple(int(c[i]) for c in columns)) for i in range(count)]

    def id_of(self, genome: Genome) -> str:
        """The readable id of a genome."""
        return self.name_of(self.decode(genome))

    def genome_of(self, name: str) -> Genome:
        """The canonical genome with this id.

        Raises:
            ValueError: not an id, or not a member of this space.
        """
        return self.encode(self.parse(name))

    def reading_order(self, genome: Genome) -> tuple[str, ...]:
        """Sorts members by what they do from the input on: who begins alike stands together."""
        return tuple(re.split(r"[-.]", self.id_of(genome)))

    def cost(self, genome: Genome) -> Cost:
        """Analytic cost at the space's input size."""
        layers = self.layers(self.decode(genome))
        return cost_of(layers, *self.input_size, self.latency, self.latency_int8)

    def lowered(
        self, genome: Genome, fits: Callable[[Genome], bool], rng: np.random.Generator
    ) -> Genome | None:
        """A member that fits, made from a genome by lowering one number after another at random.

        Genes whose choices are names keep their values. None if the least numbers do not fit.
        """
        numeric = [i for i, g in enumerate(self.genes) if isinstance(g.choices[0], int)]
        genome = self.canonical(genome)
        while not fits(genome):
            high = [i for i in numeric if genome[i] > 0]
            if not high:
                return None
            values = list(genome)
            values[int(rng.choice(high))] -= 1
            genome = self.canonical(tuple(values))
        return genome
