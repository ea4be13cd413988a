"""Photographs: decoding, and the resampling that super-resolution is measured with.

Images are ``uint8`` arrays of shape (height, width, 3), RGB, throughout.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import ExifTags, Image, ImageOps, TiffImagePlugin, UnidentifiedImageError

from evo_agd.errors import InputError

Photo = NDArray[np.uint8]

REACH = 4  # low-resolution pixels; the bicubic kernel sees two
SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff"})
# EXIF orientations that exchange height and width.
SIDEWAYS = frozenset({5, 6, 7, 8})
IMAGE_WIDTH, IMAGE_LENGTH = 256, 257  # TIFF tags


@contextmanager
def opened(path: Path) -> Iterator[Image.Image]:
    """The file with its header read; whatever its decoder trips over is the file's fault."""
    try:
        # A file that Pillow has by its name is mapped into memory, and then the pixels of a TIFF
        # on its side come out shuffled (Pillow 13.0).
        with path.open("rb") as file, Image.open(file) as image:
            yield image
    except MemoryError:
        raise
    except UnidentifiedImageError as error:  # its text is the address of the file object
        raise InputError(path, "a readable image", "no format that Pillow knows") from error
    except Exception as error:  # on torn files decoders raise nearly everything there is
        reason = " ".join(str(error).split()) or type(error).__name__
        raise InputError(path, "a readable image", reason) from error


def scaled(image: Image.Image) -> Image.Image:
    """A picture of 16-bit integers or of floats in 8 bits; Pillow would clip it at 255.

    Raises:
        ValueError: values that belong to no usual range.
    """
    values = np.asarray(image, dtype=np.float32)
    low, top = float(values.min()), float(values.max())
    if image.mode == "F":
        # Floats are 0..1 or 0..255; resampling overshoots a little at edges, no picture by double.
        white = 1.0 if top <= 2 else 255.0
        if not (np.isfinite(values).all() and low >= -white / 10 and top <= 2 * white):
            raise ValueError(f"floats of {low:g} to {top:g}, in neither 0..1 nor 0..255")
    else:
        white = 65535.0
        if low < 0 or top > white:
            raise ValueError(f"integers of {low:g} to {top:g}, not in 0..65535")
    return Image.fromarray(np.clip(np.rint(values * (255 / white)), 0, 255).astype(np.uint8))


def _rgb(image: Image.Image) -> Image.Image:
    """Any mode as 8-bit RGB.

    Transparency is dropped and the colours below it are kept: a network sees no alpha, and no
    background is the right one. Black would put edges into the picture that nobody photographed.
    """
    if image.mode in ("I", "F") or image.mode.startswith("I;"):
        image = scaled(image)
    elif "transparency" in image.info:
        image = image.convert("RGBA")  # straight to RGB, Pillow warns of what it leaves out
    return image.convert("RGB")


def read_photo(path: Path) -> Photo:
    """Decode one image file to 8-bit RGB (height, width, 3), upright (EXIF orientation applied).

    Greyscale, palettes, CMYK, 16 bits a channel and floating point all become 8-bit RGB; 16-bit
    values are divided by 257 (Pillow cuts those of RGB files to their upper 8 bits, which is at
    most one level off). Of a file with several pictures the first is taken.

    Raises:
        InputError: the file is not an image that Pillow can decode, or is not whole.
    """
    with opened(path) as image:
        return np.asarray(_rgb(ImageOps.exif_transpose(image)))


def photo_size(path: Path) -> tuple[int, int]:
    """(height, width) in pixels as :func:`read_photo` would have them, from the header alone.

    (A PNG that has its orientation behind the pixels is taken as it lies.)

    Raises:
        InputError: the file's header is not that of an image.
    """
    with opened(path) as image:
        # The method of the base class: that of PNG would decode the whole file.
        turned = Image.Image.getexif(image).get(ExifTags.Base.Orientation) in SIDEWAYS
        if isinstance(image, TiffImagePlugin.TiffImageFile):  # newer Pillows have turned its size
            tags = image.tag_v2
            width, height = int(tags[IMAGE_WIDTH]), int(tags[IMAGE_LENGTH])
        else:
            width, height = image.size
        return (width, height) if turned else (height, width)


def entries(folder: Path) -> list[Path]:
    """What is in a folder, sorted by name.

    Raises:
        InputError: no such folder, or one that may not be read.
    """
    if not folder.is_dir():
        raise InputError(folder, "a folder of images", "no such folder")
    try:
        return sorted(folder.iterdir())
    except OSError as error:
        raise InputError(folder, "a folder that can be read", error.strerror) from error


def is_photo(path: Path) -> bool:
    """Whether a path is a file with the suffix of an image."""
    # macOS leaves a ._NAME with no picture in it beside each file that it copies.
    return path.suffix.lower() in SUFFIXES and not path.name.startswith("._") and path.is_file()


def has_photos(folder: Path) -> bool:
    """Whether there is such a folder with an image file in it (not further down)."""
    return folder.is_dir() and any(map(is_photo, entries(folder)))


def list_photos(folder: Path) -> list[Path]:
    """The image files of a folder, sorted by name.

    Raises:
        InputError: no such folder, or no image in it.
    """
    found = list(filter(is_photo, entries(folder)))
    if not found:
        kinds = " ".join(sorted(SUFFIXES))
        raise InputError(folder, f"a folder with images ({kinds})", "none")
    return found


def crop_to_multiple(photo: Photo, multiple: int) -> Photo:
    """Cut the right and bottom edges so that both sides are divisible by ``multiple``."""
    height, width = (side // multiple * multiple for side in photo.shape[:2])
    return photo[:height, :width]


def bicubic(photo: Photo, height: int, width: int) -> Photo:
    """Antialiased bicubic resize (a = -0.5) in floating point, rounded once to 8 bits.

    This is MATLAB's ``imresize`` but for the outermost pixels, where the kernel is renormalised;
    :func:`downscale` and :func:`upscale` mirror the picture there as MATLAB does. Set5 x4 comes out
    at 28.43 dB where 28.42 is published.
    """
    channels = [
        np.asarray(
            Image.fromarray(photo[..., c].astype(np.float32)).resize(
                (width, height), Image.Resampling.BICUBIC
            )
        )
        for c in range(3)
    ]
    return np.clip(np.rint(np.stack(channels, axis=-1)), 0, 255).astype(np.uint8)


def _mirrored(photo: Photo, edge: int) -> Photo:
    """With ``edge`` pixels more on each side, as MATLAB's ``imresize`` continues a picture."""
    return np.pad(photo, ((edge, edge), (edge, edge), (0, 0)), mode="symmetric")


def downscale(photo: Photo, scale: int) -> Photo:
    """The low-resolution counterpart of a photograph whose sides are divisible by ``scale``."""
    edge = REACH * scale
    height, width = (side // scale + 2 * REACH for side in photo.shape[:2])
    return bicubic(_mirrored(photo, edge), height, width)[REACH:-REACH, REACH:-REACH]


def upscale(photo: Photo, scale: int) -> Photo:
    """Bicubic enlargement, the baseline that every network has to beat."""
    edge = REACH * scale
    height, width = (side * scale + 2 * edge for side in photo.shape[:2])
    return bicubic(_mirrored(photo, REACH), height, width)[edge:-edge, edge:-edge]
