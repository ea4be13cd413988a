from __future__ import annotations

from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from scipy.linalg import sqrtm
from torchvision.models import get_model

from evo_agd.train.features import Backbone, load_backbone
from evo_agd.train.images import Photo, list_photos, read_photo
from evo_agd.train.judges import (
    class_share,
    frechet_distance,
    perceptual_distance,
    pooled_features,
)
from evo_agd.train.losses import DistillationLoss
from evo_agd.train.pairs import to_tensor
from tests.conftest import photograph

ZEBRA = 340


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    """A SqueezeNet with random weights."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("weights") / "random.pth"
    torch.save(get_model("squeezenet1_1", weights=None).state_dict(), path)
    return load_backbone("squeezenet1_1", str(path))


@pytest.fixture(scope="module")
def photos() -> list[Photo]:
    """Of two sizes, not sorted by them, and more of one than go through a network at once."""
    sizes = [(40, 48)] * 10 + [(48, 40)] * 2 + [(40, 48)]
    return [photograph(*size, seed) for seed, size in enumerate(sizes)]


def textbook(a: NDArray[np.float64], b: NDArray[np.float64]) -> float:
    covariances = np.cov(a, rowvar=False), np.cov(b, rowvar=False)
    root = sqrtm(covariances[0] @ covariances[1]).real
    apart = a.mean(0) - b.mean(0)
    return float(apart @ apart + np.trace(covariances[0] + covariances[1] - 2 * root))


@pytest.mark.parametrize(("n", "m", "c"), [(60, 80, 9), (40, 25, 20), (500, 21, 20), (30, 30, 1)])
def test_frechet_distance_is_the_textbooks(n: int, m: int, c: int) -> None:
    rng = np.random.default_rng(n)
    a = rng.normal(size=(n, c)) @ rng.normal(size=(c, c)) + 3
    b = rng.normal(size=(m, c)) @ rng.normal(size=(c, c))
    if c > 1:
        assert frechet_distance(a, b) == pytest.approx(textbook(a, b), rel=1e-6)
    else:  # (mean - mean)^2 + (deviation - deviation)^2
        expected = (a.mean() - b.mean()) ** 2 + (a.std(ddof=1) - b.std(ddof=1)) ** 2
        assert frechet_distance(a, b) == pytest.approx(expected, rel=1e-9)


def test_frechet_distance_of_known_gaussians() -> None:
    """Samples whose moments are exact: axes of c dimensions, scaled and moved."""
    c = 4
    cross = np.concatenate((np.eye(c), -np.eye(c))) * np.sqrt((2 * c - 1) / 2)  # covariance 1
    assert np.allclose(np.cov(cross, rowvar=False), np.eye(c))
    scales, shift = np.array([1.0, 2, 3, 4]), np.array([0.0, 0, 3, 4])
    found = frechet_distance(cross, cross * scales + shift)
    assert found == pytest.approx(25 + np.sum((scales - 1) ** 2), rel=1e-9)
    large = np.random.default_rng(0).normal(size=(2, 20_000, 3))
    assert frechet_distance(large[0], 2 * large[1] + [1, 0, 0]) == pytest.approx(4, rel=0.03)


@given(st.integers(0, 999), st.integers(2, 12), st.integers(2, 12), st.integers(1, 8))
@settings(deadline=None, max_examples=40)
def test_frechet_distance_is_a_distance(seed: int, n: int, m: int, c: int) -> None:
    """With fewer pictures than features too, where covariances are singular."""
    rng = np.random.default_rng(seed)
    a, b = rng.normal(size=(n, c)), rng.normal(size=(m, c))
    distance = frechet_distance(a, b)
    assert distance >= 0
    assert distance == pytest.approx(frechet_distance(b, a), rel=1e-9, abs=1e-9)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, rng.permutation(a)) == pytest.approx(0, abs=1e-9)
    assert frechet_distance(a, a + 2) == pytest.approx(4 * c)
    assert frechet_distance(3 * a, 3 * b) == pytest.approx(9 * distance, abs=1e-9)


def test_features_without_a_distance_are_refused() -> None:
    two, one = np.ones((2, 3)), np.ones((1, 3))
    for a, b in ((two, one), (one, two)):
        with pytest.raises(ValueError, match="at least 2"):
            frechet_distance(a, b)
    for other in (np.ones((2, 4)), np.ones(2)):
        with pytest.raises(ValueError, match="length"):
            frechet_distance(other, two)


def test_features_keep_the_order_of_the_photographs(
    backbone: Backbone, photos: list[Photo]
) -> None:
    features = pooled_features(photos, backbone)
    assert features.shape == (13, 512)
    for photo, row in zip(photos, features, strict=True):
        np.testing.assert_allclose(pooled_features([photo], backbone)[0], row, rtol=1e-4, atol=1e-4)


def test_class_share_counts(backbone: Backbone, photos: list[Photo]) -> None:
    with torch.inference_mode():
        called = [int(backbone.logits(to_tensor([photo])).argmax()) for photo in photos]
    for index in {*called, 999}:
        expected = called.count(index) / len(photos)
        assert class_share(photos, backbone, index) == pytest.approx(expected)


def test_perceptual_distance_is_the_mean_of_the_loss(
    backbone: Backbone, photos: list[Photo]
) -> None:
    others = [255 - photo for photo in photos]
    term = DistillationLoss({"perceptual": 1.0}, backbone=backbone)
    values = [
        float(term(to_tensor([p]), to_tensor([o]), to_tensor([o])))
        for p, o in zip(photos, others, strict=True)
    ]
    found = perceptual_distance(photos, others, backbone)
    assert found == pytest.approx(np.mean(values), rel=1e-5) and found > 0.05
    assert perceptual_distance(photos, photos, backbone) == 0


def test_nothing_and_unequal_things_are_refused(backbone: Backbone, photos: list[Photo]) -> None:
    for call in (
        lambda: class_share([], backbone, 1),
        lambda: pooled_features([], backbone),
        lambda: perceptual_distance([], [], backbone),
    ):
        with pytest.raises(ValueError, match="found none"):
            call()
    for references in (photos[:1], photos[::-1]):
        with pytest.raises(ValueError, match="different shape"):
            perceptual_distance(photos, references, backbone)


def test_horses_become_zebras(shared: Path) -> None:
    """A few of the figures beside the shared weights."""
    backbone = load_backbone(
        "squeezenet1_1", str(shared / "weights/squeezenet1_1_imagenet.safetensors")
    )
    horses, zebras = (
        [read_photo(p) for p in list_photos(shared / f"data/horse2zebra/test{which}")[:8]]
        for which in "AB"
    )
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(
        shared / "weights/horse2zebra_gan_compression.onnx", options
    )

    def translated(photo: Photo) -> Photo:
        (output,) = session.run(None, {"image": to_tensor([photo]).numpy() * 2 - 1})
        return np.clip(np.rint((output[0].transpose(1, 2, 0) + 1) * 127.5), 0, 255).astype(np.uint8)

    outputs = [translated(photo) for photo in horses]
    assert class_share(horses, backbone, ZEBRA) == 0
    assert class_share(outputs, backbone, ZEBRA) > 0.4
    assert class_share(zebras, backbone, ZEBRA) > 0.7
    targets = pooled_features(zebras, backbone)
    before, after = (
        frechet_distance(pooled_features(photos, backbone), targets) for photos in (horses, outputs)
    )
    assert after < before
