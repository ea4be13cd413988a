"""Pictures from files and back into them, with what a network does not see: alpha, ICC, EXIF."""

from __future__ import annotations

import io
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageCms, ImageOps
from scipy.ndimage import distance_transform_edt

from evo_agd.files import writing
from evo_agd.train.images import Photo, opened, scaled

QUALITY = 95  # of JPEG and WebP
ENDINGS = {"png": ".png", "jpeg": ".jpg", "webp": ".webp", "tiff": ".tif"}
SUFFIXES = {
    "png": {".png"},
    "jpeg": {".jpg", ".jpeg"},
    "webp": {".webp"},
    "tiff": {".tif", ".tiff"},
}
OPTIONS: dict[str, dict[str, Any]] = {
    "png": {},
    "jpeg": {"quality": QUALITY, "subsampling": 0},
    "webp": {"quality": QUALITY},
    "tiff": {"compression": "tiff_adobe_deflate"},
}
LARGEST = {"jpeg": 65535, "webp": 16383}  # pixels a side
KINDS = {"PNG": "png", "JPEG": "jpeg", "MPO": "jpeg", "WEBP": "webp", "TIFF": "tiff"}

# What EXIF of a TIFF says of the picture; its other tags say where the file has its pixels.
ABOUT = (
    ExifTags.Base.ImageDescription,
    ExifTags.Base.Make,
    ExifTags.Base.Model,
    ExifTags.Base.Software,
    ExifTags.Base.DateTime,
    ExifTags.Base.Artist,
    ExifTags.Base.Copyright,
)
PARTS = (ExifTags.IFD.Exif, ExifTags.IFD.GPSInfo)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Picture:
    """A picture as a network takes it, and what belongs to it beside.

    ``colour`` is (h, w, 3) RGB, of a grey one three times the same; ``alpha`` (h, w).
    """

    colour: Photo
    grey: bool = False
    alpha: NDArray[np.uint8] | None = None
    icc: bytes | None = None
    exif: Image.Exif | None = None


# Reading


def kind_of(path: Path) -> str | None:
    """``png``, ``jpeg``, ``webp`` or ``tiff`` by the file's content; None for other pictures.

    Raises:
        InputError: not a picture.
    """
    with opened(path) as image:
        return KINDS.get(image.format or "")


def read_picture(path: Path) -> Picture:
    """Decode a picture, upright; of several frames the first.

    Palettes become RGB, with their transparency alpha; CMYK becomes sRGB by its profile, and 16
    bits a channel become 8. What is lost is logged as a warning.

    Raises:
        InputError: the file is not an image that Pillow can decode, or is not whole.
    """
    with opened(path) as image:
        frames: int = getattr(image, "n_frames", 1)
        if frames > 1 and image.format != "MPO":  # of a photograph in several sizes
            log.warning("%s: only the first of %d frames is taken", path, frames)
        deep = _is_deep(image)
        exif = _exif(image)
        upright = ImageOps.exif_transpose(image)
        icc: bytes | None = upright.info.get("icc_profile")
        if deep:
            log.warning("%s: 16 bits a channel become 8", path)
        if upright.mode == "CMYK":
            log.warning("%s: CMYK becomes sRGB", path)
            upright, icc = _from_cmyk(upright, icc), None
        elif upright.mode in ("I", "F") or upright.mode.startswith("I;"):
            upright = scaled(upright)
        grey = upright.mode in ("1", "L", "LA", "La")
        alpha = None
        if upright.has_transparency_data:
            upright = upright.convert("LA" if grey else "RGBA")
            alpha = np.asarray(upright.getchannel("A"))
        colour = np.asarray(upright.convert("RGB"))
    if alpha is not None:
        colour = _under_transparency(colour, alpha)
    if icc is not None and (icc[16:20] == b"GRAY") != grey:
        icc = None  # of a grey profile, colours make no sense, nor the other way round
    return Picture(colour, grey, alpha, icc, exif)


def _is_deep(image: Image.Image) -> bool:
    """Whether there are more than 8 bits a channel; Pillow says so only in how it decodes."""
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        return True
    return any(";16" in str(part.args) for part in getattr(image, "tile", ()))


def _from_cmyk(image: Image.Image, icc: bytes | None) -> Image.Image:
    if icc is not None:
        try:
            source = ImageCms.ImageCmsProfile(io.BytesIO(icc))
            target = ImageCms.createProfile("sRGB")
            converted = ImageCms.profileToProfile(image, source, target, outputMode="RGB")
        except (OSError, ImageCms.PyCMSError):  # not a profile, or not one of CMYK
            converted = None
        if converted is not None:
            return converted
    return image.convert("RGB")


def _exif(image: Image.Image) -> Image.Exif | None:
    """A picture's EXIF without what an upright, larger one makes wrong."""
    found = image.getexif()
    kept, anything = Image.Exif(), False
    tiff = image.format == "TIFF"
    for tag, value in found.items():
        if tag not in (ExifTags.Base.Orientation, *ExifTags.IFD) and (not tiff or tag in ABOUT):
            kept[tag] = value
            anything = True
    for part in PARTS:
        if inside := dict(found.get_ifd(part)):
            kept.get_ifd(part).update(inside)
            anything = True
    return kept if anything else None


def _under_transparency(colour: Photo, alpha: NDArray[np.uint8]) -> Photo:
    """Colour where nothing is seen, from the nearest pixel where something is.

    Most files have black there, and a network would draw it into the edges.
    """
    hidden = alpha == 0
    if not hidden.any() or hidden.all():
        return colour
    rows, columns = distance_transform_edt(hidden, return_distances=False, return_indices=True)
    filled: Photo = colour[rows, columns]
    return filled


# Writing


def write_picture(path: Path, kind: str, canvas: Image.Image, picture: Picture) -> None:
    """Write an answer as a file, whole or not at all.

    Args:
        kind: ``png``, ``jpeg``, ``webp`` or ``tiff``.
        canvas: ``L`` or ``RGB``; alpha is added to it, bicubically enlarged. JPEG has none, there
            transparent places become white.
        picture: what the answer was made of.

    Raises:
        InputError: the folder cannot be written to, or the disk is full.
    """
    if picture.alpha is not None:
        alpha = Image.fromarray(picture.alpha).resize(canvas.size, Image.Resampling.BICUBIC)
        if kind == "jpeg":
            log.warning("%s: JPEG has no transparency, it becomes white", path)
            canvas.paste(255 if canvas.mode == "L" else (255,) * 3, mask=ImageOps.invert(alpha))
        else:
            canvas.putalpha(alpha)
    options = dict(OPTIONS[kind])
    if picture.icc is not None and not (kind == "webp" and picture.grey):  # WebP is always RGB
        options["icc_profile"] = picture.icc
    exif = _sized(picture.exif, canvas)
    if exif is not None:
        options["exif"] = exif
        parts = {part: dict(exif.get_ifd(part)) for part in PARTS}
        if kind == "tiff" and any(parts.values()):
            del options["compression"]  # libtiff, which compresses, writes no EXIF
            exif.update({part: inside for part, inside in parts.items() if inside})
    with writing(path) as file:
        canvas.save(file, kind.upper(), **options)


def _sized(exif: Image.Exif | None, canvas: Image.Image) -> Image.Exif | None:
    """EXIF that gives the canvas's size where it gives one."""
    if exif is not None:
        inside = exif.get_ifd(ExifTags.IFD.Exif)
        sides = (ExifTags.Base.ExifImageWidth, ExifTags.Base.ExifImageHeight)
        for tag, side in zip(sides, canvas.size, strict=True):
            if tag in inside:
                inside[tag] = side
    return exif
