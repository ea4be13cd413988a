"""The body block: every operator in one set of weights, each near the identity at first.

All operators are a hidden layer added to the input: expand, activate, project. They differ in where
the spatial kernel sits, and share the convolutions that play the same role:

================  ================  ===========  =================  ==============================
operator          expand            in between   project            from
================  ================  ===========  =================  ==============================
residual          spatial (k x k)                spatial (k x k)    EDSR, Lim et al., 2017
fused             spatial (k x k)                point (1 x 1)      EfficientNetV2, Tan & Le, 2021
inverted          point (1 x 1)     depthwise    point (1 x 1)      MobileNetV2, Sandler et al.,
                                                                    2018
separable         point, depthwise               point, depthwise   BSConv, Haase & Amthor, 2020
gated             spatial (k x k)   x sigmoid    spatial (k x k)    pixel attention of PAN, Zhao
                                    (1 x 1)                         et al., 2020
reparameterised   spatial + point                spatial + point    RepVGG, Ding et al., 2021
kernel 1          point (1 x 1)                  point (1 x 1)      whatever the operator
================  ================  ===========  =================  ==============================

A narrow layer is the front of a wide one and a small kernel the centre of a large one, but a 1x1
convolution is not the centre of a 3x3 one: what surrounds the centre does most of the work there,
and operators that lived on the centre alone scored too low (docs/architecture.md).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

import torch
from torch import Tensor, nn

from evo_agd.nets.elastic import ElasticConv, activate_
from evo_agd.space.super_resolution import Block

START = 0.1  # factor on the initial weights of what moves a block away from the identity
EXPAND = {
    "residual": ("spatial",),
    "fused": ("spatial",),
    "inverted": ("point",),
    "separable": ("point",),
    "gated": ("spatial",),
    "reparameterised": ("spatial", "point"),
}
PROJECT = {
    "residual": ("spatial",),
    "fused": ("point",),
    "inverted": ("point",),
    "separable": ("point",),
    "gated": ("spatial",),
    "reparameterised": ("spatial", "point"),
}
BETWEEN = {"inverted": ("depthwise",), "separable": ("depthwise", "last"), "gated": ("gate",)}


def roles(choice: Block) -> tuple[tuple[str, ...], tuple[str, ...], tuple[str, ...]]:
    """Which expansions a block adds up, what comes between and after, which projections."""
    if choice.kernel == 1:
        return ("point",), (), ("point",)
    between = BETWEEN.get(choice.operator, ())
    return EXPAND[choice.operator], between, PROJECT[choice.operator]


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
        expands, between, projects = (
            {kind for kinds in each for kind in kinds}
            for each in zip(*map(roles, choices), strict=True)
        )
        sides = {"point": 1, "spatial": kernel}
        self.expand = nn.ModuleDict(
            {kind: ElasticConv(features, width, sides[kind]) for kind in sorted(expands)}
        )
        self.project = nn.ModuleDict(
            {kind: ElasticConv(width, features, sides[kind]) for kind in sorted(projects)}
        )
        self.depthwise = _depthwise(width, kernel) if "depthwise" in between else None
        self.last = _depthwise(features, kernel) if "last" in between else None
        self.gate = ElasticConv(width, width, 1) if "gate" in between else None
        with torch.no_grad():
            for layer in self.project.values():
                _elastic(layer).weight.mul_(START)
            if self.gate is not None:  # from an even half on
                self.gate.weight.mul_(START)

    def forward(self, x: Tensor, choice: Block | None = None) -> Tensor:
        """Be the chosen block; without a choice, the one that a student's block is."""
        choice = choice or self.own
        expand, between, project = roles(choice)
        side = {"point": 1, "spatial": choice.kernel}
        hidden = self.expand[expand[0]](x, choice.width, side[expand[0]])
        for kind in expand[1:]:
            hidden = hidden + self.expand[kind](x, choice.width, side[kind])
        if choice.operator == "separable" and self.depthwise is not None and between:
            hidden = self.depthwise(hidden, choice.width, choice.kernel)  # one linear convolution
        hidden = activate_(hidden)
        if choice.operator == "inverted" and self.depthwise is not None and between:
            hidden = activate_(self.depthwise(hidden, choice.width, choice.kernel))
        if self.gate is not None and "gate" in between:
            hidden = hidden * torch.sigmoid(self.gate(hidden, choice.width))
        change = self.project[project[0]](hidden, x.shape[1], side[project[0]])
        for kind in project[1:]:
            change = change + self.project[kind](hidden, x.shape[1], side[kind])
        if self.last is not None and "last" in between:
            change = self.last(change, x.shape[1], choice.kernel)
        return change.add_(x)  # nobody else holds what the last convolution made

    def cut(self, choice: Block, features: int) -> BodyBlock:
        """The fixed block of this choice, with a copy of this one's weights."""
        expand, _, project = roles(choice)
        width, side = choice.width, {"point": 1, "spatial": choice.kernel}
        child = BodyBlock(features, [choice])
        for kind in expand:
            child.expand[kind] = _elastic(self.expand[kind]).cut(features, width, side[kind])
        for kind in project:
            child.project[kind] = _elastic(self.project[kind]).cut(width, features, side[kind])
        if child.depthwise is not None and self.depthwise is not None:
            child.depthwise = self.depthwise.cut(width, width, choice.kernel)
        if child.last is not None and self.last is not None:
            child.last = self.last.cut(features, features, choice.kernel)
        if child.gate is not None and self.gate is not None:
            child.gate = self.gate.cut(width, width, 1)
        return child

    def folded(self) -> BodyBlock:
        """This student block with parallel convolutions added up to one.

        A re-parameterised block becomes a residual one with the same output; others stay.
        """
        if self.own.operator != "reparameterised" or self.own.kernel == 1:
            return self
        features = _elastic(self.project["spatial"]).weight.shape[0]
        child = BodyBlock(features, [replace(self.own, operator="residual")])
        middle = self.own.kernel // 2
        with torch.no_grad():
            for mine, its in ((self.expand, child.expand), (self.project, child.project)):
                wide, point = _elastic(mine["spatial"]), _elastic(mine["point"])
                target = _elastic(its["spatial"])
                assert wide.bias is not None and point.bias is not None and target.bias is not None
                target.weight.copy_(wide.weight)
                target.weight[:, :, middle, middle] += point.weight[:, :, 0, 0]
                target.bias.copy_(wide.bias + point.bias)
        return child


def _depthwise(channels: int, kernel: int) -> ElasticConv:
    """From the identity on: then the point convolutions mean the same with and without it."""
    layer = ElasticConv(channels, channels, kernel, depthwise=True)
    with torch.no_grad():
        layer.weight.mul_(START)
        layer.weight[:, 0, kernel // 2, kernel // 2] += 1.0
    return layer


def _elastic(layer: nn.Module) -> ElasticConv:
    assert isinstance(layer, ElasticConv)
    return layer
