"""What a student's outputs are measured by: one set of figures a task."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import numpy as np

from evo_agd.config import Settings, TranslationSettings
from evo_agd.train.features import Backbone, load_backbone
from evo_agd.train.images import Photo, upscale
from evo_agd.train.judges import (
    class_share,
    frechet_distance,
    perceptual_distance,
    pooled_features,
)
from evo_agd.train.pairs import Pair
from evo_agd.train.quality import SSIM_WINDOW, psnr, ssim_y


class Measures(Protocol):
    """The figures of one task."""

    def references(self) -> dict[str, Any]:
        """What outputs are compared with: the same for every student."""

    def of(self, outputs: Sequence[Photo]) -> dict[str, float]:
        """Figures of outputs for all validation inputs, in their order."""

    def psnr(self, outputs: Sequence[Photo]) -> float:
        """The one among them that everything is judged by, in dB."""


def mean_psnr(outputs: Sequence[Photo], pairs: Sequence[Pair]) -> float:
    """Mean PSNR in dB, see :func:`evo_agd.train.quality.psnr`."""
    return float(np.mean([psnr(o, p) for o, p in zip(outputs, pairs, strict=True)]))


class SuperResolutionMeasures:
    """Y-PSNR and SSIM to the truth, beside bicubic's and the teacher's.

    Pictures that are too small for SSIM's window have none.
    """

    def __init__(self, pairs: Sequence[Pair]) -> None:
        self.pairs = pairs

    def references(self) -> dict[str, Any]:
        scale = self.pairs[0].high.shape[0] // self.pairs[0].low.shape[0]
        bicubic = [upscale(np.asarray(p.low), scale) for p in self.pairs]
        teacher = [np.asarray(p.teacher) for p in self.pairs]
        return {
            f"{name}_{who}": value
            for who, outputs in (("bicubic", bicubic), ("teacher", teacher))
            for name, value in self.of(outputs).items()
        }

    def of(self, outputs: Sequence[Photo]) -> dict[str, float]:
        scale = self.pairs[0].high.shape[0] // self.pairs[0].low.shape[0]
        found = {"psnr": self.psnr(outputs)}
        truths = [np.asarray(p.high) for p in self.pairs]
        if all(min(t.shape[:2]) - 2 * scale >= SSIM_WINDOW for t in truths):
            alike = [ssim_y(o, t, scale) for o, t in zip(outputs, truths, strict=True)]
            found["ssim"] = float(np.mean(alike))
        return found

    def psnr(self, outputs: Sequence[Photo]) -> float:
        return mean_psnr(outputs, self.pairs)


class TranslationMeasures:
    """Distance to the teacher's outputs; with a backbone also how they look to it.

    Args:
        backbone: classifies and compares; the perceptual and Frechet distances are its own, and
            ``features`` among the references names it.
        inception: with it the Frechet distance is the FID.
        target: photographs of the domain that is aimed at.
        target_class: the ImageNet class that these show.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        target: Sequence[Photo],
        *,
        backbone: Backbone | None,
        inception: Backbone | None = None,
        target_class: int | None = None,
    ) -> None:
        self.pairs = pairs
        self.target = target
        self.backbone = backbone
        self.target_class = target_class
        self.teacher = [np.asarray(p.teacher) for p in pairs]
        self.ruler = inception or backbone
        self.frechet = "frechet" if inception is None else "fid"
        self.target_features = (
            pooled_features(target, self.ruler) if self.ruler and len(target) > 1 else None
        )

    def psnr(self, outputs: Sequence[Photo]) -> float:
        return mean_psnr(outputs, self.pairs)

    def _looks(self, photos: Sequence[Photo]) -> dict[str, float]:
        found = {}
        if self.backbone is not None and self.target_class is not None:
            found["class_share"] = class_share(photos, self.backbone, self.target_class)
        if self.target_features is not None and self.ruler is not None and len(photos) > 1:
            mine = pooled_features(photos, self.ruler)
            found[self.frechet] = frechet_distance(mine, self.target_features)
        return found

    def references(self) -> dict[str, Any]:
        found: dict[str, Any] = {}
        if self.ruler is not None:
            found["features"] = self.ruler.name
        looks = {
            "teacher": self._looks(self.teacher),
            "input": self._looks([np.asarray(p.low) for p in self.pairs]),
        }
        for who, figures in looks.items():
            found |= {f"{name}_{who}": value for name, value in figures.items()}
        if self.backbone is not None and self.target_class is not None and self.target:
            found["class_share_target"] = class_share(self.target, self.backbone, self.target_class)
        return found

    def of(self, outputs: Sequence[Photo]) -> dict[str, float]:
        distances = [
            np.abs(o.astype(np.float64) - t).mean() / 255
            for o, t in zip(outputs, self.teacher, strict=True)
        ]
        found = {"psnr": self.psnr(outputs), "l1": float(np.mean(distances))}
        if self.backbone is not None:
            found["perceptual"] = perceptual_distance(outputs, self.teacher, self.backbone)
        return found | self._looks(outputs)


def judging_backbones(settings: Settings) -> tuple[Backbone | None, Backbone | None]:
    """The backbone and the Inception network that the settings allow to judge a translation.

    Nothing is downloaded for figures that nobody asked for.

    Raises:
        InputError: weights that are not there or do not fit.
    """
    if not isinstance(settings, TranslationSettings):
        return None, None
    losses, judge = settings.losses, settings.judge
    asked = losses.perceptual or losses.gram or settings.features.weights
    backbone = inception = None
    if asked or judge.target_class is not None:
        backbone = load_backbone(settings.features.architecture, settings.features.weights)
    if judge.inception is not None:
        inception = load_backbone("inception_v3", judge.inception)
    return backbone, inception
