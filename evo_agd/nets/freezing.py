"""Instance norm frozen: what a translation has to lose before INT8 is worth it.

Instance norm (Ulyanov et al., 2016) takes mean and variance from the picture that it sees. Integer
kernels know no such layer: each one costs a way out of INT8 and back, and the ranges in front of
it are as wide as the widest channel's. With means and variances that are the same for every
picture, as batch norm has them when it is used (Ioffe and Szegedy, ICML 2015), it is one factor and
one bias a channel and folds into the convolution. The network then has to learn to do without: it
is trained on after freezing.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor, nn

from evo_agd.nets.elastic import ElasticConv, ElasticTransposed
from evo_agd.nets.norm import EPSILON
from evo_agd.nets.translation import TranslationStudent


def frozen(net: TranslationStudent, pictures: Tensor) -> TranslationStudent:
    """The network with biases in place of norms, whose statistics are those of some pictures.

    Args:
        net: with instance norm; it is left as it is.
        pictures: (N, 3, H, W) in 0..1, sides divisible by 4.
    """
    child = TranslationStudent(replace(net.architecture, frozen=True))
    child.load_state_dict(net.state_dict(), strict=False)  # all but the biases, which are new
    statistics: dict[str, tuple[Tensor, Tensor]] = {}

    def watch(name: str, module: nn.Module) -> None:
        def keep(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            output = output.double()
            mean = output.mean(dim=(0, 2, 3))
            # The mean of pictures' variances, not the variance of all: what the norms divided by.
            variance = output.var(dim=(2, 3), correction=0).mean(dim=0)
            statistics[name] = mean.float(), variance.float()

        handles.append(module.register_forward_hook(keep))

    handles: list[torch.utils.hooks.RemovableHandle] = []
    for name, module in net.named_modules():
        if isinstance(module, ElasticConv | ElasticTransposed) and module is not net.last:
            watch(name, module)
    try:
        with torch.no_grad():
            net(pictures)
    finally:
        for handle in handles:
            handle.remove()
    modules = dict(child.named_modules())
    with torch.no_grad():
        for name, (mean, variance) in statistics.items():
            module = modules[name]
            assert isinstance(module, ElasticConv | ElasticTransposed) and module.bias is not None
            rate = torch.rsqrt(variance + EPSILON)
            outputs = (1, -1, 1, 1) if isinstance(module, ElasticTransposed) else (-1, 1, 1, 1)
            module.weight.mul_(rate.view(outputs))
            module.bias.copy_(-mean * rate)
    return child
