"""The body block: every operator in one set of weights, each near the identity at first.

All operators are a hidden layer added to the input: expand, activate, project. They differ in where
the spatial kernel sits, and share the convolutions that play the same role:

=========  ===============  ==========  ===============  ======================================
operator   expand           in between  project
=========  ===============  ==========  ===============  ======================================
residual   spatial (k x k)              spatial (k x k)  EDSR, Lim et al., 2017
fused      spatial (k x k)              point (1 x 1)    EfficientNetV2, Tan & Le, 2021
inverted   point (1 x 1)    depthwise   point (1 x 1)    MobileNetV2, Sandler et al., 2018
kernel 1   point (1 x 1)                point (1 x 1)    whatever the operator
=========  ===============  ==========  ===============  ======================================

A narrow layer is the front of a wide one and a small kernel the centre of a large one, but a 1x1
convolution is not the centre of a 3x3 one: what surrounds the centre does most of the work there,
and operators that lived on the centre alone scored too low (docs/architecture.md).
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn

from evo_agd.nets.elastic import ElasticConv, activate
from evo_agd.space.super_resolution import Block

START = 0.1  # factor on the initial weights of what moves a block away from the identity
EXPAND = {"residual": "spatial", "fused": "spatial", "inverted": "point"}
PROJECT = {"residual": "spatial", "fused": "point", "inverted": "point"}


def roles(choice: Block) -> tuple[str, bool, str]:
    """Which expansion a block uses, whether a depthwise convolution, and which projection."""
    if choice.kernel == 1:
        return "point", False, "point"
    return EXPAND[choice.operator], choice.operator == "inverted", PROJECT[choice.operator]


class BodyBlock(nn.Module):
    """(N, F, H, W) to the same shape; elastic in operator, features, kernel and width.

    Args:
        features: of input and output, the largest held.
        choices: what it can be; a student's block is one of them, which is then its default.
    """

    def __init__(self, features: int, choices: Iterable[Block]) -> None:
        super().__init__()
        choices = list(choices)
        self.own = choices[0]
        kernel, width = max(c.kernel for c in choices), max(c.width for c in choices)
        expands, depthwise, projects = (
            set(kinds) for kinds in zip(*map(roles, choices), strict=True)
        )
        sides = {"point": 1, "spatial": kernel}
        self.expand = nn.ModuleDict(
            {kind: ElasticConv(features, width, sides[kind]) for kind in sorted(expands)}
        )
        self.project = nn.ModuleDict(
            {kind: ElasticConv(width, features, sides[kind]) for kind in sorted(projects)}
        )
        self.depthwise = (
            ElasticConv(width, width, kernel, depthwise=True) if any(depthwise) else None
        )
        with torch.no_grad():
            for layer in self.project.values():
                _elastic(layer).weight.mul_(START)
            if self.depthwise is not None:
                # From the identity on: then the point convolutions mean the same with and without.
                self.depthwise.weight.mul_(START)
                self.depthwise.weight[:, 0, kernel // 2, kernel // 2] += 1.0

    def forward(self, x: Tensor, choice: Block | None = None) -> Tensor:
        """Be the chosen block; without a choice, the one that a student's block is."""
        choice = choice or self.own
        expand, depthwise, project = roles(choice)
        side = {"point": 1, "spatial": choice.kernel}
        hidden = activate(self.expand[expand](x, choice.width, side[expand]))
        if depthwise and self.depthwise is not None:
            hidden = activate(self.depthwise(hidden, choice.width, choice.kernel))
        return x + self.project[project](hidden, x.shape[1], side[project])

    def cut(self, choice: Block, features: int) -> BodyBlock:
        """The fixed block of this choice, with a copy of this one's weights."""
        expand, _, project = roles(choice)
        width, side = choice.width, {"point": 1, "spatial": choice.kernel}
        child = BodyBlock(features, [choice])
        child.expand[expand] = _elastic(self.expand[expand]).cut(features, width, side[expand])
        if child.depthwise is not None and self.depthwise is not None:
            child.depthwise = self.depthwise.cut(width, width, choice.kernel)
        child.project[project] = _elastic(self.project[project]).cut(width, features, side[project])
        return child


def _elastic(layer: nn.Module) -> ElasticConv:
    assert isinstance(layer, ElasticConv)
    return layer
