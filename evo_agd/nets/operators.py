"""The body block: three operators in one set of weights, each near the identity at first.

All three are a hidden layer added to the input: expand, activate, project. They differ in where
the spatial kernel sits, and share what they have in common: a 1x1 convolution is the centre of the
k x k one, a narrow layer the front of a wide one. A block that starts near the identity can be
left out or swapped without shocking the blocks behind it. Both are what lets the scores of paths
through one supernet mean something (docs/architecture.md).

=========  ========================  ==========  =======================================
operator   expand                    in between  project
=========  ========================  ==========  =======================================
residual   k x k                                 k x k (EDSR, Lim et al., 2017)
fused      k x k                                 1 x 1 (EfficientNetV2, Tan & Le, 2021)
inverted   1 x 1                     depthwise   1 x 1 (MobileNetV2, Sandler et al., 2018)
=========  ========================  ==========  =======================================
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from evo_agd.nets.elastic import ElasticConv, activate
from evo_agd.space.super_resolution import Block

START = 0.1  # factor on the initial weights of the projection


class BodyBlock(nn.Module):
    """(N, F, H, W) to the same shape; elastic in operator, features, kernel and width.

    Args:
        operators: which ones it can be; a student's block is one of them.
        features, kernel, width: the largest sizes held.
    """

    def __init__(self, operators: Sequence[str], features: int, kernel: int, width: int) -> None:
        super().__init__()
        self.own = Block(operators[0], kernel, width)
        outer = kernel if set(operators) - {"inverted"} else 1
        self.expand = ElasticConv(features, width, outer)
        self.project = ElasticConv(width, features, kernel if "residual" in operators else 1)
        self.depthwise: ElasticConv | None = None
        if "inverted" in operators:
            self.depthwise = ElasticConv(width, width, kernel, depthwise=True)
        with torch.no_grad():
            self.project.weight.mul_(START)
            if self.depthwise is not None:
                # From the identity on: then expand and project mean the same to every operator.
                self.depthwise.weight.mul_(START)
                self.depthwise.weight[:, 0, kernel // 2, kernel // 2] += 1.0

    def forward(self, x: Tensor, choice: Block | None = None) -> Tensor:
        """Apply the chosen operator; without a choice, the one that a student's block is."""
        operator, kernel, width = (
            (choice := choice or self.own).operator,
            choice.kernel,
            choice.width,
        )
        hidden = activate(self.expand(x, width, 1 if operator == "inverted" else kernel))
        if operator == "inverted":
            assert self.depthwise is not None
            hidden = activate(self.depthwise(hidden, width, kernel))
        return x + self.project(hidden, x.shape[1], kernel if operator == "residual" else 1)

    def cut(self, choice: Block, features: int) -> BodyBlock:
        """The fixed block of this choice, with a copy of this one's weights."""
        kernel, width = choice.kernel, choice.width
        child = BodyBlock([choice.operator], features, kernel, width)
        child.expand = self.expand.cut(
            features, width, 1 if choice.operator == "inverted" else kernel
        )
        if choice.operator == "inverted":
            assert self.depthwise is not None
            child.depthwise = self.depthwise.cut(width, width, kernel)
        child.project = self.project.cut(
            width, features, kernel if choice.operator == "residual" else 1
        )
        return child
