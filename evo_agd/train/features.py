"""Torchvision's classifiers, frozen: what pictures look like to a network that knows objects."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from http.client import HTTPException
from itertools import pairwise
from pathlib import Path
from typing import Any, Self

import safetensors.torch
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from evo_agd.errors import InputError

INCEPTION = "inception_v3"
# Shortest side in pixels with something left of it in the deepest map.
SMALLEST = {"squeezenet1_1": 17, "vgg16": 16, "vgg19": 16, "alexnet": 31, INCEPTION: 75}
IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))  # mean and deviation of its RGB in 0..1
HALVES = ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5))  # 0..1 to -1..1
TENSORFLOW_CLASSES = 1008  # of the Inception of December 2015, which the FID is defined with


class Backbone(nn.Module):
    """A torchvision classifier, frozen and in evaluation mode for good.

    Pictures are RGB, (N, 3, H, W) in 0..1; the normalisation is inside. Gradients go through it to
    the picture.

    Args:
        architecture: its name in torchvision, a key of ``SMALLEST``.
        name: architecture and weights, to name figures by.
        stages: its layers up to the deepest feature map, one module for each map.
        head: from the deepest map to the logits, where it has one.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(
        self, architecture: str, name: str, stages: Iterable[nn.Module], head: nn.Module | None
    ) -> None:
        super().__init__()
        self.architecture = architecture
        self.name = name
        self.stages = nn.ModuleList(stages)
        self.head = head
        mean, deviation = HALVES if self.is_inception else IMAGENET
        self.register_buffer("mean", torch.tensor(mean).view(1, 3, 1, 1))
        self.register_buffer("deviation", torch.tensor(deviation).view(1, 3, 1, 1))
        self.requires_grad_(False).train(False)
        self.to(memory_format=torch.channels_last)

    @property
    def is_inception(self) -> bool:
        """Whether the Frechet distance of its pooled features may be called FID.

        Published figures are those of TensorFlow's weights; see :func:`load_backbone`.
        """
        return self.architecture == INCEPTION

    @property
    def smallest(self) -> int:
        """The shortest side of a picture, in pixels, that :meth:`maps` can look at."""
        return SMALLEST[self.architecture]

    def train(self, mode: bool = True) -> Self:
        """Stay in evaluation mode, whatever the network is in whose loss this is."""
        return super().train(False)

    def headless(self) -> Backbone:
        """The same weights without the classifying layers, which are most of VGG's 550 MB."""
        return Backbone(self.architecture, self.name, self.stages, None)

    def maps(self, x: Tensor) -> list[Tensor]:
        """Feature maps (N, C, h, w), shallow to deep: what each stage leaves before its pooling.

        They are the outputs of ReLUs (InceptionV3 gives its deepest alone), and BF16 under
        autocast.

        Raises:
            ValueError: a picture smaller than :attr:`smallest`.
        """
        if min(x.shape[-2:]) < self.smallest:
            size = "x".join(str(side) for side in x.shape[-2:])
            raise ValueError(f"{self.name} needs sides of at least {self.smallest}, found {size}")
        x = (x - self.mean) / self.deviation
        x = x.contiguous(memory_format=torch.channels_last)
        found = []
        for stage in self.stages:
            x = stage(x)
            found.append(x)
        return found

    def pooled(self, x: Tensor) -> Tensor:
        """Global average of the deepest map, (N, C).

        Pictures are made 224x224 (299x299 for InceptionV3) first, the size that the networks were
        trained at, so that the features of pictures of different sizes compare.
        """
        return self.maps(self._resized(x))[-1].mean((2, 3))

    def logits(self, x: Tensor) -> Tensor:
        """Scores of the 1000 ImageNet classes, (N, 1000), of the picture made 224x224.

        Raises:
            ValueError: a backbone without its classifying layers.
        """
        if self.head is None:
            raise ValueError(f"{self.name} has no classifying layers")
        logits: Tensor = self.head(self.maps(self._resized(x))[-1])
        return logits

    def _resized(self, x: Tensor) -> Tensor:
        # Bilinear is how the FID's pictures are made 299x299; antialiased, or else shrunken ones
        # are told apart by how they were shrunk (Parmar et al., CVPR 2022).
        side, mode = (299, "bilinear") if self.is_inception else (224, "bicubic")
        # Bicubic overshoots at edges, by what no 8-bit picture could hold.
        return F.interpolate(x, size=(side, side), mode=mode, antialias=True).clamp(0, 1)


