from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
import torchvision
from safetensors.torch import save_file

from evo_agd.config import load
from evo_agd.deploy.measures import (
    SuperResolutionMeasures,
    TranslationMeasures,
    judging_backbones,
)
from evo_agd.train.features import Backbone, load_backbone
from evo_agd.train.judges import class_share, frechet_distance, pooled_features
from evo_agd.train.pairs import Pair
from tests.conftest import ROOT, photograph


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Backbone:
    path = tmp_path_factory.mktemp("weights") / "squeezenet.safetensors"
    torch.manual_seed(0)
    save_file(torchvision.models.squeezenet1_1(weights=None).state_dict(), path)
    return load_backbone("squeezenet1_1", str(path))


def pairs() -> list[Pair]:
    found = []
    for seed in range(3):
        low, taught = photograph(40, 44, seed), photograph(40, 44, seed + 10)
        found.append(Pair(str(seed), low, taught, taught))
    return found


def test_a_translation_is_measured_against_teacher_and_target(backbone: Backbone) -> None:
    target = [photograph(40, 44, seed + 20) for seed in range(4)]
    measures = TranslationMeasures(pairs(), target, backbone=backbone, target_class=7)
    teacher = [np.asarray(p.teacher) for p in pairs()]
    perfect = measures.of(teacher)
    assert perfect["l1"] == 0 and perfect["psnr"] == 100 and perfect["perceptual"] == 0
    references = measures.references()
    assert perfect["frechet"] == pytest.approx(references["frechet_teacher"])
    assert references["features"] == backbone.name
    assert references["class_share_target"] == class_share(target, backbone, 7)
    halves = [photo // 2 for photo in teacher]
    found = measures.of(halves)
    assert found["l1"] == pytest.approx(
        np.mean([np.abs(t / 255 - h / 255).mean() for t, h in zip(teacher, halves, strict=True)])
    )
    assert found["class_share"] == class_share(halves, backbone, 7)
    features = pooled_features(target, backbone)
    assert found["frechet"] == frechet_distance(pooled_features(halves, backbone), features)


def test_without_a_backbone_only_distances_are_told() -> None:
    measures = TranslationMeasures(pairs(), [], backbone=None, target_class=None)
    assert set(measures.of([p.low for p in pairs()])) == {"psnr", "l1"}
    assert measures.references() == {}


def test_only_inception_features_are_called_fid(backbone: Backbone) -> None:
    measures = TranslationMeasures(pairs(), [photograph(40, 44, 1)] * 2, backbone=backbone)
    assert "fid" not in measures.of([p.low for p in pairs()])
    measures = TranslationMeasures(
        pairs(), [photograph(40, 44, 1)] * 2, backbone=backbone, inception=backbone
    )
    assert "fid" in measures.of([p.low for p in pairs()])


def test_nothing_is_loaded_for_figures_that_nobody_asked_for(tmp_path: Path) -> None:
    assert judging_backbones(load()) == (None, None)
    space = ROOT / "search_spaces/agd_cyclegan.yaml"
    plain = ["losses.perceptual=0", "losses.gram=0", "features.weights=null"]
    assert judging_backbones(load(space, plain)) == (None, None)


def test_super_resolution_is_measured_beside_bicubic() -> None:
    high = photograph(64, 80, 3)
    pair = Pair("x", high[::4, ::4].copy(), high, high)
    measures = SuperResolutionMeasures([pair])
    assert measures.of([high]) == {"psnr": 100.0, "ssim": pytest.approx(1.0)}
    references = measures.references()
    assert references["psnr_teacher"] == 100.0 and references["psnr_bicubic"] < 40
