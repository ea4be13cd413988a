"""Train the compact ESRGAN generator that ships as the default teacher.

    python scripts/train_teacher.py --data DIR [DIR ...] --test DIR --to FILE.safetensors

Pixel loss (L1) against the photographs, no discriminator: the PSNR-oriented generator of ESRGAN
(Wang et al., 2018) with 2 blocks of 32 features instead of 23 of 64. It resumes from FILE.state.
The tail starts as a smooth enlargement of the input (three channels carry the picture, the
upsampling convolutions start as binomial filters), which saves the first thousand steps.
"""

from __future__ import annotations

import argparse
import json
import logging
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from spandrel.architectures.ESRGAN import ESRGAN

from evo_agd.train.images import crop_to_multiple, downscale, list_photos, read_photo
from evo_agd.train.quality import psnr_y

log = logging.getLogger("train_teacher")
SCALE = 4


def smooth_start(net: torch.nn.Module) -> None:
    """Initialise the generator as a plain enlargement plus small random features."""
    binomial = torch.outer(torch.tensor([0.25, 0.5, 0.25]), torch.tensor([0.25, 0.5, 0.25]))
    centre = torch.zeros(3, 3)
    centre[1, 1] = 1.0
    state = net.state_dict()
    with torch.no_grad():
        for name, weight in state.items():
            if not name.endswith("weight"):
                weight.zero_()
            elif ".sub." in name:
                weight.mul_(0.3)
        last = max(int(name.split(".")[3]) for name in state if name.startswith("model.1.sub."))
        state[f"model.1.sub.{last}.weight"].mul_(0.1)
        for name, kernel in (("0", centre), ("3", binomial), ("6", binomial), ("8", centre)):
            weight = state[f"model.{name}.weight"]
            for channel in range(3):
                weight[channel] = 0.0
                weight[channel, channel] = kernel
        weight = state["model.10.weight"]
        weight.mul_(0.1)
        for channel in range(3):
            weight[channel, :3] = 0.0
            weight[channel, channel] = centre


def test_psnr(net: torch.nn.Module, pairs: list[tuple[np.ndarray, np.ndarray]]) -> float:
    """Mean Y-PSNR in dB over (low, high) resolution pairs, FP32."""
    scores = []
    for low, high in pairs:
        x = torch.from_numpy(low.copy()).permute(2, 0, 1)[None].float() / 255
        with torch.no_grad():
            y = net(x)[0].clamp(0, 1).mul(255).round().byte().permute(1, 2, 0).numpy()
        scores.append(psnr_y(y, high, SCALE))
    return float(np.mean(scores))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, nargs="+", required=True)
    parser.add_argument("--test", type=Path, required=True)
    parser.add_argument("--to", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=8000)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--crop", type=int, default=32, help="low-resolution pixels")
    parser.add_argument("--lr", type=float, default=1e-3)
    parser.add_argument("--filters", type=int, default=32)
    parser.add_argument("--blocks", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")

    torch.manual_seed(args.seed)
    highs = [
        crop_to_multiple(read_photo(p), SCALE) for folder in args.data for p in list_photos(folder)
    ]
    highs = [h for h in highs if min(h.shape[:2]) >= args.crop * SCALE]
    photos = [(downscale(h, SCALE), h) for h in highs]
    area = np.array([low.shape[0] * low.shape[1] for low, _ in photos], dtype=float)
    tests = [crop_to_multiple(read_photo(p), SCALE) for p in list_photos(args.test)]
    pairs = [(downscale(t, SCALE), t) for t in tests]
    log.info("%d training photographs, %.1f megapixels", len(photos), area.sum() * 16 / 1e6)

    net = ESRGAN(num_filters=args.filters, num_blocks=args.blocks)
    smooth_start(net)
    net = net.to(memory_format=torch.channels_last)
    ema = {k: v.clone() for k, v in net.state_dict().items()}
    optimizer = torch.optim.Adam(net.parameters(), lr=args.lr)
    schedule = torch.optim.lr_scheduler.OneCycleLR(
        optimizer, args.lr, total_steps=args.steps + 1, pct_start=0.05
    )
    state_file = args.to.with_suffix(".state")
    start = 0
    if state_file.exists():
        state = torch.load(state_file, weights_only=True)
        net.load_state_dict(state["net"])
        optimizer.load_state_dict(state["optimizer"])
        schedule.load_state_dict(state["schedule"])
        ema, start = state["ema"], state["step"]
        log.info("resumed at step %d", start)

    began = time.monotonic()
    for step in range(start, args.steps):
        rng = np.random.default_rng([args.seed, step])
        lows, targets = [], []
        for index in rng.choice(len(photos), args.batch, p=area / area.sum()):
            low, high = photos[index]
            y = int(rng.integers(low.shape[0] - args.crop + 1))
            x = int(rng.integers(low.shape[1] - args.crop + 1))
            turn, flip = int(rng.integers(4)), int(rng.integers(2))
            a = low[y : y + args.crop, x : x + args.crop]
            b = high[y * SCALE : (y + args.crop) * SCALE, x * SCALE : (x + args.crop) * SCALE]
            for picture, into in ((a, lows), (b, targets)):
                picture = np.rot90(picture, turn)
                into.append(picture[:, ::-1] if flip else picture)
        low_batch, high_batch = (
            torch.from_numpy(np.stack(p)).permute(0, 3, 1, 2).float() / 255 for p in (lows, targets)
        )
        low_batch = low_batch.contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16):
            out = net(low_batch)
        loss = (out.float() - high_batch).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(net.parameters(), 0.5)
        optimizer.step()
        schedule.step()
        decay = min(0.999, (step + 1) / (step + 10))
        with torch.no_grad():
            for k, v in net.state_dict().items():
                ema[k].lerp_(v, 1 - decay)
        done = step + 1
        if done % 100 == 0:
            rate = (done - start) / (time.monotonic() - began)
            log.info("step %d loss %.5f, %.2f steps/s", done, loss.item(), rate)
        if done % 500 == 0 or done == args.steps:
            tester = ESRGAN(num_filters=args.filters, num_blocks=args.blocks)
            tester.load_state_dict(ema)
            reached = test_psnr(tester, pairs)
            log.info("step %d: %s %.3f dB", done, args.test.name, reached)
            parts = {"net": net.state_dict(), "optimizer": optimizer.state_dict()}
            parts |= {"schedule": schedule.state_dict(), "ema": ema, "step": done}
            torch.save(parts, state_file.with_suffix(".tmp"))
            state_file.with_suffix(".tmp").replace(state_file)
            half = {k: v.half().contiguous() for k, v in ema.items()}
            facts = {"steps": done, "psnr_y": round(reached, 3), "test": args.test.name}
            facts |= {"data": " ".join(folder.name for folder in args.data)}
            save_file(half, args.to, metadata={k: json.dumps(v) for k, v in facts.items()})


if __name__ == "__main__":
    main()