def load_backbone(architecture: str, weights: str | None) -> Backbone:
    """A frozen backbone, in FP32 on the CPU.

    Args:
        architecture: squeezenet1_1, vgg16, vgg19, alexnet or inception_v3 (which has no logits).
        weights: a safetensors file or a torch checkpoint in torchvision's key names, None for
            torchvision's own download. For inception_v3 also pytorch-fid's port of TensorFlow's
            weights, known by its 1008 classes: it gets TensorFlow's poolings, and features that
            agree with published FIDs (Heusel et al., NeurIPS 2017).

    Raises:
        InputError: weights that are missing, do not fit or cannot be downloaded.
        ValueError: another architecture.
    """
    if architecture not in SMALLEST:
        known = ", ".join(SMALLEST)
        raise ValueError(f"expected an architecture among {known}, found {architecture!r}")
    state, source = read_weights(architecture, weights)
    # On the meta device nothing is initialised: no time is spent, no random number drawn.
    from torchvision.models import get_model  # two seconds, which scoring workers do without

    with torch.device("meta"):
        if architecture == INCEPTION:
            net = get_model(architecture, weights=None, aux_logits=False, init_weights=False)
            net.avgpool = net.dropout = net.fc = None
        else:
            net = get_model(architecture, weights=None)
    fill(net, state, weights or architecture, architecture)
    name = f"{architecture} ({source})"
    if architecture == INCEPTION:
        blocks = dict(net.named_children())
        bias = state.get("fc.bias")
        if isinstance(bias, Tensor) and bias.numel() == TENSORFLOW_CLASSES:
            blocks = _as_tensorflow(blocks)
        return Backbone(architecture, name, [nn.Sequential(*blocks.values())], None)
    layers = list(net.features)
    cuts = [0, *(i for i, layer in enumerate(layers) if isinstance(layer, nn.MaxPool2d))]
    stages = [nn.Sequential(*layers[a:b]) for a, b in pairwise([*cuts, len(layers)])]
    head = [net.classifier, nn.Flatten()]
    if hasattr(net, "avgpool"):  # all but SqueezeNet, whose classifier ends in it
        # The last pooling has no map after it.
        head = [stages.pop(), net.avgpool, nn.Flatten(), net.classifier]
    return Backbone(architecture, name, stages, nn.Sequential(*head))


def read_weights(architecture: str, weights: str | None) -> tuple[Mapping[str, Any], str]:
    """What a file of weights holds, and the name to call it by.

    Args:
        architecture: its name in torchvision.
        weights: a safetensors file or a torch checkpoint; None for torchvision's own, which are
            downloaded once.

    Raises:
        InputError: no such file, no weights in it, or no download.
    """
    if weights is None:
        from torchvision.models import get_model_weights

        own = get_model_weights(architecture).DEFAULT
        try:
            return own.get_state_dict(progress=False, check_hash=True), f"torchvision {own.name}"
        except (OSError, HTTPException, RuntimeError) as error:
            expected = f"a file of weights for {architecture}, or a network to download them from"
            raise InputError(f"weights of {architecture}", expected, error) from error
    path = Path(weights)
    expected = f"weights of {architecture} (safetensors, or a torch state dict)"
    if not path.is_file():
        raise InputError(path, expected, "no such file")
    try:
        if path.suffix == ".safetensors":
            state = safetensors.torch.load_file(path)
        else:
            state = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # parsing raises whatever it trips over
        raise InputError(path, expected, f"{type(error).__name__}: {error}"[:200]) from error
    if not isinstance(state, Mapping):
        raise InputError(path, expected, type(state).__name__)
    return state, path.name


def fill(net: nn.Module, state: Mapping[str, Any], where: str, architecture: str) -> None:
    """Give a network its weights, as FP32; tensors that it has no use for are left out.

    Raises:
        InputError: a tensor is not in ``state``, or has another shape.
    """
    expected = f"weights of {architecture} in torchvision's key names"
    chosen = {}
    for key, wanted in net.state_dict().items():
        if key.endswith(".num_batches_tracked"):  # of use in training only
            chosen[key] = torch.zeros(())
            continue
        given = state.get(key)
        if not isinstance(given, Tensor):
            raise InputError(where, expected, f"no tensor {key}")
        if given.shape != wanted.shape:
            shapes = f"{tuple(given.shape)} instead of {tuple(wanted.shape)}"
            raise InputError(where, expected, f"{key} of shape {shapes}")
        chosen[key] = given.float()
    net.load_state_dict(chosen, assign=True)


def _as_tensorflow(blocks: dict[str, Any]) -> dict[str, nn.Module]:
    """InceptionV3's blocks with the poolings of the network that the FID is defined with.

    Its mean poolings leave the padding out, and the last block takes a maximum (an error in the
    network that was published, which every FID contains).
    """
    for name, block in blocks.items():
        if name == "Mixed_7c":
            blocks[name] = _MaxPooled(block)
        elif hasattr(block, "branch_pool"):
            block.branch_pool = nn.Sequential(_WithoutPadding(), block.branch_pool)
    return blocks


class _WithoutPadding(nn.Module):
    """A 3x3 mean over pixels and padding (N, C, H, W) as the mean over the pixels alone."""

    def forward(self, pooled: Tensor) -> Tensor:
        return pooled / F.avg_pool2d(torch.ones_like(pooled[:1, :1]), 3, stride=1, padding=1)


class _MaxPooled(nn.Module):
    """An Inception block whose pooling branch, the last, takes the maximum."""

    def __init__(self, block: Any) -> None:
        super().__init__()
        self.block = block

    def forward(self, x: Tensor) -> Tensor:
        largest: Tensor = self.block.branch_pool(F.max_pool2d(x, 3, stride=1, padding=1))
        return torch.cat((self.block(x)[:, : -largest.shape[1]], largest), 1)
