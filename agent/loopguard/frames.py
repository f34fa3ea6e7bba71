"""Frames of a Python stack as values, and which of them are the user's."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass

__all__ = ["Frame", "user_frame"]

_OURS = os.path.dirname(os.path.abspath(__file__)) + os.sep
_STDLIB = os.path.dirname(os.path.abspath(os.__file__)) + os.sep
_PACKAGES = (f"{os.sep}site-packages{os.sep}", f"{os.sep}dist-packages{os.sep}")


@dataclass(frozen=True)
class Frame:
    """One frame of a stack.

    Args:
        filename: as the code object has it.
        function: its qualified name; before Python 3.11 the bare one.
        lineno: the line that ran; 0 when it is not known.
    """

    filename: str
    function: str
    lineno: int

    def __str__(self) -> str:
        return f"{self.filename}:{self.lineno} in {self.function}"


def user_frame(stack: Sequence[Frame]) -> Frame | None:
    """The innermost frame of `stack` (innermost first) that the user wrote.

    Failing that the innermost one outside of Python's own library, failing that
    the innermost one; None for an empty stack.
    """
    outside = [f for f in stack if not _is_pythons(f.filename)]
    written = [f for f in outside if not _is_package(f.filename)]
    return next(iter((*written, *outside, *stack)), None)


def _is_pythons(filename: str) -> bool:
    return filename.startswith("<frozen") or (
        filename.startswith(_STDLIB) and not _is_package(filename)
    )


def _is_package(filename: str) -> bool:
    return filename.startswith(_OURS) or any(part in filename for part in _PACKAGES)
