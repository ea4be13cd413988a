from __future__ import annotations

import pickle
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from evo_agd.errors import InputError
from evo_agd.train.images import Photo, read_photo
from evo_agd.train.pairs import CropSampler, Pair, Stored, to_tensor
from evo_agd.train.sources import bundled_photos
from tests.conftest import photograph


def pair(height: int, width: int, seed: int) -> Pair:
    low = photograph(height, width, seed)
    high = low.repeat(4, axis=0).repeat(4, axis=1)
    return Pair(f"{seed}", low, high, high[:, :, ::-1].copy())


def kept(folder: Path, photo: Photo, name: str) -> Stored:
    path = folder / f"{name}.npy"
    np.save(path, photo)
    return Stored.at(path)


def test_bundled_photographs_are_there_and_kept_apart() -> None:
    train = bundled_photos(validation=False)
    validation = bundled_photos(validation=True)
    assert not set(train) & set(validation)
    for path in (*train, *validation):
        assert min(read_photo(path).shape[:2]) >= 96


def test_crops_stay_aligned_and_depend_on_the_key_only() -> None:
    low = photograph(20, 26, 5)
    high = low.repeat(4, axis=0).repeat(4, axis=1)
    sampler = CropSampler([Pair("x", low, high, high)], batch=6, crop=8, seed=1)
    small, large, teacher = sampler.draw(7)
    assert small.shape == (6, 3, 8, 8) and large.shape == (6, 3, 32, 32)
    assert (large[:, :, ::4, ::4] == small).all() and (teacher == large).all()
    again = CropSampler([Pair("x", low, high, high)], batch=6, crop=8, seed=1).draw(7)[0]
    assert (again == small).all()
    assert not (sampler.draw(8)[0] == small).all()


def test_what_is_drawn_is_what_was_always_drawn() -> None:
    pairs = [pair(20, 26, 0), pair(31, 18, 1)]
    rng = np.random.default_rng([3, 5, 9])
    area = np.array([20 * 26, 31 * 18])
    expected = []
    for index in rng.choice(2, 12, p=area / area.sum()):
        low = pairs[index].low
        top, left = (int(rng.integers(side - 8 + 1)) for side in low.shape[:2])
        turns, flip = rng.integers(4), rng.integers(2)
        crop = np.rot90(low[top : top + 8, left : left + 8], turns)
        expected.append(crop[:, ::-1] if flip else crop)
    drawn = CropSampler(pairs, batch=12, crop=8, seed=3).draw(5, 9)[0]
    assert torch.equal(drawn, to_tensor(expected))


@pytest.mark.parametrize("upright", [False, True])
def test_crops_of_stored_pictures_are_those_of_arrays(tmp_path: Path, upright: bool) -> None:
    arrays = [pair(20, 26, 0), pair(31, 18, 1), pair(9, 40, 2)]
    arrays.append(replace(arrays[0], high=arrays[0].teacher))  # no truth but the teacher's
    stored = []
    for index, one in enumerate(arrays):
        low, high, teacher = (
            kept(tmp_path, np.asarray(getattr(one, part)), f"{index}{part}")
            for part in ("low", "high", "teacher")
        )
        stored.append(Pair(one.name, low, teacher if one.high is one.teacher else high, teacher))
    samplers = [CropSampler(p, 6, 8, seed=4, upright=upright) for p in (arrays, stored)]
    for step in range(4):
        for one, other in zip(samplers[0].draw(step), samplers[1].draw(step), strict=True):
            assert torch.equal(one, other)


def test_upright_crops_are_only_flipped() -> None:
    ramp = np.broadcast_to(np.arange(40, dtype=np.uint8)[:, None, None], (40, 40, 3))
    columns = ramp.transpose(1, 0, 2)
    down, across = (
        CropSampler([Pair("x", p, p, p)], 32, 8, 0, upright=True).draw(1)[0]
        for p in (ramp, columns)
    )
    assert (down.diff(dim=2) > 0).all() and (down.diff(dim=3) == 0).all()
    rightwards = (across.diff(dim=3) > 0).all(dim=(1, 2, 3))
    leftwards = (across.diff(dim=3) < 0).all(dim=(1, 2, 3))
    assert (rightwards | leftwards).all() and rightwards.any() and leftwards.any()


def test_stored_pictures_are_read_in_parts_and_leave_no_file_open(tmp_path: Path) -> None:
    photo = photograph(20, 26, 5)
    stored = pickle.loads(pickle.dumps(kept(tmp_path, photo, "x")))
    assert stored.shape == photo.shape
    before = len(list(Path("/proc/self/fd").iterdir())) if Path("/proc/self/fd").exists() else 0
    crops = [stored[row : row + 4, 3:9] for row in range(10)]
    assert all(np.array_equal(crop, photo[i : i + 4, 3:9]) for i, crop in enumerate(crops))
    assert all(type(crop) is np.ndarray and crop.base is None for crop in crops)
    assert np.array_equal(np.asarray(stored), photo)
    assert np.array_equal(np.asarray(stored, dtype=np.float32), photo)
    if before:
        assert len(list(Path("/proc/self/fd").iterdir())) == before
    assert torch.equal(to_tensor([stored]), to_tensor([photo]))


def test_what_is_no_stored_picture_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.npy"
    for content in (b"", b"no array"):
        path.write_bytes(content)
        with pytest.raises(InputError, match=r"x\.npy: expected a picture of this run"):
            Stored.at(path)
    np.save(path, photograph(8, 8, 0))
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(InputError, match="a picture of this run"):
        Stored.at(path)
    for other in (np.zeros((8, 8, 3)), np.zeros((8, 8), np.uint8), np.zeros((8, 8, 3), "u1", "F")):
        np.save(path, other)
        with pytest.raises(InputError, match="a picture of this run, found something else"):
            Stored.at(path)
    stored = kept(tmp_path, photograph(8, 8, 0), "x")
    for content in (b"", path.read_bytes()[:100]):
        path.write_bytes(content)
        with pytest.raises(InputError, match="a picture of this run"):
            stored[:4]
    path.unlink()
    with pytest.raises(InputError, match="a picture of this run"):
        stored[:4]
