"""The end of a translation's training: norms are frozen, and the network learns to do without.

What each way of freezing gave is in ``benchmarks/int8.md``.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from pathlib import Path

from evo_agd.config.settings import TranslationTraining
from evo_agd.nets.freezing import frozen
from evo_agd.nets.translation import TranslationStudent
from evo_agd.train.distillation import student_losses
from evo_agd.train.loop import Schedule, Tick, fit
from evo_agd.train.losses import DistillationLoss
from evo_agd.train.pairs import CropSampler, Pair

CROPS = 32  # whose statistics the norms are frozen at
RATE = 0.03  # of the learning rate before: the network is nearly there


def frozen_student(
    net: TranslationStudent,
    pairs: Sequence[Pair],
    settings: TranslationTraining,
    *,
    label: str,
    loss: DistillationLoss,
    seed: int,
    bf16: bool,
    device: str = "cpu",
    checkpoint: Path | None = None,
    tick: Tick = lambda step, note: None,
) -> TranslationStudent:
    """Freeze a trained student's norms and train it on for ``settings.frozen_steps``.

    Args:
        label: with ``seed``, what the crops are drawn from.
        checkpoint: a file to resume the training from, see :func:`evo_agd.train.loop.fit`.
    """
    key = zlib.crc32(f"{seed} {label} frozen".encode())
    low, _, _ = CropSampler(pairs, CROPS, settings.crop, key, upright=True).draw(0)
    child = frozen(net.eval(), low.to(device)).to(device)
    if not settings.frozen_steps:
        return child
    sampler = CropSampler(pairs, settings.batch, settings.crop, key, upright=True)
    losses = student_losses(child, sampler, loss=loss, bf16=bf16, device=device)
    schedule = Schedule(
        settings.frozen_steps,
        RATE * settings.learning_rate,
        settings.ema,
        by_fan_in=settings.rate_by_fan_in,
    )
    fit(child, losses, schedule, checkpoint=checkpoint, tick=tick)
    return child
