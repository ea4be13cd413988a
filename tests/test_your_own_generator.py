"""docs/your-own-generator.md, followed as written."""

from __future__ import annotations

import importlib.util
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from tests.conftest import ROOT, photograph

PAGE = (ROOT / "docs/your-own-generator.md").read_text()


def block(kind: str, index: int) -> str:
    return re.findall(rf"```{kind}\n(.*?)```", PAGE, re.DOTALL)[index]


def run(folder: Path, command: str) -> str:
    command = re.sub(r"^python\b", sys.executable, command)
    done = subprocess.run(
        command, shell=True, cwd=folder, capture_output=True, text=True, check=False, timeout=240
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The user's folder after chapter 2."""
    folder = tmp_path_factory.mktemp("mine")
    (folder / "my_unet.py").write_text(block("python", 0))
    spec = importlib.util.spec_from_file_location("my_unet", folder / "my_unet.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    torch.manual_seed(0)
    torch.save(module.UNet().state_dict(), folder / "unet.pth")
    (folder / "my_space.yaml").write_text(block("yaml", 0))
    for name, count in (("photographs", 3), ("held_back", 2)):
        (folder / name).mkdir()
        for index in range(count):
            picture = Image.fromarray(photograph(70, 83, index + 10 * count))
            picture.save(folder / name / f"{index}.png")
    Image.fromarray(photograph(50, 61, 5)).save(folder / "picture.png")
    return folder


def test_the_page_works_as_written(folder: Path) -> None:
    for command in block("sh", 0).splitlines():
        run(folder, command)
    front = json.loads((folder / "my_run/front.json").read_text())
    students = sorted(p.name for p in (folder / "my_run/students").iterdir())
    assert len(students) == 2 and set(students) <= {m["id"] for m in front}
    assert all(m["gmacs"] <= 2 for m in front)
    assert (folder / "my_run/sheet.png").is_file() and (folder / "my_run/report.html").is_file()
    run(folder, block("sh", 1).strip().replace("ID", students[0]))
    (folder / "use.py").write_text(block("python", 1))
    run(folder, "python use.py")
    with Image.open(folder / "output.png") as output:
        assert output.size == (60, 48)
