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

    A layer's statistics are of what the layers in front of it give when they are frozen already.
    With those of the network as it was, what each one is off by is amplified by the next: the last
    activations were ten times as large as the first, and 8 bits were not enough for them.

    Args:
        net: with instance norm; it is left as it is.
        pictures: (N, 3, H, W) in 0..1, sides divisible by 4.
    """
    child = TranslationStudent(replace(net.architecture, frozen=True)).to(pictures.device)
    child.load_state_dict(net.state_dict(), strict=False)  # all but the biases, which are new

    def freeze(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor:
        assert isinstance(module, ElasticConv | ElasticTransposed) and module.bias is not None
        mean = output.mean(dim=(0, 2, 3), dtype=torch.float32)
        variance = output.var(dim=(0, 2, 3), correction=0)
        rate = torch.rsqrt(variance + EPSILON)
        outputs = (1, -1, 1, 1) if isinstance(module, ElasticTransposed) else (-1, 1, 1, 1)
        module.weight.mul_(rate.view(outputs))
        module.bias.copy_(-mean * rate)
        return (output - mean.view(1, -1, 1, 1)) * rate.view(1, -1, 1, 1)

    handles = [
        module.register_forward_hook(freeze)
        for module in child.modules()
        if isinstance(module, ElasticConv | ElasticTransposed) and module is not child.last
    ]
    with torch.no_grad():
        child(pictures)
    for handle in handles:
        handle.remove()
    return child
