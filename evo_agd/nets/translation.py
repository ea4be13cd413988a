"""The translation skeleton, CycleGAN's generator, as a supernet and as a fixed student."""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from evo_agd.nets.elastic import ElasticConv, ElasticTransposed, State, Step, walk
from evo_agd.nets.layers import ElasticLayer, cut_chain, fixed_chain
from evo_agd.nets.norm import normalise
from evo_agd.nets.start import start_at_the_picture
from evo_agd.space.layers import Layer
from evo_agd.space.translation import TranslationArchitecture, TranslationSpace

MULTIPLE = 4  # what the sides have to be divisible by inside


class TranslationSkeleton(nn.Module):
    """Stem and header, elastic or fixed, around the searched layers.

    Args:
        stem, header: the largest widths held.
        last: the most channels behind the searched layers.
        frozen: biases in place of instance norm.
    """

    def __init__(
        self,
        stem: tuple[int, int, int],
        last: int,
        header: tuple[int, int],
        *,
        frozen: bool = False,
    ) -> None:
        super().__init__()
        self.frozen = frozen
        full, half, quarter = stem
        self.stem_full = ElasticConv(3, full, 7, bias=frozen)
        self.stem_half = ElasticConv(full, half, 3, bias=frozen, stride=2)
        self.stem_quarter = ElasticConv(half, quarter, 3, bias=frozen, stride=2)
        self.header_half = ElasticTransposed(last, header[0], bias=frozen)
        self.header_full = ElasticTransposed(header[0], header[1], bias=frozen)
        self.last = ElasticConv(header[1], 3, 7)
        start_at_the_picture(
            down=(self.stem_full.weight, self.stem_half.weight, self.stem_quarter.weight),
            up=(self.header_half.weight, self.header_full.weight, self.last.weight),
        )

    def _normed(self, x: Tensor) -> Tensor:
        return x if self.frozen else normalise(x)

    def enter(self, x: Tensor, widths: tuple[int, int, int]) -> Tensor:
        """RGB in 0..1 to features at a quarter of the resolution."""
        x = F.relu(self._normed(self.stem_full(2 * x - 1, widths[0])))
        x = F.relu(self._normed(self.stem_half(x, widths[1])))
        return F.relu(self._normed(self.stem_quarter(x, widths[2])))

    def leave(self, x: Tensor, widths: tuple[int, int]) -> Tensor:
        """Features at a quarter of the resolution to RGB in 0..1."""
        x = F.relu(self._normed(self.header_half(x, widths[0])))
        x = F.relu(self._normed(self.header_full(x, widths[1])))
        return 0.5 + 0.5 * self.last(x).tanh()


class TranslationStudent(TranslationSkeleton):
    """A fixed network of one architecture, freshly initialised."""

    def __init__(self, architecture: TranslationArchitecture) -> None:
        a = architecture
        super().__init__(a.stem, a.layers[-1].width, a.header, frozen=a.frozen)
        self.architecture = a
        self.scale = 1
        self.layers = fixed_chain(a.layers, a.stem[-1], norm=not a.frozen, bias=a.frozen)

    def forward(self, x: Tensor) -> Tensor:
        """RGB in 0..1, (N, 3, H, W) to the same shape; sides divisible by 4."""
        a = self.architecture
        return self.leave(self.layers(self.enter(x, a.stem)), a.header)

    def folded(self) -> TranslationStudent:
        """Nothing folds here."""
        return self


class TranslationSupernet(TranslationSkeleton):
    """All members of a space in one set of weights."""

    def __init__(self, space: TranslationSpace) -> None:
        full, half, quarter = (
            max(w) for w in (space.full_widths, space.half_widths, space.quarter_widths)
        )
        super().__init__((full, half, quarter), quarter, (half, full))
        self.scale = 1
        choices = [Layer(o, w) for o in space.operators for w in space.quarter_widths]
        self.layers = nn.ModuleList(
            ElasticLayer(quarter, choices, norm=True) for _ in range(space.depth)
        )

    def elastic(self) -> list[ElasticLayer]:
        """The searched layers."""
        return [layer for layer in self.layers if isinstance(layer, ElasticLayer)]

    def forward(self, x: Tensor, path: TranslationArchitecture) -> Tensor:
        """The output of one member: what :meth:`cut` of it would give."""
        return walk(self.steps(path), x)

    def steps(self, path: TranslationArchitecture) -> list[Step]:
        """What a member does, layer by layer; the state is (features,)."""
        return [
            Step(path.stem, lambda state: (self.enter(state[0], path.stem),)),
            *(
                Step(layer, partial(_layer, elastic=elastic, layer=layer))
                for elastic, layer in zip(self.elastic(), path.layers, strict=True)
            ),
            Step(path.header, lambda state: (self.leave(state[0], path.header),)),
        ]

    def cut(self, path: TranslationArchitecture) -> TranslationStudent:
        """The member as a network of its own, with a copy of its weights."""
        student = TranslationStudent(path)
        full, half, quarter = path.stem
        up, top = path.header
        student.stem_full = self.stem_full.cut(3, full, 7)
        student.stem_half = self.stem_half.cut(full, half, 3)
        student.stem_quarter = self.stem_quarter.cut(half, quarter, 3)
        student.layers = cut_chain(self.elastic(), path.layers, quarter)
        student.header_half = self.header_half.cut(path.layers[-1].width, up)
        student.header_full = self.header_full.cut(up, top)
        student.last = self.last.cut(top, 3, 7)
        return student


def _layer(state: State, elastic: ElasticLayer, layer: Layer) -> State:
    return (elastic(state[0], layer),)
