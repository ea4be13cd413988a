"""The one exception that means "the input is wrong", as opposed to "the program is"."""

from __future__ import annotations


class InputError(Exception):
    """Bad input from the user; the doors print it as one line and exit with status 2.

    Args:
        where: the file, and the key or line inside it where that is known.
        expected: what would have been accepted.
        found: what was there instead.
    """

    def __init__(self, where: object, expected: str, found: object) -> None:
        self.where = str(where)
        self.expected = expected
        self.found = str(found)
        super().__init__(self.where, self.expected, self.found)

    def __str__(self) -> str:
        line = f"{self.where}: expected {self.expected}, found {self.found}"
        return " ".join(line.split())
