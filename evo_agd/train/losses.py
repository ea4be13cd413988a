"""The distillation losses: how far a network's output is from its teacher's and from the truth."""

from __future__ import annotations

import functools
import warnings
from collections.abc import Mapping, Sequence
from typing import Self

import torch
from torch import Tensor, nn

from evo_agd.train.features import SMALLEST, Backbone, fill, read_weights
from evo_agd.train.loop import mixed

TEACHER_TERMS = ("teacher_l1", "teacher_l2", "lpips", "perceptual", "gram", "frequency")
TRUTH_TERMS = ("truth_l1", "truth_l2")
OTHER = ("total_variation",)
BACKBONE_TERMS = frozenset({"perceptual", "gram"})
# What the paper calls its networks, and torchvision.
LPIPS_NETS = {"squeeze": "squeezenet1_1", "alex": "alexnet", "vgg": "vgg16"}
# Below any feature that means something; a map that is zero everywhere divides by it.
TINY = 1e-8


class DistillationLoss(nn.Module):
    """A weighted sum of distances. Pictures are (N, 3, H, W) in 0..1, distances means over them.

    ``teacher_l1``, ``teacher_l2``, ``truth_l1``, ``truth_l2``: mean absolute or squared difference
    to the teacher's output or to the truth, 0..1. ``frequency``: :func:`frequency_difference` to
    the teacher. ``lpips``: LPIPS to the teacher (Zhang et al., CVPR 2018). ``perceptual`` and
    ``gram``: :func:`perceptual_difference` and :func:`gram_difference` of a backbone's features to
    those of the teacher's output, about 0..1. ``total_variation``: of the output alone.

    Only terms with a weight above 0 are computed. It can be copied and pickled, and stays in
    evaluation mode.

    Args:
        weights: by the names in ``TEACHER_TERMS``, ``TRUTH_TERMS`` and ``OTHER``.
        backbone: what ``perceptual`` and ``gram`` look through; kept without its classifier.
        lpips: what :func:`load_lpips` returned.
        bf16: run the backbone under BF16 autocast. LPIPS stays in FP32.

    Raises:
        ValueError: an unknown name, a negative weight, none above 0, or a term without the network
            that it needs.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        *,
        backbone: Backbone | None = None,
        lpips: nn.Module | None = None,
        bf16: bool = False,
    ) -> None:
        super().__init__()
        names = (*TEACHER_TERMS, *TRUTH_TERMS, *OTHER)
        if unknown := sorted(set(weights) - set(names)):
            raise ValueError(f"expected losses among {', '.join(names)}, found {unknown}")
        if not all(weight >= 0 for weight in weights.values()):
            raise ValueError(f"expected weights of 0 or more, found {dict(weights)}")
        # In the order of the names, so that the sum does not depend on that of the mapping.
        self.weights = {name: weights[name] for name in names if weights.get(name, 0) > 0}
        if not self.weights:
            raise ValueError("expected a loss with a weight above 0, found none")
        looks = not BACKBONE_TERMS.isdisjoint(self.weights)
        if looks and backbone is None:
            raise ValueError("the losses perceptual and gram need a backbone")
        if "lpips" in self.weights and lpips is None:
            raise ValueError("the loss lpips needs its network")
        self.backbone = backbone.headless() if looks and backbone is not None else None
        self.lpips = lpips if "lpips" in self.weights else None
        self.bf16 = bf16
        self.train(False)

    @property
    def smallest(self) -> int:
        """The shortest side of a picture, in pixels, that all terms can be computed for."""
        sides = [2]
        if self.backbone is not None:
            sides.append(self.backbone.smallest)
        if self.lpips is not None:
            sides.append(SMALLEST[LPIPS_NETS[str(self.lpips.pnet_type)]])
        return max(sides)

    @property
    def only_l1(self) -> bool:
        """Whether :meth:`to_teacher` is nothing but the mean absolute difference."""
        return set(self._teacher_weights) == {"teacher_l1"}

    @property
    def _teacher_weights(self) -> dict[str, float]:
        """The terms that look at the teacher, or L1 if there are none."""
        weights = {k: v for k, v in self.weights.items() if k in TEACHER_TERMS}
        return weights or {"teacher_l1": 1.0}

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode: LPIPS has dropout inside."""
        return super().train(False)

    def forward(self, output: Tensor, truth: Tensor, teacher: Tensor) -> Tensor:
        """The weighted sum, an FP32 scalar; ``truth`` may be ``teacher`` where there is none.

        Raises:
            ValueError: pictures smaller than the backbone can look at.
        """
        terms = self._terms(tuple(self.weights), output.float(), truth, teacher)
        return functools.reduce(torch.add, [self.weights[k] * terms[k] for k in terms])

    def to_teacher(self, output: Tensor, teacher: Tensor) -> Tensor:
        """The weighted mean of the terms that look at the teacher, or L1 if there are none.

        This is the search objective ``distillation_loss``: an FP32 scalar, about 0..1.

        Raises:
            ValueError: pictures smaller than the backbone can look at.
        """
        weights = self._teacher_weights
        terms = self._terms(tuple(weights), output.float(), teacher, teacher)
        total = sum(weights.values())
        # Shares, not sums: that of a single term is exactly 1.
        return functools.reduce(torch.add, [weights[k] / total * terms[k] for k in terms])

    def _terms(
        self, names: Sequence[str], output: Tensor, truth: Tensor, teacher: Tensor
    ) -> dict[str, Tensor]:
        ours: list[Tensor] = []
        theirs: list[Tensor] = []
        if self.backbone is not None and not BACKBONE_TERMS.isdisjoint(names):
            with mixed(self.bf16):
                ours = self.backbone.maps(output)
                with torch.no_grad():
                    theirs = self.backbone.maps(teacher)

        def term(name: str) -> Tensor:
            match name:
                case "teacher_l1":
                    return nn.functional.l1_loss(output, teacher)
                case "teacher_l2":
                    return (output - teacher).square().mean()
                case "truth_l1":
                    return nn.functional.l1_loss(output, truth)
                case "truth_l2":
                    return (output - truth).square().mean()
                case "lpips":
                    assert self.lpips is not None
                    distance: Tensor = self.lpips(output, teacher, normalize=True)
                    return distance.mean()
                case "perceptual":
                    return perceptual_difference(ours, theirs)
                case "gram":
                    return gram_difference(ours, theirs)
                case "frequency":
                    return frequency_difference(output, teacher)
                case _:
                    return total_variation(output)

        return {name: term(name) for name in names}


