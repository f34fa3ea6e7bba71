"""What a code object or a C function is called: ``module.Class.method``."""

from __future__ import annotations

import functools
import inspect
import types
import weakref
from collections.abc import Iterator, Mapping
from typing import Any

__all__ = ["c_name", "python_name", "qualname"]

_found: weakref.WeakKeyDictionary[types.CodeType, str] = weakref.WeakKeyDictionary()


def python_name(code: types.CodeType, variables: Mapping[str, Any] | None) -> str:
    """Module and qualified name of a Python function.

    Args:
        code: the function's.
        variables: the globals that it runs with.
    """
    variables = variables or {}
    return f"{variables.get('__name__', 'unknown')}.{qualname(code, variables)}"


def qualname(code: types.CodeType, variables: Mapping[str, Any]) -> str:
    """Before Python 3.11, code does not know it: looked for in its module."""
    known: str | None = getattr(code, "co_qualname", None) or _found.get(code)
    if known is None:
        known = next((name for name, c in _functions(variables) if c is code), code.co_name)
        _found[code] = known
    return known


def c_name(function: Any) -> str:
    """Module and qualified name of a C function, method, type or callable object.

    Of a `functools.partial` the function's within. ``time.sleep``,
    ``_io.FileIO.read``, ``builtins.sorted``.
    """
    while isinstance(function, functools.partial):
        function = function.func
    own = getattr(function, "__qualname__", None) or getattr(function, "__name__", None)
    if not isinstance(own, str):
        function = type(function)  # an object that can be called
        own = function.__qualname__
    return f"{_module_of(function)}.{own}"


def _module_of(function: Any) -> str:
    owner = getattr(function, "__objclass__", None)
    bound_to = getattr(function, "__self__", None)
    if owner is None and bound_to is not None and not inspect.ismodule(bound_to):
        owner = bound_to if isinstance(bound_to, type) else type(bound_to)
    module = getattr(owner if owner is not None else function, "__module__", None)
    return module if isinstance(module, str) else "builtins"


def _functions(variables: Mapping[str, Any]) -> Iterator[tuple[str, types.CodeType]]:
    """All functions of a module, those inside of others too."""
    for value in list(variables.values()):
        if isinstance(value, type):
            for member in list(vars(value).values()):
                yield from _with_inner(member)
        else:
            yield from _with_inner(value)


def _with_inner(value: Any) -> Iterator[tuple[str, types.CodeType]]:
    if isinstance(value, property):
        for part in (value.fget, value.fset, value.fdel):
            yield from _with_inner(part)
        return
    value = (
        inspect.unwrap(getattr(value, "__func__", value))
        if callable(value)
        else (
            getattr(value, "__func__", None)  # a static method of before Python 3.10
        )
    )
    if isinstance(value, types.FunctionType):
        yield value.__qualname__, value.__code__
        yield from _inner(value.__code__, f"{value.__qualname__}.<locals>.")


def _inner(code: types.CodeType, prefix: str) -> Iterator[tuple[str, types.CodeType]]:
    for const in code.co_consts:
        if isinstance(const, types.CodeType):
            name = prefix + const.co_name
            yield name, const
            is_class = not const.co_flags & inspect.CO_NEWLOCALS
            yield from _inner(const, f"{name}." if is_class else f"{name}.<locals>.")
