from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evo_agd.errors import InputError
from evo_agd.train.images import downscale, list_photos, read_photo, upscale
from evo_agd.train.pairs import BUNDLED, CropSampler, Pair, photo_paths, read_inputs
from tests.conftest import photograph


@pytest.mark.parametrize("mode", ["L", "P", "RGBA", "CMYK", "1"])
def test_any_kind_of_image_becomes_rgb(tmp_path: Path, mode: str) -> None:
    path = tmp_path / ("image.tiff" if mode == "CMYK" else "image.png")
    Image.fromarray(photograph(12, 15, 0)).convert(mode).save(path)
    assert read_photo(path).shape == (12, 15, 3)


def test_exif_orientation_is_honoured(tmp_path: Path) -> None:
    image = Image.fromarray(photograph(12, 15, 0))
    exif = image.getexif()
    exif[274] = 6
    image.save(tmp_path / "turned.jpg", exif=exif)
    assert read_photo(tmp_path / "turned.jpg").shape == (15, 12, 3)


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    (tmp_path / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing behind it")
    with pytest.raises(InputError, match=r"broken\.png: expected a readable image"):
        read_photo(tmp_path / "broken.png")


def test_folders_without_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        list_photos(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("hello")
    with pytest.raises(InputError, match="found none"):
        list_photos(tmp_path)


def test_a_photograph_smaller_than_a_crop_is_refused(world: Path) -> None:
    with pytest.raises(InputError, match="at least 96x96 pixels, found 72x64"):
        read_inputs([world / "photos/0.png"], 4, 24)
    with pytest.raises(InputError, match="at least 128x128 pixels"):
        read_inputs([world / "photos/0.png"], 4, 16, unpaired_shrink=(2, 8))


def test_bundled_photographs_are_there_and_kept_apart() -> None:
    train = photo_paths(BUNDLED, validation=False)
    validation = photo_paths(BUNDLED, validation=True)
    assert not set(train) & set(validation)
    for path in (*train, *validation):
        assert min(read_photo(path).shape[:2]) >= 96


def test_resizing_keeps_a_flat_image_flat_and_returns_to_its_size() -> None:
    flat = np.full((24, 32, 3), 77, np.uint8)
    assert (downscale(flat, 4) == 77).all() and (upscale(downscale(flat, 4), 4) == flat).all()


def test_unpaired_inputs_have_no_truth_but_the_teachers(world: Path) -> None:
    inputs = read_inputs([world / "photos/0.png"], 4, 8, unpaired_shrink=(2,))
    assert [(low.shape, high is None) for _, low, high in inputs] == [
        ((16, 18, 3), False),
        ((32, 36, 3), True),
    ]


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
