"""``evo-agd``: the doors as sub-commands."""

from __future__ import annotations

import importlib
import sys

DOORS = ("search", "pareto", "apply", "benchmark")


def run() -> int:
    """Call the door that the first argument names; returns its exit status."""
    if len(sys.argv) < 2 or sys.argv[1] not in DOORS:
        listed = ", ".join(DOORS)
        asked_for_help = sys.argv[1:2] in (["-h"], ["--help"])
        print(f"usage: evo-agd {{{listed}}} ...", file=sys.stdout if asked_for_help else sys.stderr)
        return 0 if asked_for_help else 2
    status: int = importlib.import_module(f"evo_agd.{sys.argv[1]}").main(sys.argv[2:])
    return status


if __name__ == "__main__":
    sys.exit(run())
