from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from evo_agd.errors import InputError
from evo_agd.train import sources
from evo_agd.train.sources import (
    Source,
    digest_of,
    super_resolution_sources,
    target_photos,
    thinned,
    translation_sources,
)


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()


def found(root: Path, *, validation: bool = False, scale: int = 4, low: str | None = None):
    """The photographs and their counterparts, as seen from ``root``."""
    here = None if low is None else str(root / low)
    listed = super_resolution_sources(str(root), here, scale, validation=validation)
    assert [s.name for s in listed] == [s.photo.name for s in listed]
    return [tuple(str(p.relative_to(root)) for p in s.paths) for s in listed]


def test_bundled_photographs_stand_alone() -> None:
    train = super_resolution_sources("bundled", None, 4, validation=False)
    validation = super_resolution_sources("bundled", None, 4, validation=True)
    assert (len(train), len(validation)) == (6, 3) and all(s.low is None for s in train)
    assert not {s.photo for s in train} & {s.photo for s in validation}
    with pytest.raises(InputError, match="low: expected a folder of photographs beside it"):
        super_resolution_sources("bundled", "low", 4, validation=False)


def test_a_folder_of_images_stands_alone_whatever_lies_beside(tmp_path: Path) -> None:
    touch(tmp_path, "HR/b.png", "HR/a.JPG", "HR/notes.txt", "LR/a.png", "LR/b.png")
    assert found(tmp_path / "HR") == [("a.JPG",), ("b.png",)]


def test_a_given_folder_has_the_counterparts_by_name(tmp_path: Path) -> None:
    touch(tmp_path, "1.png", "2.jpg", "3.png", "4.png")
    touch(tmp_path, "small/1x4.png", "small/1.png", "small/2.png", "small/2x2.png")
    touch(tmp_path, "small/3.jpg", "small/3.png", "small/4x4.webp", "small/5x4.png")
    assert found(tmp_path, low="small") == [
        ("1.png", "small/1x4.png"),
        ("2.jpg", "small/2.png"),
        ("3.png", "small/3.png"),
        ("4.png", "small/4x4.webp"),
    ]
    with pytest.raises(InputError, match="nowhere: expected a folder of images"):
        found(tmp_path, low="nowhere")


def test_a_given_folder_may_have_one_for_each_scale(tmp_path: Path) -> None:
    touch(tmp_path, "HR/1.png", "LR/X2/1x2.png", "LR/X4/1x4.png", "other/1.png")
    listed = super_resolution_sources(
        str(tmp_path / "HR"), str(tmp_path / "LR"), 2, validation=False
    )
    assert listed == [Source("1.png", tmp_path / "HR/1.png", tmp_path / "LR/X2/1x2.png")]
    assert found(tmp_path, low="other") == [("HR/1.png", "other/1.png")]  # before LR


def test_a_missing_counterpart_is_named(tmp_path: Path) -> None:
    touch(tmp_path, "1.png", "2.png", "3.png", "small/1x4.png", "small/3x2.png")
    with pytest.raises(InputError) as caught:
        found(tmp_path, low="small")
    assert str(caught.value) == (
        f"{tmp_path}/2.png: expected a low-resolution counterpart 2x4.png or 2.png in "
        f"{tmp_path}/small, found none, as for 2 of 3 photographs"
    )


def test_div2k_is_recognised(tmp_path: Path) -> None:
    for part, name in (("train", "0001"), ("valid", "0801")):
        touch(tmp_path, f"DIV2K_{part}_HR/{name}.png")
        for scale in (2, 4):
            low = f"DIV2K_{part}_LR_bicubic/X{scale}/{name}x{scale}.png"
            touch(tmp_path, low)
    for scale in (2, 4):
        train, valid = (found(tmp_path, validation=v, scale=scale) for v in (False, True))
        low = f"LR_bicubic/X{scale}"
        assert train == [("DIV2K_train_HR/0001.png", f"DIV2K_train_{low}/0001x{scale}.png")]
        assert valid == [("DIV2K_valid_HR/0801.png", f"DIV2K_valid_{low}/0801x{scale}.png")]
    shutil.rmtree(tmp_path / "DIV2K_train_LR_bicubic")
    assert found(tmp_path) == [("DIV2K_train_HR/0001.png",)]
    shutil.rmtree(tmp_path / "DIV2K_train_HR")  # the only one there is, whatever it is asked for
    assert found(tmp_path)[0][0] == "DIV2K_valid_HR/0801.png"
    touch(tmp_path, "Other_val_HR/1.png")
    with pytest.raises(InputError, match="found DIV2K_valid_HR, Other_val_HR"):
        found(tmp_path, validation=True)


