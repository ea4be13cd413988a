"""Which files make up a data set: single folders, and the layouts that the usual ones come in."""

from __future__ import annotations

import hashlib
import logging
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import TypeVar

from evo_agd.config.settings import BUNDLED
from evo_agd.errors import InputError
from evo_agd.train.images import entries, has_photos, list_photos

log = logging.getLogger(__name__)

Item = TypeVar("Item")

# Colour photographs that travel in the wheels of scikit-image and scikit-learn.
BUNDLED_TRAIN = (
    ("skimage.data", "chelsea.png"),
    ("skimage.data", "hubble_deep_field.jpg"),
    ("skimage.data", "motorcycle_left.png"),
    ("skimage.data", "rocket.jpg"),
    ("skimage.data", "ihc.png"),
    ("sklearn.datasets.images", "china.jpg"),
)
BUNDLED_VALIDATION = (
    ("skimage.data", "astronaut.png"),
    ("skimage.data", "coffee.png"),
    ("sklearn.datasets.images", "flower.jpg"),
)

# Folders of high-resolution photographs in BasicSR's data sets, the best first: GTmod12 is GT cut
# to sides divisible by 12, from which the low-resolution pictures were made.
HIGH_FOLDERS = ("GTmod12", "HR", "GT", "original")
LOW_FOLDERS = ("LRbicx{0}", "LR_bicubic/X{0}", "LRx{0}", "LR/X{0}", "LR")
# DIV2K, Flickr2K and DF2K: NAME_HR beside NAME_LR_bicubic/X4.
HIGH_ENDING, LOW_ENDING = "_HR", "_LR_bicubic/X{0}"
SAMPLE = 64 * 1024  # bytes of a file's beginning and end that tell it from others


@dataclass(frozen=True)
class Source:
    """The file, or two files, behind a picture of a data set.

    ``photo`` is the high-resolution photograph of super-resolution, whose low-resolution
    counterpart ``low`` may be given too, or the input of a translation.
    """

    name: str
    photo: Path
    low: Path | None = None

    @property
    def paths(self) -> tuple[Path, ...]:
        """Its files."""
        return (self.photo,) if self.low is None else (self.photo, self.low)


def bundled_photos(*, validation: bool) -> list[Path]:
    """The photographs that need no download.

    Raises:
        InputError: a package without its photographs.
    """
    paths = []
    for package, name in BUNDLED_VALIDATION if validation else BUNDLED_TRAIN:
        path = Path(str(files(package) / name))
        if not path.is_file():
            raise InputError(path, f"the photograph {name} that {package} carries", "no file")
        paths.append(path)
    return paths


def super_resolution_sources(
    folder: str, low: str | None, scale: int, *, validation: bool
) -> list[Source]:
    """The photographs behind a ``data`` setting of super-resolution, sorted by name.

    Args:
        folder: ``bundled``; or a folder of high-resolution photographs, which stand alone whatever
            lies beside the folder; or a folder without images of its own that holds
            ``DIV2K_train_HR`` beside ``DIV2K_train_LR_bicubic/X4`` (likewise ``DIV2K_valid_HR``,
            ``Flickr2K_HR``; ``validation`` picks where both kinds are there) or, as BasicSR has
            them, ``GTmod12``, ``HR``, ``GT`` or ``original`` beside ``LRbicx4``,
            ``LR_bicubic/X4``, ``LRx4``, ``LR/X4`` or ``LR``. Without a low-resolution folder the
            counterparts are left to be made.
        low: a folder of low-resolution counterparts (or with an ``X4`` that has them); goes before
            what is found beside. That of ``0001.png`` is ``0001x4.png``, as DIV2K names it, or
            ``0001.png``, with any suffix of an image.

    Raises:
        InputError: no such folder, nothing recognised in it, or a photograph without counterpart.
    """
    if folder == BUNDLED:
        if low is not None:
            raise InputError(low, "a folder of photographs beside it", f"{BUNDLED} ones")
        photos = bundled_photos(validation=validation)
        return [Source(path.name, path) for path in photos]
    high_folder, low_folder = _high_and_low(Path(folder), scale, validation=validation)
    if low is not None:
        low_folder = Path(low)
        inside = _inside(low_folder, f"X{scale}")
        if inside is not None and not has_photos(low_folder):
            low_folder = inside
    photos = list_photos(high_folder)
    if low_folder is None:
        return [Source(path.name, path) for path in photos]
    log.info("%s: low-resolution counterparts from %s", high_folder, low_folder)
    return _paired(photos, low_folder, scale)