def perceptual_difference(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Tensor:
    """Mean absolute difference of feature maps, each in units of the batch's mean of ``theirs``.

    A feature reconstruction loss (Johnson et al., ECCV 2016), with L1 and in units of the maps
    themselves so that a weight means the same for every map and every backbone: 0 for equal maps,
    1 for a difference as large as the features are.

    Args:
        ours, theirs: maps (N, C, h, w), one of each for each stage, of any floating type.

    Returns:
        The FP32 mean over maps. The unit is the batch's, not each picture's: in crops of sky or
        sand, whose features are weak, small differences would otherwise weigh most.
    """
    parts = []
    for mine, other in zip(ours, theirs, strict=True):
        mine, other = mine.float(), other.float()
        parts.append((mine - other).abs().mean() / other.abs().mean().clamp_min(TINY))
    return torch.stack(parts).mean()


def gram_difference(ours: Sequence[Tensor], theirs: Sequence[Tensor]) -> Tensor:
    """Distance of the maps' Gram matrices, relative to the Frobenius norm of those of ``theirs``.

    The correlations of features say what the textures are, wherever they lie (Gatys et al., CVPR
    2016). 0 for equal textures, 1 against a picture without features.

    Args:
        ours, theirs: maps (N, C, h, w), one of each for each stage, of any floating type.

    Returns:
        The FP32 mean over maps; norms are the batch's, as in :func:`perceptual_difference`.
    """
    parts = []
    for mine, other in zip(ours, theirs, strict=True):
        known = _gram(other)
        unit = torch.linalg.vector_norm(known).clamp_min(TINY)
        parts.append(torch.linalg.vector_norm(_gram(mine) - known) / unit)
    return torch.stack(parts).mean()


def _gram(maps: Tensor) -> Tensor:
    """Mean products of channels, (N, C, C)."""
    features = maps.float().flatten(2)
    return features @ features.transpose(1, 2) / features[0].numel()


def frequency_difference(output: Tensor, teacher: Tensor) -> Tensor:
    """Mean absolute difference of the orthonormal 2-D Fourier coefficients, a scalar.

    A Fourier space loss (Fuoli et al., ICCV 2021) on the complex coefficients: unlike L1 on pixels
    it weighs each frequency alike, fine texture too. Of the spectrum's two equal halves one counts.
    """
    # The transform is linear: one of the difference instead of the difference of two.
    return torch.fft.rfft2(output - teacher, norm="ortho").abs().mean()


def total_variation(output: Tensor) -> Tensor:
    """Mean absolute difference of neighbouring pixels, 0..1 (Rudin et al., Physica D 1992).

    Anisotropic: the mean of that along rows and that along columns. 0 for a flat picture.
    """
    along_rows = (output[..., 1:] - output[..., :-1]).abs().mean()
    along_columns = (output[..., 1:, :] - output[..., :-1, :]).abs().mean()
    return (along_rows + along_columns) / 2


def load_lpips(net: str, weights: str | None) -> nn.Module:
    """The LPIPS network of its authors' package, version 0.1, frozen; it takes pictures in -1..1.

    Args:
        net: squeeze, alex or vgg.
        weights: its backbone's weights, a file in torchvision's key names; None for torchvision's
            own download. The linear layers come with the package. They were fitted to torchvision's
            weights: with others the distance is no figure to compare with published LPIPS.

    Raises:
        InputError: weights that are missing, do not fit or cannot be downloaded.
        ValueError: another net.
    """
    if net not in LPIPS_NETS:
        raise ValueError(f"expected a net among {', '.join(LPIPS_NETS)}, found {net!r}")
    # Half a second, for those only who ask for this loss.
    from lpips import LPIPS

    state, _ = read_weights(LPIPS_NETS[net], weights)
    # It initialises its backbone at random, which must not move torch's generator for the others.
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.simplefilter("ignore")  # it calls torchvision by arguments of old
        module: nn.Module = LPIPS(net=net, pnet_rand=True, verbose=False)
    # Its slices hold torchvision's layers under torchvision's numbers.
    features = nn.Module()
    for part in module.get_submodule("net").children():
        for number, layer in part.named_children():
            features.add_module(number, layer)
    fill(nn.ModuleDict({"features": features}), state, weights or net, LPIPS_NETS[net])
    return module.requires_grad_(False).eval()
