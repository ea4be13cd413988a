"""Carries search_spaces/*.yaml into the wheel; everything else is in pyproject.toml."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildPy(build_py):
    """Copies the search spaces beside the package's own files."""

    def run(self) -> None:
        """Build, then copy."""
        super().run()
        target = Path(self.build_lib) / "evo_agd" / "search_spaces"
        if not self.editable_mode:
            shutil.copytree("search_spaces", target, dirs_exist_ok=True)


setup(cmdclass={"build_py": BuildPy})
