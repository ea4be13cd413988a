"""Small worlds for the tests: a tiny space, a tiny teacher, two photographs."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from spandrel.architectures.ESRGAN import ESRGAN

from evo_agd.space.super_resolution import SuperResolutionSpace

ROOT = Path(__file__).parent.parent

# Files that take minutes, the longest first: beside them the others find their place.
LONG = (
    "test_end_to_end.py",
    "test_cluster.py",
    "test_retraining.py",
    "test_workers.py",
    "test_search_spaces.py",
)

if "PYTEST_XDIST_WORKER" in os.environ:  # several of us share the cores
    torch.set_num_threads(1)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Long files first; the order within a file stays."""
    places = {name: place for place, name in enumerate(LONG)}
    items.sort(key=lambda item: places.get(item.path.name, len(LONG)))


TINY = """
task: super_resolution
genes:
  features: [4, 8]
  depth: [1, 2]
  operators: [residual, fused, inverted]
  kernels: [1, 3]
  widths: [4, 8]
  upsamplers: [shuffle, shuffle_twice, nearest]
  upsampler_widths: [4, 6]
teacher: teacher.safetensors
data: {train: photos, validation: photos}
supernet: {steps: 12, warm_up: 3, batch: 2, crop: 8, paths: 2}
search: {population: 6, evaluations: 24}
students: {count: 2, steps: 6, batch: 2, crop: 8}
int8: {calibration: 2, latency_size: 16}
"""


@pytest.fixture(scope="session")
def shared() -> Path:
    """The folder of data sets and weights beside the project."""
    folder = Path(os.environ.get("EVO_AGD_SHARED", ROOT.parent / "shared"))
    if not folder.is_dir():
        pytest.skip(f"needs the data sets in EVO_AGD_SHARED ({folder} is not there)")
    return folder


@pytest.fixture(scope="session")
def tiny_space() -> SuperResolutionSpace:
    return SuperResolutionSpace(
        scale=4,
        input_size=(32, 48),
        features=(4, 8),
        depth=(1, 2),
        operators=("residual", "fused", "inverted", "separable", "gated", "reparameterised"),
        kernels=(1, 3),
        widths=(4, 8),
        upsamplers=("shuffle", "shuffle_twice", "nearest", "esrgan"),
        upsampler_widths=(4, 6),
    )


def photograph(height: int, width: int, seed: int) -> np.ndarray:
    """Something with edges and texture, (height, width, 3) uint8."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    waves = [np.sin(x / rng.uniform(2, 9) + y / rng.uniform(2, 9)) for _ in range(3)]
    edges = ((x // 11 + y // 7) % 2)[..., None] * rng.integers(20, 80, 3)
    picture = 110 + 45 * np.stack(waves, axis=-1) + edges
    return np.clip(picture, 0, 255).astype(np.uint8)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with ``tiny.yaml``, its teacher and its photographs."""
    folder = tmp_path_factory.mktemp("world")
    (folder / "tiny.yaml").write_text(TINY)
    (folder / "photos").mkdir()
    for index, (height, width) in enumerate(((64, 72), (60, 81))):
        Image.fromarray(photograph(height, width, index)).save(folder / f"photos/{index}.png")
    torch.manual_seed(0)
    teacher = ESRGAN(num_filters=4, num_blocks=2)
    save_file(teacher.state_dict(), folder / "teacher.safetensors")
    return folder
