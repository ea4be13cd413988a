from __future__ import annotations

import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
import tifffile
from PIL import Image, ImageFile

from evo_agd.errors import InputError
from evo_agd.train.images import (
    downscale,
    has_photos,
    list_photos,
    photo_size,
    read_photo,
    upscale,
)
from tests.conftest import photograph

PHOTO = photograph(12, 15, 0)
LOSSLESS = {
    ".png": {},
    ".bmp": {},
    ".webp": {"lossless": True, "exact": True},
    ".tif": {},
    ".TIFF": {"compression": "tiff_lzw"},
}


def write_png_16(path: Path, values: np.ndarray) -> None:
    """A 16-bit PNG, which Pillow writes only in grey; values (h, w) or (h, w, 2 to 4)."""
    height, width = values.shape[:2]
    colour = {1: 0, 2: 4, 3: 2, 4: 6}[values.size // (height * width)]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(kind: bytes, data: bytes) -> bytes:
        end = struct.pack(">I", zlib.crc32(kind + data))
        return struct.pack(">I", len(data)) + kind + data + end

    head = struct.pack(">IIBBBBB", width, height, 16, colour, 0, 0, 0)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    path.write_bytes(b"\x89PNG\r\n\x1a\n" + body)


@pytest.mark.parametrize("suffix", LOSSLESS)
def test_lossless_formats_come_as_they_were_written(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image{suffix}"
    Image.fromarray(PHOTO).save(path, **LOSSLESS[suffix])
    assert np.array_equal(read_photo(path), PHOTO) and photo_size(path) == (12, 15)


def test_jpeg_comes_nearly_as_it_was_written(tmp_path: Path) -> None:
    path = tmp_path / "image.JPG"
    Image.fromarray(PHOTO).save(path, "JPEG", quality=100, subsampling=0)
    assert np.abs(read_photo(path).astype(int) - PHOTO).max() <= 4


@pytest.mark.parametrize("suffix", [".jpg", ".tif"])
def test_cmyk_keeps_its_colours(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image{suffix}"  # in JPEG files inverted, as Adobe has it
    Image.fromarray(PHOTO).convert("CMYK").save(path, quality=100, subsampling=0)
    assert np.abs(read_photo(path).astype(int) - PHOTO).max() <= 8


def test_grey_palette_and_black_and_white_become_rgb(tmp_path: Path) -> None:
    image = Image.fromarray(PHOTO)
    for mode in ("L", "P", "1"):
        image.convert(mode).save(tmp_path / "image.png")
        expected = np.asarray(image.convert(mode).convert("RGB"))
        assert np.array_equal(read_photo(tmp_path / "image.png"), expected)


def test_transparency_leaves_the_colours_alone(tmp_path: Path) -> None:
    alpha = np.random.default_rng(0).integers(0, 256, (12, 15), dtype=np.uint8)
    path = tmp_path / "image.png"
    Image.fromarray(np.dstack([PHOTO, alpha])).save(path)
    assert np.array_equal(read_photo(path), PHOTO)
    grey = PHOTO[..., 0]
    Image.fromarray(np.dstack([grey, alpha])).save(path)
    assert np.array_equal(read_photo(path), grey[..., None].repeat(3, axis=2))
    palette = Image.fromarray(PHOTO).quantize(8)
    for transparency in (3, bytes(range(0, 256, 32))):
        palette.save(path, transparency=transparency)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert np.array_equal(read_photo(path), np.asarray(palette.convert("RGB")))


def test_16_bit_grey_is_scaled_not_clipped(tmp_path: Path) -> None:
    values = np.random.default_rng(1).integers(0, 65536, (12, 15)).astype(np.uint16)
    values[0, :4] = (0, 128, 129, 65535)
    expected = np.rint(values / 257).astype(np.uint8)[..., None].repeat(3, axis=2)
    assert expected[0, :4, 0].tolist() == [0, 0, 1, 255]
    write_png_16(tmp_path / "grey.png", values)
    tifffile.imwrite(tmp_path / "grey.tif", values, photometric="minisblack")
    tifffile.imwrite(tmp_path / "big.tif", values, photometric="minisblack", byteorder=">")
    integers = values.astype(np.int32)
    tifffile.imwrite(tmp_path / "integers.tif", integers, photometric="minisblack")
    for path in list_photos(tmp_path):
        assert np.array_equal(read_photo(path), expected)


def test_16_bit_colour_is_right_to_a_level(tmp_path: Path) -> None:
    values = np.random.default_rng(2).integers(0, 65536, (12, 15, 4)).astype(np.uint16)
    write_png_16(tmp_path / "rgb.png", values[..., :3])
    write_png_16(tmp_path / "rgba.png", values)
    tifffile.imwrite(tmp_path / "rgb.tif", values[..., :3].copy(), photometric="rgb")
    for path in list_photos(tmp_path):
        assert np.abs(read_photo(path) - values[..., :3] / 257).max() <= 1


def test_floats_are_0_to_1_or_0_to_255(tmp_path: Path) -> None:
    path = tmp_path / "float.tif"
    grey = PHOTO[..., 0].astype(np.float32)
    for values in (grey, grey / 255):
        Image.fromarray(values).save(path)
        assert np.array_equal(read_photo(path)[..., 1], PHOTO[..., 0])
    Image.fromarray(np.where(grey > 150, 1.05, -0.05).astype(np.float32)).save(path)
    assert np.array_equal(read_photo(path)[..., 2], np.where(grey > 150, 255, 0))
    for unusual in (-1.0, 60000.0, np.nan, np.inf):
        Image.fromarray(np.full((4, 4), unusual, np.float32)).save(path)
        with pytest.raises(InputError, match=r"float\.tif: expected a readable image, found fl"):
            read_photo(path)


def test_integers_beyond_16_bits_are_refused(tmp_path: Path) -> None:
    for value in (-1, 65536):
        Image.fromarray(np.full((4, 4), value, np.int32)).save(tmp_path / "integer.tif")
        with pytest.raises(InputError, match=r"not in 0\.\.65535"):
            read_photo(tmp_path / "integer.tif")


@pytest.mark.parametrize("suffix", [".png", ".webp", ".tif", ".TIFF", ".jpg"])
def test_exif_orientation_is_honoured(
    tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    flat = PHOTO.transpose(1, 0, 2)
    upright = {
        1: PHOTO,
        2: PHOTO[:, ::-1],
        3: PHOTO[::-1, ::-1],
        4: PHOTO[::-1],
        5: flat,
        6: np.rot90(PHOTO, -1),
        7: flat[::-1, ::-1],
        8: np.rot90(PHOTO),
    }
    for orientation, expected in upright.items():
        image = Image.fromarray(PHOTO)
        exif = image.getexif()
        exif[274] = orientation
        path = tmp_path / f"{orientation}{suffix}"
        image.save(path, exif=exif, **LOSSLESS.get(suffix, {"quality": 100, "subsampling": 0}))
        photo = read_photo(path)
        assert photo.shape == expected.shape
        assert np.abs(photo.astype(int) - expected).max() <= (4 if suffix == ".jpg" else 0)
    monkeypatch.setattr(ImageFile.ImageFile, "load", None)  # the header is all that is read
    for orientation, expected in upright.items():
        assert photo_size(tmp_path / f"{orientation}{suffix}") == expected.shape[:2]


@pytest.mark.parametrize("mode", ["L", "RGBA", "CMYK", "I;16", "F"])
def test_every_kind_of_tiff_is_turned(tmp_path: Path, mode: str) -> None:
    grey = PHOTO[..., 0]
    image = {
        "L": Image.fromarray(grey),
        "I;16": Image.fromarray(grey.astype(np.uint16) * 257),
        "F": Image.fromarray(grey.astype(np.float32)),
    }.get(mode) or Image.fromarray(PHOTO).convert(mode)
    plain = tmp_path / "plain.tif"
    image.save(plain)
    exif = image.getexif()
    exif[274] = 6
    for compression in (None, "tiff_lzw"):
        image.save(tmp_path / "turned.tif", exif=exif, compression=compression)
        turned = read_photo(tmp_path / "turned.tif")
        assert np.array_equal(turned, np.rot90(read_photo(plain), -1))


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "broken.png"
    for content in (b"\x89PNG\r\n\x1a\nnothing behind it", b"hello", b""):
        path.write_bytes(content)
        for read in (read_photo, photo_size):
            with pytest.raises(InputError, match=r"broken\.png: expected a readable image"):
                read(path)
    for read in (read_photo, photo_size):
        with pytest.raises(InputError, match="No such file"):
            read(tmp_path / "nowhere.png")


@pytest.mark.parametrize("suffix", [*LOSSLESS, ".jpg"])
def test_half_an_image_is_refused(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"image{suffix}"
    Image.fromarray(photograph(120, 150, 3)).save(path, **LOSSLESS.get(suffix, {}))
    content = path.read_bytes()
    for share in (0.2, 0.5, 0.9, 0.99):
        path.write_bytes(content[: int(len(content) * share)])
        with (
            warnings.catch_warnings(action="ignore"),
            pytest.raises(InputError, match="expected a readable image"),
        ):
            read_photo(path)


def test_folders_without_images_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        list_photos(tmp_path / "nowhere")
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / "._0001.png").write_bytes(b"what macOS leaves")
    (tmp_path / "folder.png").mkdir()
    with pytest.raises(InputError, match="found none"):
        list_photos(tmp_path)
    assert not has_photos(tmp_path) and not has_photos(tmp_path / "nowhere")
    (tmp_path / "0001.PNG").touch()
    assert has_photos(tmp_path)


def test_resizing_keeps_a_flat_image_flat_and_returns_to_its_size() -> None:
    flat = np.full((24, 32, 3), 77, np.uint8)
    assert (downscale(flat, 4) == 77).all() and (upscale(downscale(flat, 4), 4) == flat).all()
