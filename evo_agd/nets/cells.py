"""AGD's super-resolution skeleton, as a supernet and as a fixed student.

Where our own skeleton adds its correction to a bilinear enlargement, this one makes the whole
picture, as ESRGAN does.
"""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor, nn

from evo_agd.nets.elastic import ElasticConv, State, Step, walk
from evo_agd.nets.layers import ElasticLayer, cut_chain, fixed_chain
from evo_agd.nets.upsamplers import START as TAIL_START
from evo_agd.nets.upsamplers import Esrgan
from evo_agd.space.cells import CellArchitecture, CellSpace
from evo_agd.space.layers import Layer

CELL_WEIGHT = 0.2  # of a cell's output, as ESRGAN's residual scaling


class CellStudent(nn.Module):
    """A fixed network of one architecture, freshly initialised."""

    def __init__(self, architecture: CellArchitecture) -> None:
        super().__init__()
        a = self.architecture = architecture
        self.scale = a.scale
        self.stem = ElasticConv(3, a.features, 3)
        self.cells = nn.ModuleList(fixed_chain(cell, a.features, norm=False) for cell in a.cells)
        self.trunk = ElasticConv(a.features, a.features, 3)
        self.tail = _tail(a.features, a.scale)

    def forward(self, x: Tensor) -> Tensor:
        """RGB in 0..1, (N, 3, H, W) to (N, 3, H * scale, W * scale); not clamped."""
        start = features = self.stem(x)
        for cell in self.cells:
            features = features + CELL_WEIGHT * cell(features)
        return self.tail(start + self.trunk(features))

    def folded(self) -> CellStudent:
        """Nothing folds here."""
        return self


class CellSupernet(nn.Module):
    """All members of a space in one set of weights."""

    def __init__(self, space: CellSpace) -> None:
        super().__init__()
        self.scale = space.scale
        features, count = space.features, space.layers_per_cell
        self.stem = ElasticConv(3, features, 3)
        choices = [Layer(o, w) for o in space.operators for w in (*space.widths, features)]
        widest = max(space.widths)
        self.cells = nn.ModuleList(
            nn.ModuleList(
                ElasticLayer(features if index == 0 else widest, choices, norm=False)
                for index in range(count)
            )
            for _ in range(space.cells)
        )
        self.trunk = ElasticConv(features, features, 3)
        self.tail = _tail(features, space.scale)

    def layers(self, cell: int) -> list[ElasticLayer]:
        """The elastic layers of one cell."""
        chosen = self.cells[cell]
        assert isinstance(chosen, nn.ModuleList)
        return [layer for layer in chosen if isinstance(layer, ElasticLayer)]

    def forward(self, x: Tensor, path: CellArchitecture) -> Tensor:
        """The output of one member: what :meth:`cut` of it would give."""
        return walk(self.steps(path), x)

    def steps(self, path: CellArchitecture) -> list[Step]:
        """What a member does, layer by layer; the state is (stem, the cell's input, features)."""
        steps = [Step("stem", self._enter)]
        for index, cell in enumerate(path.cells):
            for elastic, layer in zip(self.layers(index), cell, strict=True):
                steps.append(Step(layer, partial(_layer, elastic=elastic, layer=layer)))
            steps.append(Step("cell", _add))
        return [*steps, Step("tail", self._leave)]

    def _enter(self, state: State) -> State:
        start = self.stem(state[0])
        return start, start, start

    def _leave(self, state: State) -> State:
        return (self.tail(state[0] + self.trunk(state[1])),)

    def cut(self, path: CellArchitecture) -> CellStudent:
        """The member as a network of its own, with a copy of its weights."""
        student, features = CellStudent(path), path.features
        student.stem = self.stem.cut(3, features, 3)
        student.cells = nn.ModuleList(
            cut_chain(self.layers(i), cell, features) for i, cell in enumerate(path.cells)
        )
        student.trunk = self.trunk.cut(features, features, 3)
        student.tail = self.tail.cut(features, features)
        return student


def _layer(state: State, elastic: ElasticLayer, layer: Layer) -> State:
    start, before, change = state
    return start, before, elastic(change, layer)


def _add(state: State) -> State:
    start, before, change = state
    after = before + CELL_WEIGHT * change
    return start, after, after


def _tail(features: int, scale: int) -> Esrgan:
    """The fixed tail; it makes the whole picture, so its last convolution starts at full size."""
    tail = Esrgan(features, features, scale)
    with torch.no_grad():
        tail.last.weight.div_(TAIL_START)
    return tail
