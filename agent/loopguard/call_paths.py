"""Which code a monitor of `loopguard.calls` sees: real paths, whole names."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable

__all__ = ["DEFAULT_EXCLUDES", "PathFilter", "is_machinery"]

# What is left out when the user names nothing himself.
DEFAULT_EXCLUDES = ("importlib", "_frozen_importlib", "_frozen_importlib_external")

# What runs the callbacks, and waits between them: never a block of its own,
# whatever the paths say. A block in a coroutine or callback is its function's.
_MACHINERY = (
    "asyncio",
    "selectors",
    "loopguard",
    "uvloop",
    "winloop",
    "rloop",
    "nest_asyncio",
    "anyio._backends",
    "anyio._core._eventloop",
)
_Rule = Callable[[str, str], bool]  # (file name, module name) -> does it match?


class PathFilter:
    """Includes and excludes, applied to a code object's file and module.

    A name matches whole components: "app" matches the module ``app`` and all
    below it, not ``app2`` nor ``my.app``.

    Args:
        include: absolute paths of folders or files; module names ("shop",
            "shop.orders" or "shop/orders"); None or empty: everything.
        exclude: the same; wins over `include`. None: `DEFAULT_EXCLUDES`.
    Raises:
        TypeError: a bare string, or an entry that is no path.
        ValueError: an empty entry.
    """

    def __init__(self, include: Iterable[str] | None, exclude: Iterable[str] | None) -> None:
        included = _texts("include_paths", include or ())
        excluded = _texts("exclude_paths", DEFAULT_EXCLUDES if exclude is None else exclude)
        self.key: tuple[tuple[str, ...], tuple[str, ...], str] = (
            included,
            excluded,
            os.getcwd() if included or exclude else "",
        )
        self._include = [_rule(text) for text in included]
        self._exclude = [_rule(text) for text in excluded]

    def sees(self, filename: str, module: str) -> bool:
        """Is code of this file and module visible?"""
        if is_machinery(module) or any(rule(filename, module) for rule in self._exclude):
            return False
        return not self._include or any(rule(filename, module) for rule in self._include)


def is_machinery(module: str) -> bool:
    """Does this module run loops rather than work on them?"""
    return any(_is_below(module, name) for name in _MACHINERY)


def _rule(text: str) -> _Rule:
    if text.startswith("<"):  # "<frozen", "<string>": files that are none
        return lambda filename, _: filename.startswith(text)
    places = [os.path.abspath(text), os.path.realpath(text)]
    if os.path.isabs(text):
        return lambda filename, _: _lies_in(filename, places)
    name = text.removesuffix(".py").replace(os.sep, ".").strip(".")
    places += [f"{place}.py" for place in places]
    return lambda filename, module: _is_below(module, name) or _lies_in(filename, places)


def _is_below(module: str, name: str) -> bool:
    return module == name or module.startswith(f"{name}.")


def _lies_in(filename: str, places: list[str]) -> bool:
    if filename.startswith("<"):
        return False
    files = (os.path.abspath(filename), os.path.realpath(filename))
    return any(
        file == place or file.startswith(place.rstrip(os.sep) + os.sep)
        for file in files
        for place in places
    )


def _texts(argument: str, values: Iterable[str]) -> tuple[str, ...]:
    if isinstance(values, (str, bytes, os.PathLike)):
        raise TypeError(f"{argument} must be a list of paths, not {values!r} alone")
    texts = tuple(os.fsdecode(value) for value in values)
    if "" in texts:
        raise ValueError(f"{argument} must not contain an empty path")
    return texts
