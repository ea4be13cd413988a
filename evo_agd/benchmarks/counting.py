"""What a built network computes, counted on torch's meta device: shapes only, no arithmetic."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode

from evo_agd.config import load
from evo_agd.nets.build import Space, space_of

LEAKY_RELUS = ("aten::leaky_relu", "aten::leaky_relu_")
# What no cost depends on; files that others extend name neither.
UNUSED = ("teacher=bundled", "data.train=.")


@dataclass(frozen=True)
class Count:
    """What one forward pass of a network takes.

    Attributes:
        macs: multiply-accumulates of the convolutions, transposed ones on their input's grid,
            which are the multiplications that they do.
        output_grid_macs: the same with transposed ones on their output's grid, as thop and most
            papers count.
        bias_additions: one for each value that a convolution with a bias puts out.
        leaky_relus: one for each value that goes through a LeakyReLU.
        params: weights and biases.
    """

    macs: int
    output_grid_macs: int
    bias_additions: int
    leaky_relus: int
    params: int

    @property
    def with_extras(self) -> int:
        """As some versions of thop count: biases and LeakyReLUs beside the convolutions."""
        return self.output_grid_macs + self.bias_additions + self.leaky_relus


class _Counter(TorchDispatchMode):
    """Sees every operation that torch executes, whichever module or function it comes from."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.macs = self.output_grid_macs = self.bias_additions = self.leaky_relus = 0

    def __torch_dispatch__(
        self,
        func: Any,
        types: Sequence[type],
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        output = func(*args, **(kwargs or {}))
        name = func._schema.name
        if name == "aten::convolution":
            self._convolution(args, output)
        elif name in LEAKY_RELUS:
            self.leaky_relus += output.numel()
        return output

    def _convolution(self, args: tuple[Any, ...], output: Tensor) -> None:
        x, weight, bias, transposed = args[0], args[1], args[2], args[6]
        # Each weight works once at every place of the grid: all channels of a grid share it.
        wide = weight.numel() * (output.numel() // output.shape[1])
        self.output_grid_macs += wide
        self.macs += weight.numel() * (x.numel() // x.shape[1]) if transposed else wide
        if bias is not None:
            self.bias_additions += output.numel()


def count(build: Callable[[], nn.Module], shape: Sequence[int]) -> Count:
    """Count a network that ``build`` makes, for one input of this shape (N, C, H, W)."""
    with torch.device("meta"), torch.no_grad():
        net = build().eval()
        x = torch.empty(*shape)
        with _Counter() as counter:
            net(x)
    return Count(
        counter.macs,
        counter.output_grid_macs,
        counter.bias_additions,
        counter.leaky_relus,
        sum(p.numel() for p in net.parameters()),
    )


def open_space(path: Path) -> Space:
    """The space in a search-space file, whatever teacher and data it names or lacks.

    Raises:
        InputError: with file, line and key.
    """
    return space_of(load(path, UNUSED))
