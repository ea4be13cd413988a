from __future__ import annotations

import io
import logging
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import ExifTags, Image, ImageCms

from evo_agd.deploy.picture_files import read_picture, write_picture
from evo_agd.errors import InputError
from tests.conftest import photograph

PHOTO = photograph(12, 16, 1)
SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
WHEN = ExifTags.Base.DateTimeOriginal


def again(path: Path, kind: str, tmp_path: Path, scale: int = 2) -> Image.Image:
    """The file after a network that repeats every pixel."""
    picture = read_picture(path)
    colour = picture.colour.repeat(scale, 0).repeat(scale, 1)
    canvas = Image.fromarray(colour[..., 0] if picture.grey else colour)
    write_picture(tmp_path / "answer", kind, canvas, picture)
    with Image.open(tmp_path / "answer") as image:
        image.load()
        return image


@pytest.mark.parametrize("mode", ["L", "RGB", "LA", "RGBA", "1"])
@pytest.mark.parametrize("kind", ["png", "tiff"])
def test_grey_and_alpha_stay(tmp_path: Path, mode: str, kind: str) -> None:
    source = Image.fromarray(PHOTO).convert("RGBA")
    ramp = np.linspace(40, 255, 16).astype(np.uint8)
    source.putalpha(Image.fromarray(np.tile(ramp, (12, 1))))
    source.convert(mode).save(tmp_path / "x.png")
    found = again(tmp_path / "x.png", kind, tmp_path)
    assert found.mode == ("L" if mode == "1" else mode) and found.size == (32, 24)
    if "A" in mode:
        alpha = np.asarray(found.getchannel("A")).astype(int)
        assert (np.abs(alpha[::2, ::2] - ramp) <= 8).all()  # bicubic, half a pixel aside


def test_black_below_transparency_does_not_get_into_the_picture(tmp_path: Path) -> None:
    pixels = np.full((8, 8, 4), 200, np.uint8)
    pixels[:, :4] = 0
    Image.fromarray(pixels).save(tmp_path / "x.png")
    assert (read_picture(tmp_path / "x.png").colour == 200).all()
    Image.fromarray(pixels * 0).save(tmp_path / "x.png")
    assert (read_picture(tmp_path / "x.png").colour == 0).all()


def test_palettes_become_colours(tmp_path: Path) -> None:
    palette = Image.fromarray(PHOTO).quantize(8)
    palette.save(tmp_path / "plain.png")
    assert again(tmp_path / "plain.png", "png", tmp_path).mode == "RGB"
    palette.save(tmp_path / "clear.png", transparency=3)
    found = again(tmp_path / "clear.png", "png", tmp_path)
    assert found.mode == "RGBA"
    hidden = np.asarray(palette) == 3
    assert (np.asarray(found.getchannel("A").resize((16, 12), 0)) == 0)[hidden].mean() > 0.5


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "tiff"])
def test_pictures_come_upright_with_their_exif(tmp_path: Path, orientation: int, kind: str) -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    exif[ExifTags.Base.Make] = "Camera"
    inside = exif.get_ifd(ExifTags.IFD.Exif)
    inside[WHEN], inside[ExifTags.Base.ExifImageWidth] = "2020:02:02 02:02:02", 16
    exif.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] = "N"
    if kind == "tiff":  # Pillow writes only what is named
        for part in (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo):
            exif[part] = dict(exif.get_ifd(part))
    Image.fromarray(PHOTO).save(tmp_path / "x", kind, exif=exif, lossless=True)
    found = again(tmp_path / "x", kind, tmp_path)
    assert found.size == ((24, 32) if orientation > 4 else (32, 24))
    kept = found.getexif()
    assert kept.get(ExifTags.Base.Orientation, 1) == 1
    assert kept[ExifTags.Base.Make] == "Camera"
    assert kept.get_ifd(ExifTags.IFD.Exif)[WHEN] == "2020:02:02 02:02:02"
    assert kept.get_ifd(ExifTags.IFD.Exif)[ExifTags.Base.ExifImageWidth] == found.width
    assert kept.get_ifd(ExifTags.IFD.GPSInfo)[ExifTags.GPS.GPSLatitudeRef] == "N"
    if orientation == 3 and kind == "png":
        assert (read_picture(tmp_path / "x").colour == PHOTO[::-1, ::-1]).all()


