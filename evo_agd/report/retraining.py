"""What retraining did: how far supernet scores are from it, and who was stopped on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy.stats import kendalltau

LEAST = 3  # students, for a tau to say something


def shift_of(metrics: Mapping[str, Any]) -> float | None:
    """Retrained minus supernet PSNR in dB, on the pictures that the search looks at."""
    if "psnr_retrained" not in metrics:
        return None
    return float(metrics["psnr_retrained"] - metrics["psnr_supernet"])


def agreement(rows: Sequence[dict[str, Any]]) -> str:
    """One sentence on supernet scores beside what students reached; empty if nothing is known."""
    known = [r["student"] for r in rows if r["student"] and shift_of(r["student"]) is not None]
    if not known:
        return ""
    before = [m["psnr_supernet"] for m in known]
    after = [m["psnr_retrained"] for m in known]
    text = f"Retraining moved PSNR by {np.mean(np.subtract(after, before)):+.2f} dB on average"
    if len(known) < LEAST:
        return text
    tau = float(kendalltau(before, after).statistic)
    return f"{text}; Kendall's tau between supernet and retrained PSNR {tau:.2f}"


def stopped(rows: Sequence[dict[str, Any]]) -> list[str]:
    """A sentence on each member whose training was stopped early."""
    return [
        f"{row['id']} was stopped after {end['step']:,} steps at {end['psnr']:.2f} dB: dominated "
        f"by {end['by']}, which is cheaper and was at {end['psnr_by']:.2f} dB"
        for row in rows
        if (end := row["stopped"])
    ]
