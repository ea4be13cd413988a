from __future__ import annotations

import os
import signal

import numpy as np
import pytest
import torch

from evo_agd.config import load
from evo_agd.evolve.workers import Workers, cluster
from evo_agd.nets.build import builder, space_of, supernet_of
from evo_agd.train.distillation import score
from evo_agd.train.losses import DistillationLoss
from evo_agd.train.pairs import Pair
from tests.conftest import photograph


def test_workers_agree_with_this_process_and_survive_a_kill(world) -> None:
    settings = load(world / "tiny.yaml")
    space, net = space_of(settings), supernet_of(settings)
    high = photograph(48, 64, 1)
    pairs = [Pair("x", high[::4, ::4].copy(), high, high)]
    loss = DistillationLoss({"teacher_l1": 1.0})
    rng = np.random.default_rng(0)
    genomes = [space.random(rng) for _ in range(12)]
    with cluster(None, 2):
        pool = Workers(2, builder(settings), net.state_dict(), pairs, loss=loss, bf16=False)
        found = {index: figures for index, figures, _ in pool(genomes)}
        import ray

        pids = ray.get([a.pid.remote() for a in pool.actors])
        assert os.getpid() not in pids
        os.kill(pids[0], signal.SIGKILL)
        again = {index: figures for index, figures, _ in pool(genomes)}
        pool.close()
    assert sorted(found) == list(range(12)) and again == found
    with torch.inference_mode():
        for index, genome in enumerate(genomes):
            path = space.decode(genome)
            here = score(lambda x, path=path: net(x, path), pairs, loss=loss, bf16=False)
            assert found[index]["psnr"] == pytest.approx(here.psnr, abs=1e-3)
            assert found[index]["distillation_loss"] == pytest.approx(
                here.distillation_loss, rel=1e-4
            )
