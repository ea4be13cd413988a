"""What a run is made from: the teacher, and the photographs with its answers."""

from __future__ import annotations

import hashlib
from functools import cached_property, partial

from rich.console import Console

from evo_agd.config import Settings, SuperResolutionSettings, TranslationSettings
from evo_agd.nets.teachers import Teacher, load_teacher
from evo_agd.nets.translation import MULTIPLE
from evo_agd.progress import bar
from evo_agd.run.directory import RunDirectory
from evo_agd.train.loop import cores
from evo_agd.train.pairs import Pair
from evo_agd.train.prepare import check_sources, prepare
from evo_agd.train.sources import (
    Source,
    digest_of,
    super_resolution_sources,
    target_photos,
    thinned,
    translation_sources,
)

# The crop of the metric takes `scale` pixels off each side: 3 input pixels leave something.
SMALLEST_VALIDATION = 3


def multiple_of(settings: Settings) -> int:
    """What the sides of an input have to be divisible by."""
    return MULTIPLE if settings.scale == 1 else 1


class Inputs:
    """The teacher, and which files are trained and judged on.

    Headers are read on construction, before a run directory is needed, so that bad input leaves
    nothing behind.

    Raises:
        InputError: teacher or photographs are unusable.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.teacher: Teacher = load_teacher(
            settings.teacher, settings.scale, value_range=settings.teacher_range
        )
        crop = max(settings.supernet.crop, settings.students.crop)
        data, scale = settings.data, settings.scale
        self.train = check_sources(
            thinned(self._sources(validation=False), data.limit),
            scale,
            crop,
            data.unpaired_shrink,
            multiple=self.multiple,
        )
        smallest = SMALLEST_VALIDATION if scale > 1 else MULTIPLE
        self.validation = check_sources(
            thinned(self._sources(validation=True), data.validation_limit),
            scale,
            smallest,
            multiple=self.multiple,
        )

    @property
    def multiple(self) -> int:
        """What the sides of an input have to be divisible by."""
        return multiple_of(self.settings)

    def _sources(self, *, validation: bool) -> list[Source]:
        settings = self.settings
        if isinstance(settings, TranslationSettings):
            folder = settings.data.train
            if validation:
                folder = settings.data.validation or folder
            return translation_sources(folder, settings.data.domain, validation=validation)
        assert isinstance(settings, SuperResolutionSettings)
        data = settings.data
        folder = data.validation if validation else data.train
        low = data.validation_low if validation else data.train_low
        return super_resolution_sources(folder, low, settings.scale, validation=validation)

    @cached_property
    def target(self) -> list[Source]:
        """Validation photographs of the domain that a translation aims at, if there are any."""
        settings = self.settings
        if not isinstance(settings, TranslationSettings):
            return []
        folder = settings.data.validation or settings.data.train
        found = target_photos(folder, settings.data.domain, validation=True)
        return [Source(p.name, p) for p in found or ()]

    @cached_property
    def digest(self) -> str:
        """Tells photographs and teacher apart from others."""
        digest = hashlib.sha256(self.teacher.digest.encode())
        for sources in (self.train, self.validation):
            paths = [p for s in sources for p in (s.photo, s.low) if p is not None]
            digest.update(digest_of(paths).encode())
        return digest.hexdigest()

    def pairs(self, run: RunDirectory, console: Console) -> tuple[list[Pair], list[Pair]]:
        """Training and validation pictures with the teacher's answers, kept in the run.

        Raises:
            InputError: more than 1 in 10 files cannot be decoded.
        """
        settings = self.settings
        shrunk = 1 + len(settings.data.unpaired_shrink)
        before = len(self.train) * shrunk
        with bar(console, "1/6 teacher's answers", before + len(self.validation)) as tick:
            together = partial(
                prepare,
                folder=run.teacher,
                answer=lambda low: self.teacher.answer(low, settings.scale),
                key=self.teacher.digest,
                scale=settings.scale,
                multiple=self.multiple,
                workers=cores(),
            )
            train = together(
                self.train,
                unpaired_shrink=settings.data.unpaired_shrink,
                stored=True,
                tick=tick,
            )
            validation = together(
                self.validation,
                stored=False,
                tick=lambda done, note: tick(before + done, note),
            )
        return train, validation