@pytest.mark.parametrize("high", ["GTmod12", "HR", "GT", "original"])
@pytest.mark.parametrize(
    ("low", "name"),
    [
        ("LRbicx4", "baby.png"),
        ("LR_bicubic/X4", "babyx4.png"),
        ("LRx4", "baby.png"),
        ("LR/X4", "babyx4.png"),
        ("LR", "baby.bmp"),
        ("lr/x4", "baby.png"),
    ],
)
def test_basicsr_is_recognised(tmp_path: Path, high: str, low: str, name: str) -> None:
    touch(tmp_path, f"{high}/baby.png", f"{low}/{name}", "LRbicx2/baby.png", "LRbicx3/baby.png")
    assert found(tmp_path) == [(f"{high}/baby.png", f"{low}/{name}")]


def test_cut_photographs_go_before_those_that_are_not(tmp_path: Path) -> None:
    touch(tmp_path, "GTmod12/1.png", "original/1.png", "LRbicx4/1.png", "LR/1.png")
    assert found(tmp_path) == [("GTmod12/1.png", "LRbicx4/1.png")]
    assert found(tmp_path, scale=2) == [("GTmod12/1.png", "LR/1.png")]


def test_what_is_not_recognised_says_what_was_looked_for(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        found(tmp_path / "nowhere")
    touch(tmp_path, "pictures/1.png", "HR/notes.txt")
    with pytest.raises(InputError, match=r"images, or one of GTmod12, HR.*LRbicx4.*found none"):
        found(tmp_path)


def test_translation_takes_a_domain_or_a_folder(tmp_path: Path) -> None:
    for folder in ("trainA", "trainB", "testA", "testB"):
        touch(tmp_path, f"{folder}/2.jpg", f"{folder}/1.jpg")
    for domain, other in (("A", "B"), ("B", "A")):
        for validation, part in ((False, "train"), (True, "test")):
            listed = translation_sources(str(tmp_path), domain, validation=validation)
            folder = tmp_path / f"{part}{domain}"
            assert listed == [Source(n, folder / n) for n in ("1.jpg", "2.jpg")]
            targets = target_photos(str(tmp_path), domain, validation=validation)
            assert targets == [tmp_path / f"{part}{other}" / n for n in ("1.jpg", "2.jpg")]
    inside = str(tmp_path / "testB")
    assert len(translation_sources(inside, "A", validation=False)) == 2
    assert target_photos(inside, "A", validation=False) is None


def test_translation_without_its_folders_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="no such folder"):
        translation_sources(str(tmp_path / "nowhere"), "A", validation=False)
    assert target_photos(str(tmp_path / "nowhere"), "A", validation=False) is None
    touch(tmp_path, "trainA/1.png")
    with pytest.raises(InputError, match="images, or a folder testA with images, found neither"):
        translation_sources(str(tmp_path), "A", validation=True)
    assert target_photos(str(tmp_path), "A", validation=False) is None


@given(st.integers(1, 200), st.integers(1, 250))
def test_thinning_spreads_evenly_and_keeps_the_order(count: int, limit: int) -> None:
    items = list(range(count))
    kept = thinned(items, limit)
    assert len(kept) == min(count, limit) and kept == sorted(set(kept)) and kept[0] == 0
    gaps = {b - a for a, b in zip(kept, [*kept[1:], count], strict=True)}
    assert max(gaps) - min(gaps) <= 1
    assert thinned(items, None) == items


def test_a_digest_goes_by_names_and_content_not_by_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sources, "SAMPLE", 16)
    contents = {"a.png": bytes(range(100)), "b.png": b"short", "c.png": bytes(range(20))}
    for folder in ("here", "there"):
        touch(tmp_path, *(f"{folder}/{name}" for name in contents))
        for name, content in contents.items():
            (tmp_path / folder / name).write_bytes(content)
    here, there = (sorted((tmp_path / f).iterdir()) for f in ("here", "there"))
    digest = digest_of(here)
    assert digest == digest_of(there) and digest != digest_of(reversed(here))
    assert digest != digest_of(here[:2])
    for index, at in ((0, 3), (0, 90), (1, 0), (2, 10), (2, 18)):
        content = bytearray(there[index].read_bytes())
        content[at] ^= 1
        there[index].write_bytes(content)
        assert digest_of(there) != digest
        there[index].write_bytes(here[index].read_bytes())
    there[0].write_bytes(here[0].read_bytes()[:50] + here[0].read_bytes()[49:])  # a byte more
    assert digest_of(there) != digest
    there[0].write_bytes(here[0].read_bytes())
    assert digest_of([*there[:2], there[2].rename(tmp_path / "there/d.png")]) != digest
    with pytest.raises(InputError, match=r"c\.png: expected a file that can be read"):
        digest_of(there)
