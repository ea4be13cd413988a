"""Files are written whole or not at all: temporary file, fsync, rename."""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from evo_agd.errors import InputError


@contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A file to write into, which takes the place of ``path`` once all of it is there.

    Raises:
        InputError: the folder cannot be written to, or the disk is full.
    """
    temporary = None
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        with os.fdopen(handle, "wb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException as error:
        if temporary is not None:
            Path(temporary).unlink(missing_ok=True)
        if isinstance(error, OSError):
            reason = error.strerror or error
            raise InputError(path, "a place that can be written to", reason) from error
        raise


def write_bytes(path: Path, content: bytes) -> None:
    """Replace ``path`` by ``content`` in one step; an interrupted write leaves the old file.

    Raises:
        InputError: see :func:`writing`.
    """
    with writing(path) as file:
        file.write(content)


def write_text(path: Path, content: str) -> None:
    """:func:`write_bytes` for text, UTF-8."""
    write_bytes(path, content.encode())


def write_json(path: Path, value: Any) -> None:
    """:func:`write_bytes` for JSON, indented so that a person can read and diff it."""
    write_text(path, json.dumps(value, indent=2, allow_nan=False) + "\n")
