from __future__ import annotations

from evo_agd.report.retraining import agreement, stopped


def row(name: str, before: float, after: float | None) -> dict:
    student = {"psnr": 30.0, "psnr_supernet": before}
    if after is not None:
        student["psnr_retrained"] = after
    return {"id": name, "student": student, "stopped": None}


def test_how_far_supernet_scores_are_from_retrained_ones() -> None:
    assert agreement([]) == agreement([row("of an old run", 29.0, None)]) == ""
    two = [row("a", 29.0, 29.5), row("b", 30.0, 30.3)]
    assert agreement(two) == "Retraining moved PSNR by +0.40 dB on average"
    assert agreement([*two, row("c", 31.0, 30.2)]).endswith("PSNR 0.33")


def test_who_was_stopped_is_told() -> None:
    end = {"step": 1500, "by": "a", "psnr": 28.0, "psnr_by": 28.5}
    rows = [row("a", 29.0, 29.5), {"id": "b", "student": None, "stopped": end}]
    (text,) = stopped(rows)
    assert "b was stopped after 1,500 steps at 28.00 dB" in text and "by a" in text
