"""Switches the agent on and off for this process: one state, three users.

`install`, the middleware and `watch` come here; so does the start-up hook.
Nothing is measured before a loop runs: the agent in C makes its segment then,
never at import and never in a process that only supervises others.
"""

from __future__ import annotations

import logging
import sys
import threading
from typing import TYPE_CHECKING

from loopguard import _agent, answers, patches, routes, tasknames, threads
from loopguard.asgi_types import ASGIApp
from loopguard.config import LoopGuardConfig, switched_off

if TYPE_CHECKING:
    from loopguard.events import Subscription  # loaded when something subscribes

_log = logging.getLogger("loopguard")


class _State:
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.config: LoopGuardConfig | None = None  # None: not started
        self.life = 0  # how often it was started
        self.reported = ""  # last reason logged
        self.subscriptions: list[Subscription] = []  # the configuration's own
        self.for_tests = False  # a test run armed it, not the application
        self.provisional = False  # until the application's own configuration comes


_state = _State()


def start(config: LoopGuardConfig, *, for_tests: bool = False, provisional: bool = False) -> bool:
    """Arms the agent; the first configuration of a process holds until `stop`.

    Args:
        config: the options.
        for_tests: a test run asks, on its own account: an application that
            comes with a configuration of its own is not told that it is late.
        provisional: a module needs the agent, with whatever configuration: the
            next one that is not takes its place, as far as no loop has run.
    Returns:
        False when loopguard is switched off or could not start: then the
        caller leaves the application as it is. The reason is logged once and
        shown by the viewer.
    """
    reason = switched_off() or ("" if config.enabled else "enabled=False in LoopGuardConfig")
    with _state.lock:
        if reason:
            if _state.config is None:
                _agent.off(reason)
            return False
        if _state.config is None:
            _state.for_tests = for_tests
            _state.provisional = provisional
            return _arm(config)
        if provisional:
            return True
        if _state.provisional and not for_tests:
            _state.provisional = False
            return _take_over(config)
        # what the middleware does with an answer is not the agent's affair
        quiet = _state.for_tests or for_tests
        if not quiet and config.to_settings() != _state.config.to_settings():
            _report("another configuration is already in force; this one is ignored")
        return True


def is_provisional() -> bool:
    """Whether nobody but a module that needs it has started the agent."""
    return _state.config is not None and _state.provisional


def is_running() -> bool:
    """Whether the agent is armed in this process."""
    return _state.config is not None


def life() -> int:
    """Number of the present life of the agent: `stop` ends it, the next start
    begins another one.
    """
    return _state.life


def prometheus_enabled() -> bool:
    """Whether the configuration in force asks for the original's metric names."""
    return _state.config is not None and _state.config.prometheus_enabled


def measured(
    app: ASGIApp, config: LoopGuardConfig | None = None, *, marks: bool = False
) -> ASGIApp:
    """`app` wrapped by the agent, its answers treated as `config` says.

    None leaves them alone, as does mode "log". An app already wrapped comes back
    as it is, unless something is to be done with its answers or requests. Call
    after `start` has said True. `marks`: see `answers.rules`.
    """
    return _agent.wrap(app, None if config is None else answers.rules(config, marks=marks))


def stop() -> None:
    """Takes loopguard out of this process.

    Threads, task factories, replaced functions and class attributes are as
    before; the segment goes or stays by `keep_segment`. An attribute that
    somebody else has patched since is left alone, and that is logged. Wrapped
    applications stay callable and pass everything through. Safe to call twice.
    """
    with _state.lock:
        for name in (*patches.undo(), *threads.undo()):
            _log.warning("%s was patched by others after loopguard; it stays wrapped", name)
        if _state.config is not None:
            _state.config = None
            _state.reported = ""
            for subscription in _state.subscriptions:
                subscription.close()
            _state.subscriptions.clear()
            _agent.stop()
            _agent.set_route_namer(None)


def status() -> dict[str, object]:
    """What the agent does in this process.

    Returns:
        A new dict: features on or off with their reasons, the path of the
        segment (None before a loop ran), counters, ``"paused"``, ``"patched"``,
        the names of the Python attributes that are replaced at this moment, and
        ``"listeners"``, how many subscriptions, events, errors and slow calls
        of callbacks there were.
    """
    events = sys.modules.get("loopguard.events")
    listeners = events.status() if events is not None else {}
    return {
        **_agent.status(),
        "patched": (*patches.names(), *threads.names()),
        "listeners": listeners,
    }


def pause() -> None:
    """Lets every request, WebSocket and task that begins from now on pass bare.

    For this process only, until `resume` or `stop`; any thread. What is open
    goes on being measured to its end, and its answer bears its headers. The
    segment stays, and the viewer shows that it is paused. Safe to call twice,
    and before anything is measured.
    """
    _agent.pause(True)


def resume() -> None:
    """Ends `pause`: requests that begin are measured again."""
    _agent.pause(False)


def is_paused() -> bool:
    """Whether `pause` is in force in this process."""
    return bool(_agent.status()["paused"])


def _arm(config: LoopGuardConfig) -> bool:
    try:
        _agent.start(config.to_settings())
    except (OSError, RuntimeError) as error:
        # the worker serves without us
        _agent.off(str(error))
        _report(f"switched off: {error}")
        return False
    _state.config = config
    _state.life += 1
    _agent.set_route_namer(routes.template)
    patches.apply()
    threads.apply()
    if config.task_factory:
        tasknames.apply()
    _subscribe(config)
    return True


def _take_over(config: LoopGuardConfig) -> bool:
    assert _state.config is not None
    if config.to_settings() != _state.config.to_settings():
        if _agent.status()["state"] == "armed":
            _agent.stop()
            _agent.start(config.to_settings())
        else:
            _report("another configuration is already in force; this one is ignored")
    _state.config = config
    _subscribe(config)
    return True


def _subscribe(config: LoopGuardConfig) -> None:
    """The log and the user's own callback, each only if it is wanted."""
    if config.log_blocking_events or config.dev_mode or config.on_blocking is not None:
        from loopguard import report_log  # noqa: PLC0415 (only where somebody listens)

        _state.subscriptions += report_log.arm(config)


def _report(text: str) -> None:
    if text != _state.reported:
        _state.reported = text
        _log.warning("%s", text)
