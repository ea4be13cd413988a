"""How good a translation is: near its teacher, and near the pictures that it should look like."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from evo_agd.train.features import Backbone
from evo_agd.train.images import Photo
from evo_agd.train.losses import perceptual_difference
from evo_agd.train.pairs import to_tensor

BATCH = 8  # pictures that go through a backbone at once


def class_share(photos: Sequence[Photo], backbone: Backbone, index: int) -> float:
    """The share, 0..1, of photographs whose likeliest ImageNet class is ``index``.

    Raises:
        ValueError: no photographs, or a backbone without classes.
    """
    _some(photos)
    with torch.inference_mode():
        called = [backbone.logits(batch).argmax(1) for batch in _batches(photos)]
    return float((torch.cat(called) == index).double().mean())


def pooled_features(photos: Sequence[Photo], backbone: Backbone) -> NDArray[np.float64]:
    """The backbone's pooled features of each photograph, (n, c), in their order.

    Raises:
        ValueError: no photographs.
    """
    _some(photos)
    with torch.inference_mode():
        found = [backbone.pooled(batch) for batch in _batches(photos)]
    features: NDArray[np.float64] = torch.cat(found).double().numpy()
    return features


def frechet_distance(a: NDArray[np.floating], b: NDArray[np.floating]) -> float:
    """Frechet distance (squared, as is usual) of two sets of features taken as Gaussians.

    |mean a - mean b|^2 + tr(A + B - 2 (A B)^1/2) with the covariances A and B (Heusel et al.,
    NeurIPS 2017). It is the FID if the features are InceptionV3's. Few pictures raise it: compare
    figures from equal numbers of pictures only (Chong and Forsyth, CVPR 2020).

    Args:
        a, b: features (n, c) and (m, c).

    Returns:
        The distance in squared units of the features: symmetric, and 0 for equal sets.

    Raises:
        ValueError: fewer than two pictures in a set, or features of different length.
    """
    if min(len(a), len(b)) < 2:
        raise ValueError(f"needs at least 2 pictures on each side, found {len(a)} and {len(b)}")
    if a.shape[1:] != b.shape[1:] or a.ndim != 2:
        raise ValueError(f"features of different length: {a.shape} and {b.shape}")
    x, y = _spread(a), _spread(b)
    # With A = X^T X and B = Y^T Y the eigenvalues of A B, but for zeros, are the squared singular
    # values of X Y^T. So no root of a matrix is taken, which few pictures would leave singular.
    root = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    apart = np.sum((a.mean(0, dtype=np.float64) - b.mean(0, dtype=np.float64)) ** 2)
    return max(0.0, float(apart + np.sum(x**2) + np.sum(y**2) - 2 * root))


def perceptual_distance(
    photos: Sequence[Photo], references: Sequence[Photo], backbone: Backbone
) -> float:
    """Mean of :func:`evo_agd.train.losses.perceptual_difference`, photograph by photograph.

    0 for equal pictures, about 1 for unrelated ones. In spirit an LPIPS, but not one: name it by
    the backbone.

    Raises:
        ValueError: no photographs, not as many references, others in shape, or too small ones.
    """
    _some(photos)
    shapes, others = [p.shape for p in photos], [r.shape for r in references]
    if shapes != others:
        raise ValueError(f"pictures of different shape: {shapes[:3]} and {others[:3]}")
    found = []
    with torch.inference_mode():
        for photo, reference in zip(photos, references, strict=True):
            ours, theirs = (backbone.maps(to_tensor([p])) for p in (photo, reference))
            found.append(float(perceptual_difference(ours, theirs)))
    return float(np.mean(found))


def _spread(features: NDArray[np.floating]) -> NDArray[np.float64]:
    """A matrix X (k, c) with X^T X the covariance of features (n, c), k at most c."""
    centred = np.asarray(features, np.float64) - features.mean(0, dtype=np.float64)
    centred /= np.sqrt(len(features) - 1)
    if len(features) > features.shape[1]:
        centred = np.linalg.qr(centred, mode="r")
    return centred


def _some(photos: Sequence[Photo]) -> None:
    if not len(photos):
        raise ValueError("needs pictures, found none")


def _batches(photos: Sequence[Photo]) -> Iterator[Tensor]:
    """Photographs in their order, (N, 3, H, W) in 0..1, those of equal shape several at once."""
    for _, same in groupby(photos, key=lambda photo: photo.shape):
        group = list(same)
        for first in range(0, len(group), BATCH):
            yield to_tensor(group[first : first + BATCH])