@pytest.mark.parametrize("kind", ["jpeg", "png", "webp", "tiff"])
def test_profiles_stay(tmp_path: Path, kind: str) -> None:
    Image.fromarray(PHOTO).save(tmp_path / "x", kind, icc_profile=SRGB)
    assert again(tmp_path / "x", kind, tmp_path).info["icc_profile"] == SRGB


def test_a_profile_of_other_channels_goes(tmp_path: Path) -> None:
    Image.fromarray(PHOTO).convert("L").save(tmp_path / "x.png", icc_profile=SRGB)
    assert read_picture(tmp_path / "x.png").icc is None


def test_cmyk_becomes_rgb_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    Image.fromarray(PHOTO).convert("CMYK").save(tmp_path / "x.tif", icc_profile=b"nonsense" * 20)
    with caplog.at_level(logging.WARNING):
        picture = read_picture(tmp_path / "x.tif")
    assert "CMYK becomes sRGB" in caplog.text
    assert picture.icc is None and np.abs(picture.colour.astype(int) - PHOTO).max() <= 2


def deep_png(values: np.ndarray) -> bytes:
    """RGB with 16 bits a channel, which Pillow reads but does not write."""
    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)

    def chunk(name: bytes, content: bytes) -> bytes:
        checked = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + checked

    head = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = (b"IHDR", head), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)


def test_16_bits_become_8_with_a_warning(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    (tmp_path / "rgb.png").write_bytes(deep_png(PHOTO.astype(np.uint16) * 257))
    Image.fromarray(PHOTO[..., 0].astype(np.uint16) * 257).save(tmp_path / "grey.png")
    with caplog.at_level(logging.WARNING):
        colour, grey = (read_picture(tmp_path / name) for name in ("rgb.png", "grey.png"))
    assert caplog.text.count("16 bits a channel become 8") == 2
    assert (colour.colour == PHOTO).all() and not colour.grey
    assert (grey.colour == PHOTO[..., :1]).all() and grey.grey


def test_of_frames_the_first_is_taken(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    frames = [Image.fromarray(np.full((8, 8), v, np.uint8)) for v in (10, 200)]
    frames[0].save(tmp_path / "x.gif", save_all=True, append_images=frames[1:])
    with caplog.at_level(logging.WARNING):
        assert (read_picture(tmp_path / "x.gif").colour == 10).all()
    assert "only the first of 2 frames" in caplog.text


def test_jpeg_shows_white_where_nothing_is(tmp_path: Path) -> None:
    pixels = np.full((16, 16, 4), 100, np.uint8)
    pixels[:, :8, 3], pixels[:, 8:, 3] = 0, 255
    Image.fromarray(pixels).save(tmp_path / "x.png")
    found = np.asarray(again(tmp_path / "x.png", "jpeg", tmp_path))
    assert found[:, :12].min() > 245 and abs(int(found[:, 20:].mean()) - 100) <= 2


def test_torn_files_are_told(tmp_path: Path) -> None:
    buffer = io.BytesIO()
    Image.fromarray(photograph(64, 64, 0)).save(buffer, "PNG")
    (tmp_path / "x.png").write_bytes(buffer.getvalue()[:3000])
    with pytest.raises(InputError, match=r"x\.png: expected a readable image"):
        read_picture(tmp_path / "x.png")


def test_an_answer_is_written_whole_or_not_at_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    Image.fromarray(PHOTO).save(tmp_path / "x.png")
    picture = read_picture(tmp_path / "x.png")
    (tmp_path / "y.png").write_bytes(b"old")

    def full(self: Image.Image, file: io.BufferedWriter, *_: object, **__: object) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(Image.Image, "save", full)
        with pytest.raises(InputError, match="No space left"):
            write_picture(tmp_path / "y.png", "png", Image.fromarray(PHOTO), picture)
    assert (tmp_path / "y.png").read_bytes() == b"old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["x.png", "y.png"]