def _high_and_low(root: Path, scale: int, *, validation: bool) -> tuple[Path, Path | None]:
    """The folder of photographs, and that of their counterparts where there is one."""
    if not root.is_dir() or has_photos(root):
        return root, None
    named = [p for p in entries(root) if p.name.endswith(HIGH_ENDING) and has_photos(p)]
    if len({_for_validation(p) for p in named}) == 2:
        named = [p for p in named if _for_validation(p) == validation]
    if len(named) > 1:
        names = ", ".join(p.name for p in named)
        raise InputError(root, "one folder of high-resolution photographs", names)
    if named:
        stem = named[0].name.removesuffix(HIGH_ENDING)
        return named[0], _inside(root, (stem + LOW_ENDING).format(scale))
    for name in HIGH_FOLDERS:
        high = _inside(root, name)
        if high is not None:
            lows = (_inside(root, low.format(scale)) for low in LOW_FOLDERS)
            return high, next((low for low in lows if low is not None), None)
    raise InputError(
        root,
        f"images, or one of {', '.join(HIGH_FOLDERS)}, NAME{HIGH_ENDING} with images in it "
        f"(beside {', '.join((*LOW_FOLDERS, 'NAME' + LOW_ENDING)).format(scale)})",
        "none of them",
    )


def _for_validation(folder: Path) -> bool:
    return re.search(r"(^|_)(valid|val|test)", folder.name.lower()) is not None


def _inside(root: Path, name: str) -> Path | None:
    """The folder ``name`` in ``root``, in upper or lower case, if it has images."""
    for part in name.split("/"):
        if not root.is_dir():
            return None
        found = [p for p in entries(root) if p.name.lower() == part.lower()]
        if not found:
            return None
        root = min(found, key=lambda p: p.name != part)
    return root if has_photos(root) else None


def _paired(photos: Sequence[Path], low_folder: Path, scale: int) -> list[Source]:
    """Photographs with their counterparts.

    Raises:
        InputError: one of them has none.
    """
    by_stem: dict[str, list[Path]] = {}
    for path in list_photos(low_folder):
        by_stem.setdefault(path.stem, []).append(path)
    sources, missing = [], []
    for photo in photos:
        found = by_stem.get(f"{photo.stem}x{scale}") or by_stem.get(photo.stem)
        if found:
            # Of two, 0001.png and 0001.jpg, the one that is named most like the photograph.
            low = min(found, key=lambda p: p.suffix.lower() != photo.suffix.lower())
            sources.append(Source(photo.name, photo, low))
        else:
            missing.append(photo)
    if missing:
        names = f"{missing[0].stem}x{scale}{missing[0].suffix} or {missing[0].name}"
        raise InputError(
            missing[0],
            f"a low-resolution counterpart {names} in {low_folder}",
            f"none, as for {len(missing)} of {len(photos)} photographs",
        )
    return sources


def translation_sources(folder: str, domain: str, *, validation: bool) -> list[Source]:
    """The inputs behind a ``data`` setting of a translation, sorted by name.

    Args:
        folder: a folder of images; or one with ``trainA`` and ``testA``, and ``trainB`` and
            ``testB``, as CycleGAN's data sets have them.
        domain: which of ``A`` and ``B`` is the input.
        validation: take them from ``testA`` instead of ``trainA``.

    Raises:
        InputError: no such folder, or neither images nor these folders in it.
    """
    root = Path(folder)
    if not root.is_dir() or has_photos(root):
        photos = list_photos(root)
    else:
        wanted = _domain_folder(domain, validation=validation)
        inside = _inside(root, wanted)
        if inside is None:
            raise InputError(root, f"images, or a folder {wanted} with images", "neither")
        photos = list_photos(inside)
    return [Source(path.name, path) for path in photos]


def target_photos(folder: str, domain: str, *, validation: bool) -> list[Path] | None:
    """Photographs of what inputs of ``domain`` are translated to; None where there are none."""
    root = Path(folder)
    if has_photos(root):  # translation_sources took these
        return None
    inside = _inside(root, _domain_folder("BA"["AB".index(domain)], validation=validation))
    return None if inside is None else list_photos(inside)


def _domain_folder(domain: str, *, validation: bool) -> str:
    return ("test" if validation else "train") + domain


def thinned(items: Sequence[Item], limit: int | None) -> list[Item]:
    """At most ``limit`` of the items, evenly spread over them, in their order."""
    if limit is None or limit >= len(items):
        return list(items)
    return [items[index * len(items) // limit] for index in range(limit)]


def digest_of(paths: Iterable[Path]) -> str:
    """Tells these files, in this order, from others, wherever they lie: SHA-256 in hex.

    Of each file its name, its size, and its first and last 64 KiB count: a data set of gigabytes
    need not be read whole just to be told from another.

    Raises:
        InputError: a file that cannot be read.
    """
    digest = hashlib.sha256()
    for path in paths:
        try:
            with path.open("rb") as file:
                size = path.stat().st_size
                head = file.read(SAMPLE)
                file.seek(max(len(head), size - SAMPLE))
                tail = file.read(SAMPLE)
        except OSError as error:
            raise InputError(path, "a file that can be read", error.strerror) from error
        for part in (path.name.encode(), str(size).encode(), head, tail):
            digest.update(len(part).to_bytes(8, "big"))
            digest.update(part)
    return digest.hexdigest()
