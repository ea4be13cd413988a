"""The super-resolution skeleton, as a supernet and as a fixed student."""

from __future__ import annotations

from dataclasses import replace
from functools import partial

from torch import Tensor, nn
from torch.nn import functional as F

from evo_agd.nets.elastic import ElasticConv, State, Step, activate, walk
from evo_agd.nets.operators import BodyBlock
from evo_agd.nets.upsamplers import UPSAMPLER_CLASSES, Upsampler
from evo_agd.space.super_resolution import Block, SRArchitecture, SuperResolutionSpace


def enlarge(x: Tensor, scale: int) -> Tensor:
    """The bilinear base that every member adds its correction to."""
    return F.interpolate(x, scale_factor=scale, mode="bilinear", align_corners=False)


class SRStudent(nn.Module):
    """A fixed network of one architecture.

    Args:
        architecture: what to build; freshly initialised, see :meth:`SRSupernet.cut` for weights.
    """

    def __init__(self, architecture: SRArchitecture) -> None:
        super().__init__()
        a = self.architecture = architecture
        self.scale = a.scale
        self.stem = ElasticConv(3, a.features, 3)
        self.body = nn.Sequential(*(BodyBlock(a.features, [choice]) for choice in a.blocks))
        self.upsampler: Upsampler = UPSAMPLER_CLASSES[a.upsampler](
            a.features, a.upsampler_width, a.scale
        )

    def forward(self, x: Tensor) -> Tensor:
        """RGB in 0..1, (N, 3, H, W) to (N, 3, H * scale, W * scale); not clamped."""
        features = activate(self.body(self.stem(x)))
        return enlarge(x, self.scale) + self.upsampler(features)

    def folded(self) -> SRStudent:
        """The same function with every block's parallel convolutions added up to one."""
        blocks = [block.folded() for block in self.body if isinstance(block, BodyBlock)]
        child = SRStudent(replace(self.architecture, blocks=tuple(b.own for b in blocks)))
        child.stem, child.body, child.upsampler = self.stem, nn.Sequential(*blocks), self.upsampler
        return child


class SRSupernet(nn.Module):
    """All members of a space in one set of weights."""

    def __init__(self, space: SuperResolutionSpace) -> None:
        super().__init__()
        self.scale = space.scale
        features = max(space.features)
        self.stem = ElasticConv(3, features, 3)
        self.body = nn.ModuleList(
            BodyBlock(features, space.blocks()) for _ in range(max(space.depth))
        )
        self.upsamplers = nn.ModuleDict(
            {
                name: UPSAMPLER_CLASSES[name](features, max(space.upsampler_widths), space.scale)
                for name in space.upsamplers
            }
        )

    def block(self, index: int) -> BodyBlock:
        """One elastic body block."""
        chosen = self.body[index]
        assert isinstance(chosen, BodyBlock)
        return chosen

    def upsampler(self, name: str) -> Upsampler:
        """The elastic upsampler of one kind."""
        chosen = self.upsamplers[name]
        assert isinstance(chosen, Upsampler)
        return chosen

    def forward(self, x: Tensor, path: SRArchitecture) -> Tensor:
        """The output of one member: what :meth:`cut` of it would give."""
        return walk(self.steps(path), x)

    def steps(self, path: SRArchitecture) -> list[Step]:
        """What a member does, block by block; the state is (bilinear base, features)."""
        return [
            Step(path.features, partial(self._enter, features=path.features)),
            *(
                Step(choice, partial(self._block, index=index, choice=choice))
                for index, choice in enumerate(path.blocks)
            ),
            Step((path.upsampler, path.upsampler_width), partial(self._leave, path=path)),
        ]

    def _enter(self, state: State, features: int) -> State:
        (x,) = state
        return enlarge(x, self.scale), self.stem(x, features)

    def _block(self, state: State, index: int, choice: Block) -> State:
        return state[0], self.block(index)(state[1], choice)

    def _leave(self, state: State, path: SRArchitecture) -> State:
        base, features = state
        tail = self.upsampler(path.upsampler)
        change = tail(activate(features), path.upsampler_width or None)
        # Under BF16 the base is more precise than what is added to it.
        return (change.add_(base) if change.dtype == base.dtype else base + change,)

    def cut(self, path: SRArchitecture) -> SRStudent:
        """The member as a network of its own, with a copy of its weights."""
        student = SRStudent(path)
        student.stem = self.stem.cut(3, path.features, 3)
        student.body = nn.Sequential(
            *(self.block(i).cut(choice, path.features) for i, choice in enumerate(path.blocks))
        )
        student.upsampler = self.upsampler(path.upsampler).cut(path.features, path.upsampler_width)
        return student
