from __future__ import annotations

import logging
import threading
import weakref
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from evo_agd.errors import InputError
from evo_agd.train import prepare as module
from evo_agd.train.images import Photo, crop_to_multiple, downscale, read_photo
from evo_agd.train.pairs import Pair, Stored
from evo_agd.train.prepare import check_sources, prepare
from evo_agd.train.sources import Source
from tests.conftest import photograph


def photos(folder: Path, *sizes: tuple[int, int], suffix: str = ".png") -> list[Source]:
    folder.mkdir(exist_ok=True)
    listed = []
    for index, size in enumerate(sizes):
        path = folder / f"{index:02}{suffix}"
        Image.fromarray(photograph(*size, index)).save(path)
        listed.append(Source(path.name, path))
    return listed


def cut_short(path: Path) -> None:
    """Leave the header and some of the picture."""
    content = path.read_bytes()
    path.write_bytes(content[: len(content) * 9 // 10])


def enlarge(scale: int) -> Callable[[Photo], Photo]:
    """A teacher whose answers are told from truths."""
    return lambda low: 255 - low.repeat(scale, axis=0).repeat(scale, axis=1)


def silent(low: Photo) -> Photo:
    raise AssertionError("asked again")


def content(pairs: list[Pair]) -> list[tuple[str, bytes, bytes, bytes]]:
    return [
        (p.name, *(np.asarray(part).tobytes() for part in (p.low, p.high, p.teacher)))
        for p in pairs
    ]


@pytest.mark.parametrize("stored", [False, True])
@pytest.mark.parametrize("workers", [1, 3])
def test_pairs_are_photographs_then_their_shrunk_versions_in_order(
    tmp_path: Path, stored: bool, workers: int
) -> None:
    listed = photos(tmp_path / "in", (64, 72), (61, 83), (50, 50), (90, 41), (48, 48))
    expected = []
    for source in listed:
        photo = read_photo(source.photo)
        high = crop_to_multiple(photo, 4)
        low = downscale(high, 4)
        expected.append(Pair(source.name, low, high, enlarge(4)(low)))
        for factor in (1, 3):
            low = downscale(crop_to_multiple(photo, factor), factor)
            taught = enlarge(4)(low)
            expected.append(Pair(f"{source.name} / {factor}", low, taught, taught))
    ticks: list[int] = []
    pairs = prepare(
        listed,
        tmp_path / "kept",
        enlarge(4),
        key="teacher",
        scale=4,
        unpaired_shrink=(1, 3),
        stored=stored,
        workers=workers,
        tick=lambda done, note: ticks.append(done),
    )
    assert content(pairs) == content(expected)
    for pair in pairs:
        for part in (pair.low, pair.high, pair.teacher):
            assert isinstance(part, Stored if stored else np.ndarray)
            assert not isinstance(part, Stored) or part.path.is_absolute()
    assert ticks == list(range(1, 16))


def test_the_files_do_not_depend_on_who_makes_them(tmp_path: Path) -> None:
    listed = photos(tmp_path / "in", (64, 72), (61, 83), (50, 50))
    for folder, workers in (("one", 1), ("three", 3)):
        prepare(
            listed, tmp_path / folder, enlarge(4), key="t", scale=4, stored=True, workers=workers
        )
    one, three = (
        {p.name: p.read_bytes() for p in (tmp_path / f).iterdir()} for f in ("one", "three")
    )
    assert one == three and len(one) == 9


@pytest.mark.parametrize("scale", [1, 4])
def test_a_second_call_computes_nothing(
    tmp_path: Path, scale: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = photos(tmp_path / "in", (64, 72), (61, 83))

    def call(
        answer: Callable[[Photo], Photo], key: str = "teacher", multiple: int = 1
    ) -> list[Pair]:
        return prepare(
            listed, tmp_path / "kept", answer,
            key=key, scale=scale, multiple=multiple,
            unpaired_shrink=(2,), stored=True, workers=2,
        )  # fmt: skip

    first = call(enlarge(scale))
    with pytest.raises(AssertionError, match="asked again"):
        call(silent, key="another")
    with pytest.raises(AssertionError, match="asked again"):
        call(silent, multiple=5)
    monkeypatch.setattr(module, "read_photo", silent)
    assert content(call(silent)) == content(first)
    moved = tmp_path / "moved"
    (tmp_path / "in").rename(moved)
    listed = [Source(s.name, moved / s.name) for s in listed]
    assert content(call(silent)) == content(first)
    monkeypatch.undo()
    broken = first[0].low.path
    broken.write_bytes(broken.read_bytes()[:-5])
    assert content(call(silent)) == content(first)


def test_after_a_kill_only_the_rest_is_asked(tmp_path: Path) -> None:
    listed = photos(tmp_path / "in", *[(40, 40)] * 6)
    asked = []

    def answer(low: Photo) -> Photo:
        asked.append(low.tobytes())
        if len(asked) == 4:
            raise KeyboardInterrupt
        return enlarge(4)(low)

    arguments = {"key": "t", "scale": 4, "stored": False, "workers": 2}
    with pytest.raises(KeyboardInterrupt):
        prepare(listed, tmp_path / "kept", answer, **arguments)
    pairs = prepare(listed, tmp_path / "kept", answer, **arguments)
    assert asked == [p.low.tobytes() for p in (*pairs[:4], *pairs[3:])]


def test_translation_has_no_truth_but_the_teachers(tmp_path: Path) -> None:
    listed = photos(tmp_path / "in", (43, 50))
    for stored in (False, True):
        (pair,) = prepare(
            listed, tmp_path, enlarge(1), key="t", scale=1, multiple=4, stored=stored, workers=1
        )
        low = read_photo(listed[0].photo)[:40, :48]
        assert np.array_equal(pair.low, low) and np.array_equal(pair.high, 255 - low)
        assert pair.high is pair.teacher


@pytest.mark.parametrize("stored", [False, True])
def test_given_counterparts_are_used(tmp_path: Path, stored: bool) -> None:
    highs = photos(tmp_path / "HR", (51, 48))
    lows = photos(tmp_path / "LR", (11, 10))
    listed = [Source("00.png", highs[0].photo, lows[0].photo)]
    assert check_sources(listed, 4, 8) == listed
    for multiple, (height, width) in ((1, (11, 10)), (2, (10, 10))):
        (pair,) = prepare(
            listed,
            tmp_path / "kept",
            enlarge(4),
            key="t",
            scale=4,
            multiple=multiple,
            stored=stored,
            workers=1,
        )
        assert np.array_equal(pair.low, read_photo(lows[0].photo)[:height, :width])
        whole = read_photo(highs[0].photo)
        assert np.array_equal(pair.high, whole[: height * 4, : width * 4])
    with pytest.raises(InputError, match="at least 12x12 pixels, found 10x11"):
        check_sources(listed, 4, 12)


@pytest.mark.parametrize("size", [(12, 10), (11, 13), (9, 12), (24, 24), (6, 6)])
def test_counterparts_of_another_size_are_refused(tmp_path: Path, size: tuple[int, int]) -> None:
    highs = photos(tmp_path / "HR", (47, 51))
    lows = photos(tmp_path / "LR", size)
    listed = [Source("00.png", highs[0].photo, lows[0].photo)]
    match = rf"LR/00\.png: expected 12x11 pixels, .*\(51x47\) / 4, found {size[1]}x{size[0]}"
    if size == (9, 12):
        assert check_sources(listed, 4, 4) == listed  # 47 cut to 36, a multiple of 12
    else:
        with pytest.raises(InputError, match=match):
            check_sources(listed, 4, 4)
        with pytest.raises(InputError, match=match):
            prepare(listed, tmp_path, silent, key="t", scale=4, stored=False, workers=1)


def test_a_photograph_smaller_than_a_crop_is_refused(world: Path) -> None:
    listed = [Source("0.png", world / "photos/0.png")]
    assert check_sources(listed, 4, 16) == listed
    with pytest.raises(InputError, match=r"0\.png: .*at least 96x96 pixels, found 72x64"):
        check_sources(listed, 4, 24)
    with pytest.raises(InputError, match="at least 128x128 pixels"):
        check_sources(listed, 4, 16, unpaired_shrink=(2, 8))
    with pytest.raises(InputError, match="at least 80x80 pixels"):
        check_sources(listed, 4, 16, multiple=5)


@pytest.mark.parametrize(("count", "broken"), [(20, 1), (20, 2), (10, 1)])
def test_a_few_broken_files_are_left_out(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, count: int, broken: int
) -> None:
    listed = photos(tmp_path / "in", *[(32, 32)] * count, suffix=".jpg")
    for source in listed[3 : 3 + broken]:
        source.photo.write_bytes(b"no picture")
    with caplog.at_level(logging.WARNING):
        sound = check_sources(listed, 4, 8)
    assert sound == listed[:3] + listed[3 + broken :]
    assert [r.levelname for r in caplog.records] == ["WARNING"] * broken
    assert "03.jpg: expected a readable image" in caplog.text


@pytest.mark.parametrize(("count", "broken"), [(20, 3), (9, 1), (1, 1)])
def test_many_broken_files_are_refused(tmp_path: Path, count: int, broken: int) -> None:
    listed = photos(tmp_path / "in", *[(32, 32)] * count)
    for source in listed[:broken]:
        source.photo.write_bytes(b"no picture")
    share = rf"\({broken} of {count} pictures cannot be read\)" if count > 1 else ""
    with pytest.raises(InputError, match=rf"00\.png: expected a readable image.*{share}$"):
        check_sources(listed, 4, 8)


def test_a_broken_counterpart_is_a_broken_picture(tmp_path: Path) -> None:
    highs = photos(tmp_path / "HR", *[(32, 32)] * 10)
    lows = photos(tmp_path / "LR", *[(8, 8)] * 10)
    lows[4].photo.write_bytes(b"")
    listed = [Source(h.name, h.photo, low.photo) for h, low in zip(highs, lows, strict=True)]
    assert check_sources(listed, 4, 8) == listed[:4] + listed[5:]


def test_files_that_break_off_are_found_when_they_are_decoded(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    listed = photos(tmp_path / "in", *[(32, 32)] * 20, suffix=".jpg")
    cut_short(listed[7].photo)
    assert check_sources(listed, 4, 8) == listed  # headers tell nothing
    ticks: list[int] = []

    def call() -> list[Pair]:
        return prepare(
            listed, tmp_path / "kept", enlarge(4),
            key="t", scale=4, unpaired_shrink=(2,), stored=True, workers=3,
            tick=lambda done, note: ticks.append(done),
        )  # fmt: skip

    with caplog.at_level(logging.WARNING):
        names = [pair.name for pair in call()]
    assert names[12:16] == ["06.jpg", "06.jpg / 2", "08.jpg", "08.jpg / 2"] and len(names) == 38
    assert "07.jpg: expected a readable image" in caplog.text and len(caplog.records) == 1
    assert ticks[-1] == 40
    cut_short(listed[0].photo)
    assert len(call()) == 36
    cut_short(listed[19].photo)
    with pytest.raises(InputError, match=r"00\.jpg: .*\(3 of 20 pictures cannot be read\)"):
        call()


def test_a_full_disk_is_not_a_broken_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    listed = photos(tmp_path / "in", *[(32, 32)] * 20)

    def full(path: Path, content: bytes) -> None:
        raise InputError(path, "a place that can be written to", "No space left on device")

    monkeypatch.setattr(module, "write_bytes", full)
    with pytest.raises(InputError, match="No space left"):
        prepare(listed, tmp_path / "x", enlarge(4), key="t", scale=4, stored=True, workers=2)
    assert not caplog.records


def test_an_answer_that_does_not_fit_is_refused(tmp_path: Path) -> None:
    listed = photos(tmp_path / "in", (32, 40))
    with pytest.raises(InputError, match=r"00\.png: .*40x32 pixels.*\(16, 20, 3\) of uint8"):
        prepare(listed, tmp_path, enlarge(2), key="t", scale=4, stored=False, workers=1)


@pytest.mark.parametrize("workers", [1, 3])
def test_memory_does_not_grow_with_the_data(
    tmp_path: Path, workers: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    listed = photos(tmp_path / "in", *[(32, 32)] * 24)
    lock = threading.Lock()
    begun = alive = peak = answered = ahead = 0

    def gone() -> None:
        nonlocal alive
        with lock:
            alive -= 1

    def counting(path: Path) -> Photo:
        nonlocal begun, alive, peak
        photo = read_photo(path).copy()
        with lock:
            begun, alive = begun + 1, alive + 1
            peak = max(peak, alive)
        weakref.finalize(photo, gone)
        return photo

    def answer(low: Photo) -> Photo:
        nonlocal answered, ahead
        with lock:
            ahead = max(ahead, begun - answered)
        answered += 1
        return enlarge(4)(low)

    monkeypatch.setattr(module, "read_photo", counting)
    prepare(listed, tmp_path / "kept", answer, key="t", scale=4, stored=True, workers=workers)
    assert begun == answered == 24 and alive == 0
    assert peak <= workers and ahead <= 2 * workers
