"""Peak memory of a model, measured in a process of its own: ``python -m evo_agd.deploy.memory``."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import numpy as np

from evo_agd.deploy.sessions import session

STATUS = Path("/proc/self/status")
SECONDS = 300


def peak_megabytes(model: Path, size: int, threads: int) -> float:
    """What loading a model and running it once on a ``size`` x ``size`` input adds, in MB (1e6).

    Raises:
        RuntimeError: the model does not run.
    """
    command = [sys.executable, "-m", __name__, str(model), str(size), str(threads)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    if done.returncode:
        raise RuntimeError(f"{model} does not run: {done.stderr.strip().splitlines()[-1:]}")
    return float(done.stdout)


def _resident() -> tuple[int, int]:
    """Resident bytes now and at most so far."""
    if STATUS.exists():
        fields = dict(line.split(":", 1) for line in STATUS.read_text().splitlines())
        now, most = (int(fields[key].split()[0]) * 1024 for key in ("VmRSS", "VmHWM"))
        return now, most
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss  # bytes on macOS
    return most, most


def _main(path: str, size: str, threads: str) -> None:
    before, _ = _resident()
    model = session(Path(path), int(threads))
    given = model.get_inputs()[0]
    model.run(None, {given.name: np.zeros((1, 3, int(size), int(size)), np.float32)})
    sys.stdout.write(f"{(_resident()[1] - before) / 1e6}\n")


if __name__ == "__main__":
    _main(*sys.argv[1:])
