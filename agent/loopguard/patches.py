"""The Python attributes that loopguard replaces, and how they come back.

Routing tells us the endpoint of a request before its handler runs, so that a
block is named while it lasts. Starlette calls ``route.handle``; FastAPI and its
included routers override it. Modules that are not imported yet are patched
right after their import.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any

from loopguard import _agent
from loopguard.imports import ImportHooks

# module -> (class, kind of its `handle`)
ROUTE_CLASSES: dict[str, tuple[tuple[str, str], ...]] = {
    "starlette.routing": (
        ("Route", "route"),
        ("WebSocketRoute", "route"),
        ("Mount", "mount"),
        ("Host", "mount"),
    ),
    "fastapi.routing": (
        ("APIRoute", "route"),
        ("APIWebSocketRoute", "route"),
        ("_FrontendRouteGroup", "route"),
    ),
}


@dataclass(frozen=True)
class Patch:
    """One attribute that was replaced."""

    owner: Any  # a class or a module
    name: str
    original: Any  # what stood in the owner's own namespace ...
    had_own: bool  # ... if anything did
    replacement: Any


_hooks = ImportHooks()
_adopted: list[ImportHooks] = []
_patches: list[Patch] = []
# application -> (attribute, id of what we put there). Weak: an application is
# not kept alive by being measured.
_instances: weakref.WeakKeyDictionary[Any, tuple[str, int]] = weakref.WeakKeyDictionary()


def apply() -> None:
    """Patches the routes of Starlette and FastAPI, now or once imported."""
    for module in ROUTE_CLASSES:
        when_imported(module, _patch_routes)


def when_imported(name: str, patch: Callable[[ModuleType], None]) -> None:
    """Calls `patch(module)` now or right after its import, until `undo`."""
    _hooks.when_imported(name, patch)


def adopt(hooks: ImportHooks) -> None:
    """Lets `undo` also clear `hooks`, which wait since before the package was imported."""
    if hooks not in _adopted:
        _adopted.append(hooks)


def replace(owner: Any, name: str, replacement: Any, made: list[Patch] | None = None) -> None:
    """Sets `owner.name`, of a class or a module, until `undo`.

    Or until `put_back` of `made`, a list of one's own to note it in.
    """
    own = vars(owner)
    patch = Patch(owner, name, own.get(name), name in own, replacement)
    (_patches if made is None else made).append(patch)
    setattr(owner, name, replacement)


def shadow(instance: Any, name: str, replacement: Any) -> None:
    """Sets `replacement` on one instance, over its class's `name`, until `undo`."""
    setattr(instance, name, replacement)
    _instances[instance] = (name, id(replacement))


def restore(owner: Any, name: str) -> bool:
    """Undoes one `replace`. False: others have patched it since, and it is left."""
    for at, patch in enumerate(_patches):
        if patch.owner is owner and patch.name == name:
            del _patches[at]
            return _put_back(patch)
    return True


def undo() -> list[str]:
    """Puts everything back, last first.

    Returns:
        Names of attributes that others have patched since; those are left.
    """
    for hooks in (_hooks, *_adopted):
        hooks.clear()
    _adopted.clear()
    left = put_back(_patches)
    for instance, (name, ours) in list(_instances.items()):
        if id(vars(instance).get(name)) == ours:
            delattr(instance, name)
        else:
            left.append(f"{type(instance).__qualname__}.{name} of one application")
    _instances.clear()
    return left


def put_back(made: list[Patch]) -> list[str]:
    """Empties a list of `replace`, last first; the names that others have patched since."""
    left = []
    while made:
        patch = made.pop()
        if not _put_back(patch):
            left.append(name_of(patch))
    return left


def _put_back(patch: Patch) -> bool:
    if vars(patch.owner).get(patch.name) is not patch.replacement:
        return False
    if patch.had_own:
        setattr(patch.owner, patch.name, patch.original)
    else:
        delattr(patch.owner, patch.name)
    return True


def names() -> tuple[str, ...]:
    """The attributes replaced now, such as "starlette.routing.Mount.handle"."""
    return tuple(name_of(patch) for patch in _patches)


def _patch_routes(module: ModuleType) -> None:
    for class_name, kind in ROUTE_CLASSES[module.__name__]:
        cls = getattr(module, class_name, None)
        # a class that inherits `handle` is served by its base
        if cls is not None and "handle" in vars(cls):
            replace(cls, "handle", _agent.route_handle(cls.handle, kind))


def name_of(patch: Patch) -> str:
    """Such as "starlette.routing.Mount.handle"."""
    if isinstance(patch.owner, ModuleType):
        return f"{patch.owner.__name__}.{patch.name}"
    return f"{patch.owner.__module__}.{patch.owner.__qualname__}.{patch.name}"
