"""What the user may set, checked once, where it is given.

Order of a value: the argument, else ``LOOPGUARD_<FIELD>`` in the environment,
else the default. A bad argument raises at the call that got it; a bad
environment value is reported once on the logger ``loopguard`` and the default
is used, because nobody should lose a worker to a typo in a deployment file.
"""

from __future__ import annotations

import dataclasses
import inspect
import logging
import math
import os
import re
from collections.abc import Callable, Collection, Container, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, TypeVar

from loopguard import appname
from loopguard.asgi_types import Scope
from loopguard.version import __version__

if TYPE_CHECKING:
    from typing_extensions import dataclass_transform

    from loopguard.events import BlockingEvent
else:

    def dataclass_transform(**_):
        """For type checkers only."""
        return lambda decorator: decorator


EnforcementMode = Literal["log", "warn", "strict"]

_ENV_PREFIX = "LOOPGUARD_"
_NS_PER_MS = 1_000_000
_Class = TypeVar("_Class")
_log = logging.getLogger("loopguard")
_warned: set[str] = set()  # environment variables already reported


def _default_of(entry: dataclasses.Field[Any]) -> Any:
    if entry.default_factory is not dataclasses.MISSING:
        return entry.default_factory()
    return entry.default


@dataclass_transform(kw_only_default=True, frozen_default=True, field_specifiers=(field,))
def _options(cls: type[_Class]) -> type[_Class]:
    """A frozen dataclass with keywords only, on Python 3.9 too.

    Its own ``__init__``, because the generated one cannot tell a value that was
    given from the same value by default.
    """
    made: Any = dataclass(frozen=True, init=False)(cls)
    kind = inspect.Parameter.KEYWORD_ONLY
    parameters = [
        inspect.Parameter(f.name, kind, default=_default_of(f), annotation=f.type)
        for f in dataclasses.fields(made)
    ]
    defaults = {p.name: p.default for p in parameters}

    def init(self: Any, **arguments: Any) -> None:
        for name in arguments:
            if name not in defaults:
                raise TypeError(f"{cls.__name__}() got an unexpected keyword argument {name!r}")
        for name, value in _values_for(arguments, defaults).items():
            object.__setattr__(self, name, value)

    this = inspect.Parameter("self", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    init.__name__ = "__init__"
    init.__signature__ = inspect.Signature([this, *parameters])  # type: ignore[attr-defined]
    made.__init__ = init
    # as dataclasses have it for keyword-only fields
    made.__match_args__ = ()  # type: ignore[misc]
    return cls


@_options
class LoopGuardConfig:
    """Options of loopguard. Keyword-only and frozen.

    Times are milliseconds. Every field can also be set by the environment
    variable ``LOOPGUARD_<FIELD>``; an argument wins over it.

    Args:
        enabled: False switches the agent off; the viewer says so.
        monitor_interval_ms: Lower bound of a calibrated threshold.
        fallback_threshold_ms: A step longer than this is a block, unless a
            calibrated or adaptive threshold was asked for.
        threshold_multiplier: Setting it asks for a calibrated threshold:
            baseline step time times this, between `monitor_interval_ms` and
            `fallback_threshold_ms`.
        calibration_iterations: Steps measured for the baseline. Setting it
            asks for a calibrated threshold too.
        adaptive_threshold: The threshold follows `adaptive_percentile` times
            `threshold_multiplier` of the recent steps below it.
        adaptive_window_size: Steps kept for that.
        adaptive_percentile: 0.5 to 0.99.
        adaptive_min_samples: Steps needed before it moves.
        adaptive_update_interval_ms: How often it moves.
        cumulative_blocking_enabled: Report many short blocks together.
        cumulative_blocking_threshold_ms: On-loop time within the window that
            makes one cumulative event.
        cumulative_window_ms: Length of that sliding window.
        cumulative_min_step_ms: Shorter steps do not count towards it.
        iteration_threshold_ms: A loop iteration longer than this is an event
            although none of its steps was. None: the threshold.
        endpoint_thresholds: ``{"POST /reports/{id}": 250.0}``, in ms.
        dev_mode: Adds the ``x-blocking-*`` headers also in mode "log"; changes
            nothing in the others.
        log_blocking_events: Log blocks on the logger ``loopguard``.
        prometheus_enabled: Offer the original's metric names too.
        enforcement_mode: "log" leaves answers alone, "warn" adds headers,
            "strict" turns the answer of a guilty request into a 503.
        exclude_paths: Paths without headers, log lines and enforcement, below
            the application's ``root_path``: whole ones ("/health"), or
            beginnings, with a ``*`` at the end ("/static/*"). They are measured
            and shown all the same.
        request_filter: Called with the ASGI scope of each request and
            WebSocket, on the loop, before the application: a false answer, and
            it is not measured. One that raises is logged once, and the request
            is measured.
        switch_header: A request that bears this header with the value "off" is
            not measured. Whoever can send it can hide a request: have a proxy
            take it off what comes from outside.
        server_timing: Adds a ``Server-Timing`` header: ``loop``, the request's
            time on the event loop until its answer began, and ``total``, in ms.
        on_blocking: Called with each `BlockingEvent`, on the loop's thread,
            after it. A coroutine function is refused.
        stack_depth: Python frames kept of a stuck loop, 1 to 64.
        max_endpoints: Rows of the endpoint table, 16 to 4096.
        segment_dir: Folder of the shared file; None is ``/dev/shm``. It must
            lie in memory (tmpfs).
        segment_mode: Permission bits of the file.
        keep_segment: When the file stays after the worker has ended: "never",
            "crash" or "always".
        hooks: "auto" or "off": exact timing of blocking calls in libc.
        task_factory: Charge child tasks to the request that made them.
        watchdog_interval_ms: Tick of the thread that watches a busy loop.
        app_name: Name of the application; None finds one in ``sys.argv``.

    Raises:
        ValueError: A value out of range; names field, value and range.
        TypeError: A value of the wrong type, or an unknown field.
    Source:
        Names, defaults and limits up to `exclude_paths` as in
        fastapi-loopguard 0.9.0.
    """

    enabled: bool = True
    monitor_interval_ms: float = 10.0
    fallback_threshold_ms: float = 50.0
    threshold_multiplier: float = 5.0
    calibration_iterations: int = 100
    adaptive_threshold: bool = False
    adaptive_window_size: int = 1000
    adaptive_percentile: float = 0.95
    adaptive_min_samples: int = 100
    adaptive_update_interval_ms: float = 1000.0
    cumulative_blocking_enabled: bool = True
    cumulative_blocking_threshold_ms: float = 200.0
    cumulative_window_ms: float = 1000.0
    cumulative_min_step_ms: float = 1.0
    iteration_threshold_ms: float | None = None
    endpoint_thresholds: Mapping[str, float] = field(default_factory=dict, hash=False)
    dev_mode: bool = False
    log_blocking_events: bool = True
    prometheus_enabled: bool = False
    enforcement_mode: EnforcementMode = "warn"
    exclude_paths: Collection[str] = frozenset({"/health", "/healthz", "/ready", "/metrics"})
    request_filter: Callable[[Scope], bool] | None = None
    switch_header: str | None = None
    server_timing: bool = False
    on_blocking: Callable[[BlockingEvent], object] | None = None
    stack_depth: int = 64
    max_endpoints: int = 256
    segment_dir: str | os.PathLike[str] | None = None
    segment_mode: int = 0o600
    keep_segment: Literal["never", "crash", "always"] = "crash"
    hooks: Literal["auto", "off"] = "auto"
    task_factory: bool = True
    watchdog_interval_ms: float = 10.0
    app_name: str | None = None
    # Which fields were set, by argument or environment: asking for a
    # multiplier of 5.0 is not the same as leaving it alone.
    _given: frozenset[str] = field(default=frozenset(), repr=False, compare=False)

    @classmethod
    def fields_from_text(cls) -> tuple[str, ...]:
        """Names of the fields that text can set: environment, command line."""
        return tuple(name for name, rule in _RULES.items() if rule.parse is not None)

    @classmethod
    def leaving_answers(cls, **options: Any) -> LoopGuardConfig:
        """A configuration for who came to measure: answers stay as they are.

        That is mode "log", unless `options` or the environment name a mode.
        """
        config = cls(**options)
        if "enforcement_mode" in config._given:
            return config
        return cls(**{**options, "enforcement_mode": "log"})

    @classmethod
    def from_text(cls, texts: Mapping[str, str]) -> LoopGuardConfig:
        """A configuration from words of a command line.

        Args:
            texts: text by field name, written as in the environment.
        Raises:
            ValueError, TypeError: as the class; also text that does not parse.
        """
        return cls(**{name: _parsed(name, text) for name, text in texts.items()})

    def to_settings(self) -> dict[str, object]:
        """The same for the agent in C: nanoseconds, integers, strings.

        Returns:
            A new dict; its keys are those that ``_agent.start`` reads.
        """
        server, app = appname.find_app(self.app_name)
        iteration_ms = self.iteration_threshold_ms
        if iteration_ms is None:
            iteration_ms = self.fallback_threshold_ms
        cumulative_ms = self.cumulative_blocking_threshold_ms
        if not self.cumulative_blocking_enabled:
            cumulative_ms = 0.0
        return {
            "threshold_ns": _ns(self.fallback_threshold_ms),
            "iteration_threshold_ns": _ns(iteration_ms),
            "cumulative_threshold_ns": _ns(cumulative_ms),  # 0: no cumulative events
            "cumulative_window_ns": _ns(self.cumulative_window_ms),
            "cumulative_min_step_ns": _ns(self.cumulative_min_step_ms),
            "watchdog_interval_ns": _ns(self.watchdog_interval_ms),
            "stack_depth": self.stack_depth,
            "max_endpoints": self.max_endpoints,
            "segment_dir": self.segment_dir,
            "segment_mode": self.segment_mode,
            "keep_segment": ("never", "crash", "always").index(self.keep_segment),
            "hooks": self.hooks == "auto",
            "task_factory": self.task_factory,
            "adaptive": self._adaptive(),
            "threshold_multiplier": float(self.threshold_multiplier),
            "calibration_iterations": self.calibration_iterations,
            "adaptive_window_size": self.adaptive_window_size,
            "adaptive_percentile": float(self.adaptive_percentile),
            "adaptive_min_samples": self.adaptive_min_samples,
            "adaptive_update_interval_ns": _ns(self.adaptive_update_interval_ms),
            "monitor_interval_ns": _ns(self.monitor_interval_ms),
            "app": app,
            "server": server,
            "endpoint_thresholds": {k: _ns(v) for k, v in self.endpoint_thresholds.items()},
            "agent_version": __version__,
        }

    def _adaptive(self) -> int:
        """0 a fixed threshold, 1 calibrated once, 2 adaptive."""
        if self.adaptive_threshold:
            return 2
        # setting what calibration needs is how one asks for it
        return int(not self._given.isdisjoint(("threshold_multiplier", "calibration_iterations")))


def switched_off() -> str:
    """Why the environment forbids the agent, or "": the kill switch."""
    word = os.environ.get("LOOPGUARD_DISABLE", "").strip().lower()
    return "" if word in ("", "0", "false", "no", "off") else "LOOPGUARD_DISABLE is set"


@dataclass(frozen=True)
class _Rule:
    """How one field is checked, and read from the environment."""

    check: Callable[[str, Any], Any]
    parse: Callable[[str], Any] | None  # None: not settable from outside


def _ns(ms: float) -> int:
    return round(ms * _NS_PER_MS)


def _values_for(arguments: Mapping[str, Any], defaults: Mapping[str, Any]) -> dict[str, Any]:
    """All fields of a configuration, checked."""
    given = {name: _RULES[name].check(name, v) for name, v in arguments.items() if name in _RULES}
    names = frozenset(given)
    if "_given" in arguments:
        # dataclasses.replace() passes every field: what differs from its
        # default is all that can be newly set
        names = arguments["_given"] | {name for name in given if given[name] != defaults[name]}
    from_env = _environment(skip=given)
    values = _settled(given, from_env, defaults)
    return {**values, "_given": names | frozenset(from_env)}


def _parsed(name: str, text: str) -> Any:
    parse = _RULES[name].parse
    if parse is None:
        raise TypeError(f"{name} cannot be given as text")
    try:
        return parse(text)
    except ValueError as error:
        raise ValueError(f"{name}: {error}") from None


def _environment(skip: Container[str]) -> dict[str, Any]:
    """Fields set by the environment and not in `skip`; bad ones reported."""
    found: dict[str, Any] = {}
    for name, rule in _RULES.items():
        text = os.environ.get(_ENV_PREFIX + name.upper())
        if text is None or rule.parse is None or name in skip:
            continue
        try:
            found[name] = rule.check(name, _parsed(name, text))
        except (ValueError, TypeError) as error:
            _report_environment(name, str(error))
    return found


def _settled(
    given: Mapping[str, Any], from_env: dict[str, Any], defaults: Mapping[str, Any]
) -> dict[str, Any]:
    """The values that hold, after the rules between fields.

    A rule broken by the environment drops what the environment said of it.
    """
    while True:
        values = {**defaults, **from_env, **given}
        values["endpoint_thresholds"] = dict(values["endpoint_thresholds"])  # not the default's own
        broken = _broken_rule(values)
        if broken is None:
            return values
        fields, text = broken
        guilty = [name for name in fields if name in from_env]
        if not guilty:
            raise ValueError(text)
        for name in guilty:
            _report_environment(name, text)
            del from_env[name]


def _broken_rule(v: Mapping[str, Any]) -> tuple[tuple[str, ...], str] | None:
    """The first rule between two fields that does not hold."""
    at_least = [
        ("fallback_threshold_ms", "monitor_interval_ms"),
        ("adaptive_update_interval_ms", "monitor_interval_ms"),
        ("adaptive_window_size", "adaptive_min_samples"),
    ]
    if v["cumulative_blocking_enabled"]:
        at_least.append(("cumulative_window_ms", "monitor_interval_ms"))
    for high, low in at_least:
        if v[high] < v[low]:
            return (high, low), f"{high} must be at least {low} ({v[low]!r}), got {v[high]!r}"
    return None


def _report_environment(name: str, problem: str) -> None:
    variable = _ENV_PREFIX + name.upper()
    if variable not in _warned:
        _warned.add(variable)
        _log.warning("%s ignored, the default is used: %s", variable, problem)


# One function per kind of value; each returns the value or raises.


def _bool(name: str, value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(f"{name} must be True or False, got {value!r}")
    return value


def _number(
    low: float, high: float, *, above: bool = False, whole: bool = False
) -> Callable[[str, Any], Any]:
    """A number in [low, high], or above `low` when `above`."""

    def check(name: str, value: Any) -> Any:
        kinds = int if whole else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds):
            what = "an integer" if whole else "a number"
            raise TypeError(f"{name} must be {what}, got {value!r}")
        if math.isfinite(value) and (low < value if above else low <= value) and value <= high:
            return value
        least = f"greater than {low:g}" if above else f"at least {low:g}"
        raise ValueError(f"{name} must be {least} and at most {high:g}, got {value!r}")

    return check


def _choice(*allowed: str) -> Callable[[str, Any], str]:
    def check(name: str, value: Any) -> str:
        if not isinstance(value, str) or value not in allowed:
            words = ", ".join(repr(a) for a in allowed)
            raise ValueError(f"{name} must be one of {words}, got {value!r}")
        return value

    return check


def _optional(inner: Callable[[str, Any], Any]) -> Callable[[str, Any], Any]:
    return lambda name, value: None if value is None else inner(name, value)


def _paths(name: str, value: Any) -> frozenset[str]:
    if isinstance(value, (str, bytes)) or not isinstance(value, Collection):
        # a bare string is iterable: it would silently mean its letters
        raise ValueError(f"{name} must be a collection of paths, not {value!r}")
    for path in value:
        if not isinstance(path, str):
            raise TypeError(f"{name} must hold strings, got {path!r}")
        if "*" in path[:-1]:
            raise ValueError(f"{name} may have a * at the end of a path only, got {path!r}")
    return frozenset(value)


def _thresholds(name: str, value: Any) -> dict[str, float]:
    if not isinstance(value, Mapping):
        raise TypeError(f"{name} must map 'METHOD /template' to milliseconds, got {value!r}")
    check = _number(0, _DAY_MS, above=True)
    for key, ms in value.items():
        method, _, path = key.partition(" ") if isinstance(key, str) else ("", "", "")
        if not method.isupper() or not path.startswith(("/", "(")):
            raise ValueError(f"{name} has keys like 'POST /reports/{{id}}', got {key!r}")
        check(f"{name}[{key!r}]", ms)
    return dict(value)


def _folder(name: str, value: Any) -> str:
    try:
        path = os.fspath(value)
    except TypeError:
        raise TypeError(f"{name} must be a path, got {value!r}") from None
    if not isinstance(path, str) or not path.startswith("/"):
        raise ValueError(f"{name} must be an absolute path, got {value!r}")
    return path


def _text(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, got {value!r}")
    if not value or len(value.encode()) > 127:
        raise ValueError(f"{name} must have 1 to 127 bytes, got {value!r}")
    return value


def check_callable(name: str, value: Any) -> Any:
    """`value`, if it can be called and is no coroutine function; else TypeError."""
    _callable(name, value)
    if any(map(inspect.iscoroutinefunction, (value, type(value).__call__))):
        raise TypeError(
            f"{name} must be a plain function, not the coroutine function {value!r}: "
            "it is called while the loop is held; let it start a task if need be"
        )
    return value


def _callable(name: str, value: Any) -> Any:
    if not callable(value):
        raise TypeError(f"{name} must be callable, got {value!r}")
    return value


def _predicate(name: str, value: Any) -> Any:
    _callable(name, value)
    if any(map(inspect.iscoroutinefunction, (value, type(value).__call__))):
        # a coroutine is true whatever it would return
        raise TypeError(f"{name} must be a plain function, not an async one: {value!r}")
    return value


def _header_name(name: str, value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{name} must be a string, got {value!r}")
    if not re.fullmatch(r"[!#$%&'*+.^_`|~0-9A-Za-z-]+", value):
        raise ValueError(f"{name} must be the name of a header (RFC 9110), got {value!r}")
    return value.lower()


# The same for text from the environment; ValueError when it does not parse.


def _parse_bool(text: str) -> bool:
    word = text.strip().lower()
    if word in ("1", "true", "yes", "on"):
        return True
    if word in ("0", "false", "no", "off"):
        return False
    raise ValueError(f"expected 1 or 0, got {text!r}")


def _parse_octal(text: str) -> int:
    return int(text.strip(), 8)


def _parse_list(text: str) -> list[str]:
    return [part.strip() for part in text.split(",") if part.strip()]


def _parse_thresholds(text: str) -> dict[str, float]:
    """``POST /reports/{id}=250,GET /search=20``"""
    pairs = {}
    for part in _parse_list(text):
        key, sign, ms = part.rpartition("=")
        if not sign:
            raise ValueError(f"expected 'METHOD /template=ms', got {part!r}")
        pairs[key.strip()] = float(ms)
    return pairs


_DAY_MS = 86_400_000.0
_MS = _number(0, _DAY_MS, above=True)
check_ms: Callable[[str, Any], Any] = _MS
_SWITCH = _Rule(_bool, _parse_bool)
_DURATION = _Rule(_MS, float)

_RULES: dict[str, _Rule] = {
    "enabled": _SWITCH,
    "monitor_interval_ms": _DURATION,
    "fallback_threshold_ms": _DURATION,
    "threshold_multiplier": _Rule(_number(1, 1000, above=True), float),
    "calibration_iterations": _Rule(_number(10, 1_000_000, whole=True), int),
    "adaptive_threshold": _SWITCH,
    "adaptive_window_size": _Rule(_number(100, 1_000_000, whole=True), int),
    "adaptive_percentile": _Rule(_number(0.5, 0.99), float),
    "adaptive_min_samples": _Rule(_number(10, 1_000_000, whole=True), int),
    "adaptive_update_interval_ms": _DURATION,
    "cumulative_blocking_enabled": _SWITCH,
    "cumulative_blocking_threshold_ms": _DURATION,
    "cumulative_window_ms": _DURATION,
    "cumulative_min_step_ms": _Rule(_number(0, _DAY_MS), float),
    "iteration_threshold_ms": _Rule(_optional(_MS), float),
    "endpoint_thresholds": _Rule(_thresholds, _parse_thresholds),
    "dev_mode": _SWITCH,
    "log_blocking_events": _SWITCH,
    "prometheus_enabled": _SWITCH,
    "enforcement_mode": _Rule(_choice("log", "warn", "strict"), str),
    "exclude_paths": _Rule(_paths, _parse_list),
    "request_filter": _Rule(_optional(_predicate), None),
    "switch_header": _Rule(_optional(_header_name), str),
    "server_timing": _SWITCH,
    "on_blocking": _Rule(_optional(check_callable), None),
    "stack_depth": _Rule(_number(1, 64, whole=True), int),
    "max_endpoints": _Rule(_number(16, 4096, whole=True), int),
    "segment_dir": _Rule(_optional(_folder), str),
    "segment_mode": _Rule(_number(0o400, 0o777, whole=True), _parse_octal),
    "keep_segment": _Rule(_choice("never", "crash", "always"), str),
    "hooks": _Rule(_choice("auto", "off"), str),
    "task_factory": _SWITCH,
    "watchdog_interval_ms": _Rule(_number(1, 1000), float),
    "app_name": _Rule(_optional(_text), str),
}
