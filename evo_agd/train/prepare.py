"""From the files of a data set to pictures to train on, in memory that does not grow with it."""

from __future__ import annotations

import hashlib
import io
import logging
from collections import deque
from collections.abc import Callable, Generator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np

from evo_agd.errors import InputError
from evo_agd.files import write_bytes
from evo_agd.train.images import Photo, crop_to_multiple, downscale, photo_size, read_photo
from evo_agd.train.pairs import Pair, Picture, Stored
from evo_agd.train.sources import Source, digest_of

log = logging.getLogger(__name__)

Size: TypeAlias = tuple[int, int]  # height, width
Result = TypeVar("Result")

TOLERATED = 10  # one file in so many may be broken
HEADER_THREADS = 8
AHEAD = 2  # pictures a worker that are decoded before their turn
# Low-resolution data sets are made from photographs cut to sides divisible by 12, so that they fit
# scales 2, 3 and 4; the photographs that come with them are not always cut.
CUT = 12


def check_sources(
    sources: Sequence[Source],
    scale: int,
    smallest: int,
    unpaired_shrink: Sequence[int] = (),
    *,
    multiple: int = 1,
) -> list[Source]:
    """The sources without those that have a broken file, which are warned of. Reads headers only.

    Args:
        scale: how much smaller the input is than the photograph.
        smallest: the shortest side in input pixels that is of use.
        unpaired_shrink: the photograph shrunk by these factors is to be used as an input, too.
        multiple: of the sides of an input, as :func:`prepare` cuts them.

    Raises:
        InputError: more than one source in ten is broken, a photograph is too small, or a
            low-resolution counterpart is not ``scale`` times smaller than its photograph.
    """

    def sizes(source: Source) -> tuple[Size, Size | None] | InputError:
        try:
            low = None if source.low is None else photo_size(source.low)
            return photo_size(source.photo), low
        except InputError as error:
            return error

    with ThreadPoolExecutor(HEADER_THREADS) as pool:
        found = list(pool.map(sizes, sources))
    sound, broken = [], []
    smallest = -(-smallest // multiple) * multiple
    need = smallest * max((scale, *unpaired_shrink))
    for source, size in zip(sources, found, strict=True):
        if isinstance(size, InputError):
            broken.append(size)
            continue
        photo, low = size
        _check_size(source.photo, photo, need)
        if source.low is not None and low is not None:
            _check_size(source.low, low, smallest)
            _check_counterpart(source, photo, low, scale)
        sound.append(source)
    _check_broken(broken, len(sources))
    for error in broken:
        log.warning("left out: %s", error)
    return sound


def _check_size(path: Path, size: Size, need: int) -> None:
    if min(size) < need:
        expected = f"a photograph of at least {need}x{need} pixels"
        raise InputError(path, expected, _written(size))


def _check_counterpart(source: Source, photo: Size, low: Size, scale: int) -> None:
    """The photograph may be larger by a right and a bottom edge that was cut before shrinking."""
    if not all(0 <= p - n * scale < max(scale, CUT) for p, n in zip(photo, low, strict=True)):
        fitting = _written((photo[0] // scale, photo[1] // scale))
        expected = f"{fitting} pixels, {source.photo.name} ({_written(photo)}) / {scale}"
        raise InputError(source.low, expected, _written(low))


def _check_broken(broken: Sequence[InputError], total: int) -> None:
    if len(broken) * TOLERATED > total:
        first = broken[0]
        share = "" if total == 1 else f" ({len(broken)} of {total} pictures cannot be read)"
        raise InputError(first.where, first.expected, first.found + share)


def _written(size: Size) -> str:
    """Width first, as people say it."""
    return f"{size[1]}x{size[0]}"


@dataclass(frozen=True)
class _Input:
    """What the teacher is asked; ``high`` is None where there is no truth."""

    name: str
    low: Picture
    high: Picture | None


def prepare(
    sources: Sequence[Source],
    folder: Path,
    answer: Callable[[Photo], Photo],
    *,
    key: str,
    scale: int,
    multiple: int = 1,
    unpaired_shrink: Sequence[int] = (),
    stored: bool,
    workers: int,
    tick: Callable[[int, str], None] = lambda done, note: None,
) -> list[Pair]:
    """Decode sources, make inputs of them, and let the teacher answer, each once.

    A photograph and its given low-resolution counterpart, or the photograph cut to a multiple of
    ``scale`` and its bicubic reduction, are truth and input. At scale 1 a photograph alone is the
    input, and there is no truth but the teacher's answer; neither is there for the inputs of
    ``unpaired_shrink``, which follow their photograph as ``NAME / FACTOR``. Pairs have the order
    of their sources whatever the number of workers.

    ``folder`` keeps the answers, by the teacher and the input's content, and with ``stored`` the
    inputs and truths, by the source files' names and content: a second call computes nothing that
    is there. This takes 3 bytes for a pixel of an input, 3 for one of an answer, and with
    ``stored`` 3 for one of a truth: 14 GB for DIV2K's 800 photographs at scale 4.

    Args:
        sources: as :func:`check_sources` leaves them.
        answer: the teacher's, (h, w, 3) to (h * scale, w * scale, 3); called in this thread, in
            order, and only for inputs whose answer ``folder`` does not have.
        key: names the teacher, so that another's answers are not taken for its own.
        multiple: inputs lose their right and bottom edges until this divides their sides.
        stored: leave pictures on disk. In memory are only what each worker decodes and what the
            teacher answers then; without, all of them are returned as arrays.
        workers: threads that decode, at most two pictures each ahead of the teacher.
        tick: called with the number of inputs that are done, those left out included, and a note.

    Raises:
        InputError: more than one source in ten turns out broken when decoded (fewer are left out,
            with a warning), a counterpart does not fit its photograph, the teacher's answer does
            not fit its input, or the folder cannot be written to.
    """
    shrink = tuple(unpaired_shrink)
    preparation = _Preparation(folder.resolve(), key, scale, multiple, shrink, stored)
    pairs: list[Pair] = []
    broken: list[InputError] = []
    done = 0
    with closing(_ahead(preparation.inputs, sources, workers)) as ready:
        for result in ready:
            if isinstance(result, InputError):
                broken.append(result)
                _check_broken(broken, len(sources))
                log.warning("left out: %s", result)
                done += 1 + len(shrink)
                tick(done, "")
                continue
            for asked in result:
                taught = preparation.answer(asked, answer)
                high = taught if asked.high is None else asked.high
                pairs.append(Pair(asked.name, asked.low, high, taught))
                done += 1
                tick(done, "")
    return pairs


def _ahead(
    work: Callable[[Source], Result], sources: Sequence[Source], workers: int
) -> Generator[Result, None, None]:
    """The results in order, from threads that are never more than ``AHEAD * workers`` ahead."""
    waiting: deque[Future[Result]] = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for source in sources:
                waiting.append(pool.submit(work, source))
                if len(waiting) == AHEAD * workers:
                    yield waiting.popleft().result()
            while waiting:
                yield waiting.popleft().result()
        finally:  # whoever asks for no more does not wait for what was not begun
            for future in waiting:
                future.cancel()


@dataclass(frozen=True)
class _Preparation:
    """Makes inputs and answers, and keeps them in ``folder``."""

    folder: Path
    key: str
    scale: int
    multiple: int
    shrink: tuple[int, ...]
    stored: bool

    def inputs(self, source: Source) -> list[_Input] | InputError:
        """What a source gives, or what is wrong with its files; runs in a thread."""
        try:
            places = self._places(source) if self.stored else []
            kept = [_read(path) for path in places]
            photo = low = None
            if None in kept or not self.stored:
                photo = read_photo(source.photo)
                low = None if source.low is None else read_photo(source.low)
        except InputError as error:
            return error
        # What goes wrong from here on is not a broken file: a full disk ends the run.
        if photo is None:
            pictures: list[Picture] = [picture for picture in kept if picture is not None]
        else:
            made = self._made(source, photo, low)
            pictures = list(made)
            if self.stored:
                pictures = [_write(*parts) for parts in zip(places, made, strict=True)]
        high = pictures.pop() if self._has_truth(source) else None
        low_picture, *shrunk = pictures
        return [
            _Input(source.name, low_picture, high),
            *(
                _Input(f"{source.name} / {factor}", picture, None)
                for factor, picture in zip(self.shrink, shrunk, strict=True)
            ),
        ]

    def _has_truth(self, source: Source) -> bool:
        return self.scale > 1 or source.low is not None

    def _places(self, source: Source) -> list[Path]:
        """Where the inputs of a source lie, and last its truth if it has one."""
        stem = f"{digest_of(source.paths)[:16]}-x{self.scale}m{self.multiple}"
        kinds = ["low", *(f"shrunk{factor}" for factor in self.shrink)]
        if self._has_truth(source):
            kinds.append("high")
        return [self.folder / f"{stem}-{kind}.npy" for kind in kinds]

    def _made(self, source: Source, photo: Photo, low: Photo | None) -> list[Photo]:
        """The inputs of a source, and last its truth if it has one."""
        if low is None:
            high = crop_to_multiple(photo, self.scale * self.multiple)
            low = downscale(high, self.scale) if self.scale > 1 else high
        else:
            _check_counterpart(source, _size(photo), _size(low), self.scale)
            low = crop_to_multiple(low, self.multiple)
            high = photo[: low.shape[0] * self.scale, : low.shape[1] * self.scale]
        made = [low]
        for factor in self.shrink:
            made.append(downscale(crop_to_multiple(photo, factor * self.multiple), factor))
        return [*made, high] if self._has_truth(source) else made

    def answer(self, asked: _Input, answer: Callable[[Photo], Photo]) -> Picture:
        """The teacher's answer to an input, computed if it is not there."""
        low = np.ascontiguousarray(asked.low)
        content = hashlib.sha256(low.tobytes() + str(low.shape).encode()).hexdigest()[:16]
        path = self.folder / f"{self.key}-{content}.npy"
        shape = (low.shape[0] * self.scale, low.shape[1] * self.scale, 3)
        kept = _read(path)
        if kept is None or kept.shape != shape:
            taught = answer(low)
            if taught.shape != shape or taught.dtype != np.uint8:
                expected = f"a teacher's answer of {_written(shape[:2])} pixels in 8-bit RGB"
                raise InputError(asked.name, expected, f"shape {taught.shape} of {taught.dtype}")
            kept = _write(path, taught)
        return kept if self.stored else np.asarray(kept)


def _size(photo: Photo) -> Size:
    return photo.shape[0], photo.shape[1]


def _read(path: Path) -> Stored | None:
    try:
        return Stored.at(path)
    except InputError:  # not there, or not one that we wrote: it is made
        return None


def _write(path: Path, photo: Photo) -> Stored:
    buffer = io.BytesIO()
    np.save(buffer, np.ascontiguousarray(photo))
    write_bytes(path, buffer.getvalue())
    return Stored.at(path)
