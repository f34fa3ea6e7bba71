"""Stacks of Python threads, taken without the GIL (agent/pystack/pystack.h).

The probe is the agent's own sources and a few functions to call them, built
here for the Python that runs the tests. What could crash, or refuses system
calls, runs in a process of its own.

LOOPGUARD_TEST_FULL=1 takes 10,000 and 100,000 samples instead of a tenth.
"""

from __future__ import annotations

import asyncio
import contextlib
import functools
import gc
import importlib.util
import itertools
import json
import operator
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import textwrap
import threading
import time
import weakref
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any, Callable
from unittest import mock

import pytest

ROOT = Path(__file__).resolve().parents[2]
SOURCES = [
    "pystack/pystack.c",
    "pystack/pysymbol.c",
    "pystack/pyselftest.c",
    "pystack/pylines.c",
    "pystack/memread.c",
]
FULL = os.environ.get("LOOPGUARD_TEST_FULL") == "1"
DEADLINE_S = 100 if FULL else 40


@pytest.fixture(scope="session")
def probe_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = (os.environ.get("CC") or sysconfig.get_config_var("CC") or "cc").split()
    if shutil.which(compiler[0]) is None:
        pytest.skip(f"no compiler: {compiler[0]}")
    include = Path(sysconfig.get_path("include"))
    if not (include / "internal" / "pycore_interp.h").exists():
        pytest.skip(f"no headers of this Python in {include}")
    where = tmp_path_factory.mktemp("pystack")
    files = [Path(__file__).with_name("pystack_probe.c")]
    files += [ROOT / "agent" / name for name in SOURCES]
    flags = "-std=c11 -D_GNU_SOURCE -O2 -g -Wall -Wextra -Werror -fPIC -shared"
    paths = ["-isystem", include, "-I", ROOT / "agent", "-o", where / "pystack_probe.so"]
    subprocess.run(
        [*compiler, *flags.split(), *paths, *files, "-ldl"],
        check=True,
    )
    return where


@pytest.fixture(scope="session")
def probe(probe_dir: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location("pystack_probe", probe_dir / "pystack_probe.so")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def run_script(probe_dir: Path) -> Callable[..., Any]:
    """Runs a script in a process of its own; what it prints last, as JSON, is the result."""

    def run(source: str, *args: object) -> Any:
        done = subprocess.run(
            [sys.executable, "-c", textwrap.dedent(source), *map(str, args)],
            env={**os.environ, "PYTHONPATH": str(probe_dir)},
            capture_output=True,
            text=True,
            timeout=DEADLINE_S,
            check=False,
        )
        assert done.returncode == 0, f"exit {done.returncode}\n{done.stderr[-4000:]}"
        return json.loads(done.stdout.splitlines()[-1])

    return run


def python_stack(frame: FrameType | None) -> list[tuple[str, str, int]]:
    """What Python itself says: file, function, line, innermost first."""
    stack = []
    while frame is not None:
        code = frame.f_code
        name = getattr(code, "co_qualname", code.co_name)
        stack.append((code.co_filename, name, frame.f_lineno or 0))
        frame = frame.f_back
    return stack


# --- The same stack as sys._getframe ------------------------------------------


class Shapes:
    """Ways to be on the stack. Each calls `leaf` once or more."""

    def __init__(self, leaf: Callable[..., Any]) -> None:
        self.leaf = leaf

    def all(self) -> list[Callable[[], Any]]:
        names = [name for name in dir(self) if name.startswith("by_")]
        return [getattr(self, name) for name in names]

    def by_plain_call(self):
        self.leaf()

    def by_call_over_many_lines(self):
        isinstance(
            self.leaf(),
            int,
        )

    def by_recursion(self, n=30):
        return self.leaf() if n == 0 else self.by_recursion(n - 1)

    def by_recursion_deeper_than_is_kept(self):
        self.by_recursion(150)

    def by_lambda(self):
        (lambda: self.leaf())()

    def by_lambda_in_lambda(self):
        (lambda: (lambda: [self.leaf()])())()

    def by_default_argument(self):
        def inner(x=self.leaf):
            return x()

        inner()

    def by_star_arguments(self):
        def inner(*args, **kwargs):
            return args[0](), kwargs["f"]()

        inner(*[self.leaf], f=self.leaf)

    def by_closure(self):
        kept = self.leaf

        def inside():
            def further():
                return kept()

            return further()

        inside()

    def by_comprehensions(self):
        [self.leaf() for _ in (0,)]
        {self.leaf() for _ in (0,)}
        {0: self.leaf() for _ in (0,)}
        [[self.leaf() for _ in (0,)] for _ in (0,)]

    def by_generator_expression(self):
        list(self.leaf() for _ in range(2))  # noqa: C400

    def by_generator(self):
        def generate():
            for _ in range(2):
                yield self.leaf()

        for _ in generate():
            self.leaf()

    def by_yield_from(self):
        def inner():
            yield self.leaf()
            yield self.leaf()

        def outer():
            yield from inner()

        list(outer())

    def by_generator_send_and_throw(self):
        def generate():
            try:
                yield (yield self.leaf())
            except ValueError:
                self.leaf()

        g = generate()
        next(g)
        g.send(1)
        with contextlib.suppress(StopIteration):
            g.throw(ValueError())

    def by_generator_close(self):
        def generate():
            try:
                yield
            finally:
                self.leaf()

        g = generate()
        next(g)
        g.close()

    def by_coroutine(self):
        async def inner():
            return self.leaf()

        async def outer():
            return await inner()

        with contextlib.suppress(StopIteration):
            outer().send(None)

    def by_asyncio(self):
        async def handler(n):
            await asyncio.sleep(0)
            self.leaf()
            if n:
                await handler(n - 1)

        async def main():
            await asyncio.gather(handler(3), handler(0))
            asyncio.get_running_loop().call_soon(self.leaf)
            await asyncio.sleep(0)

        asyncio.run(main())

    def by_async_for_and_with(self):
        @contextlib.asynccontextmanager
        async def manager():
            self.leaf()
            yield
            self.leaf()

        async def numbers():
            yield self.leaf()

        async def main():
            async with manager():
                async for _ in numbers():
                    self.leaf()
            return [x async for x in numbers()]

        asyncio.run(main())

    def by_context_manager(self):
        @contextlib.contextmanager
        def manager():
            self.leaf()
            yield
            self.leaf()

        with manager():
            self.leaf()

    def by_exception_handlers(self):
        try:
            raise ValueError
        except ValueError:
            self.leaf()
        finally:
            self.leaf()

    def by_exception_on_the_way(self):
        def failing():
            try:
                raise KeyError
            finally:
                self.leaf()

        with contextlib.suppress(KeyError):
            failing()

    def by_class_body(self):
        class Body:
            value = self.leaf()

        assert Body

    def by_init_and_call_and_new(self):
        leaf = self.leaf

        class Thing:
            def __new__(cls):
                leaf()
                return super().__new__(cls)

            def __init__(self):
                leaf()

            def __call__(self):
                return leaf()

        Thing()()

    def by_metaclass(self):
        leaf = self.leaf

        class Meta(type):
            def __call__(cls):
                leaf()
                return super().__call__()

        class Thing(metaclass=Meta):
            def __init_subclass__(cls):
                leaf()

        class Other(Thing):
            pass

        Other()

    def by_property_and_getattr(self):
        leaf = self.leaf

        class Thing:
            @property
            def value(self):
                return leaf()

            def __getattr__(self, name):
                return leaf()

        assert Thing().value is Thing().missing

    def by_operators(self):
        leaf = self.leaf

        class Number:
            def __add__(self, other):
                return leaf()

            def __eq__(self, other):
                return leaf() is None

            def __hash__(self):
                leaf()
                return 1

            def __len__(self):
                leaf()
                return 1

            def __getitem__(self, i):
                leaf()
                raise IndexError

            def __repr__(self):
                leaf()
                return ""

        n = Number()
        assert n + 1 is None
        assert n == 2
        assert {n: 1}
        assert len(n) == 1
        assert list(n) == []
        assert repr([n]) == "[]"

    def by_finalizer(self):
        leaf = self.leaf

        class Thing:
            def __del__(self):
                leaf()

        Thing()

    def by_weakref_callback(self):
        class Thing:
            pass

        thing = Thing()
        ref = weakref.ref(thing, lambda _: self.leaf())
        del thing
        assert ref() is None

    def by_collector_callback(self):
        def callback(phase, info):
            self.leaf()

        gc.callbacks.append(callback)
        try:
            gc.collect(0)
        finally:
            gc.callbacks.remove(callback)

    def by_sort_key(self):
        sorted([2, 1], key=lambda _: self.leaf() or 0)

    def by_cmp_to_key(self):
        sorted([2, 1], key=functools.cmp_to_key(lambda a, b: self.leaf() or 0))

    def by_map_filter_reduce(self):
        list(map(lambda _: self.leaf(), [0]))
        list(filter(lambda _: self.leaf(), [0]))
        functools.reduce(lambda a, b: self.leaf(), [1, 2])

    def by_partial(self):
        functools.partial(lambda _: self.leaf(), 1)()

    def by_lru_cache(self):
        functools.lru_cache(maxsize=1)(lambda: self.leaf())()

    def by_singledispatch(self):
        @functools.singledispatch
        def dispatched(_):
            self.leaf()

        dispatched(1)

    def by_decorator(self):
        def decorator(f):
            @functools.wraps(f)
            def wrapper(*args):
                return f(*args)

            return wrapper

        @decorator
        @decorator
        def inner():
            self.leaf()

        inner()

    def by_methodcaller(self):
        operator.methodcaller("leaf")(self)

    def by_iter_with_sentinel(self):
        list(iter(lambda: self.leaf(), None))

    def by_itertools(self):
        list(itertools.starmap(lambda _: self.leaf(), [(1,)]))
        list(itertools.groupby([1], lambda _: self.leaf()))

    def by_regex_callback(self):
        re.sub("x", lambda _: str(self.leaf()), "x")

    def by_json_hook(self):
        json.loads("{}", object_hook=lambda _: self.leaf())
        json.dumps(object(), default=lambda _: self.leaf())

    def by_mock(self):
        mock.Mock(side_effect=lambda: self.leaf())()

    def by_eval_and_exec(self):
        eval("leaf()", {"leaf": self.leaf})
        exec("def f():\n\n\n    leaf()\nf()", {"leaf": self.leaf})

    def by_names_beyond_ascii(self):
        source = "def größe():\n    leaf()\ngröße()\nΩ = lambda: leaf()\nΩ()"
        exec(compile(source, "дом/😀.py", "exec"), {"leaf": self.leaf})

    def by_long_table(self):
        """Tables longer than one read, with lines that jump back and forth."""
        body = "\n".join(f"    x = [{i},\n    {i} + 1]" for i in range(2000))
        source = f"def long():\n{body}\n    leaf()\n    for _ in (1,):\n        leaf()\nlong()\n"
        exec(compile(source, "<long>", "exec"), {"leaf": self.leaf})

    def by_far_lines(self):
        source = "def far(a=1):\n" + "\n" * 40000 + "    (a,\n" + "\n" * 500 + "leaf())\nfar()\n"
        exec(compile(source, "<far>", "exec"), {"leaf": self.leaf})

    def by_match(self):
        if sys.version_info >= (3, 10):
            source = "match {'a': 1}:\n    case {'a': x} if leaf() is None:\n        leaf()\n"
            exec(source, {"leaf": self.leaf})

    def by_thread(self):
        thread = threading.Thread(target=self.leaf)
        thread.start()
        thread.join()

    def by_trace_function(self):
        def trace(frame, event, arg):
            if frame.f_code.co_name == "traced":
                self.leaf()
            return trace

        def traced():
            return 1

        before = sys.gettrace()
        sys.settrace(trace)
        try:
            traced()
        finally:
            sys.settrace(before)


def test_self_test_passes_on_this_python(probe: ModuleType) -> None:
    reason, gil_reason, reader = probe.opened
    assert reason == ""
    assert gil_reason == ""
    assert reader in {"process_vm_readv", "pipe", "/proc/self/mem"}


def test_stacks_equal_those_of_getframe_in_file_function_and_line(probe: ModuleType) -> None:
    compared = 0

    def leaf() -> None:
        nonlocal compared
        ours, want = probe.capture_here(), python_stack(sys._getframe())
        cut = probe.CUT if len(want) > probe.DEPTH else 0
        assert ours == (cut, want[: probe.DEPTH], cut, want[: probe.DEPTH])
        compared += 1

    for shape in Shapes(leaf).all():
        before = compared
        shape()
        assert compared > before or shape.__name__ == "by_match"
    assert compared >= 80


def test_names_are_cut_at_a_character(probe: ModuleType) -> None:
    seen = []
    source = f"def {'ä' * 300}():\n    take()\n{'ä' * 300}()\n"
    code = compile(source, "/" + "é" * 700, "exec")
    exec(code, {"take": lambda: seen.append(probe.capture_here()[1][1])})
    assert seen == [("/" + "é" * 255, "ä" * 127, 2)]


def test_pending_exception_and_stack_survive_a_second_self_test(probe: ModuleType) -> None:
    try:
        raise ValueError("kept")
    except ValueError:
        assert probe.reopen()[0] == ""
        assert str(sys.exc_info()[1]) == "kept"


# --- Other threads ------------------------------------------------------------


HOT = """
def a(n):
    if n <= 0:
        return 0
    return b(n - 1) + 1

def b(n):
    x = c(n - 1)
    y = d(n - 2)
    return x + y

def c(n):
    if n <= 0:
        return 1
    return sum(g(n - 1))

def d(n):
    total = 0
    for i in range(2):
        if n > 0:
            total += a(n - 1)
    return total

def g(n):
    yield a(n)
    yield 1

def hot():
    while not stop:
        a(9)
"""

# The line of a call and what may be called there.
EDGES = {
    ("a", 5): "b",
    ("b", 8): "c",
    ("b", 9): "d",
    ("c", 15): "g",
    ("d", 21): "a",
    ("g", 25): "a",
    ("hot", 30): "a",
}

HOT_SCRIPT = (
    """
import json, os, sys, threading
import pystack_probe as probe
space = {"stop": False}
cpus = sorted(os.sched_getaffinity(0))
exec(compile(%r, "hot.py", "exec"), space)
ready, described = threading.Event(), []
def target():
    os.sched_setaffinity(0, cpus[-1:])       # both must really run at once
    described.append(probe.thread_here())
    ready.set()
    space["hot"]()
os.sched_setaffinity(0, cpus[:1])
thread = threading.Thread(target=target)
thread.start()
ready.wait()
mode, count = sys.argv[1], int(sys.argv[2])
wanted = described[0] if mode == "anchored" else probe.thread_at(probe.thread_fields(described[0])[0])
sys.setswitchinterval(0.0005)
try:
    symbols, samples, errors, unnamed = probe.sample(wanted, count, 0, 0)
finally:
    space["stop"] = True
thread.join()
print(json.dumps([symbols, samples, errors, unnamed]))
"""
    % HOT
)


@pytest.mark.parametrize("mode", ["anchored", "unanchored"])
def test_no_wrong_edge_is_accepted_while_functions_call_each_other(
    run_script: Callable[..., Any], mode: str
) -> None:
    count = 10000 if FULL else 2000
    symbols, samples, errors, unnamed = run_script(HOT_SCRIPT, mode, count)
    wrong = []
    moving = 0
    for flags, indexes in samples:
        stack = [tuple(symbols[i]) for i in reversed(indexes)]
        moving += flags & 1
        if not is_possible(stack, whole=not flags & 1):
            wrong.append((flags, stack))
    print(f"{mode}: {len(samples)} of {count} taken, {moving} moving, {errors}, {unnamed} unnamed")
    assert wrong[:3] == []
    assert len(samples) > count / 20
    assert len(samples) + sum(errors.values()) + unnamed == count


def is_possible(stack: list[tuple[str, str, int]], *, whole: bool) -> bool:
    """Every caller stands on a line that calls the next; the outermost frame is the thread's."""
    names = [name.rpartition(".")[2] for _, name, _ in stack]
    thread = ["_bootstrap", "_bootstrap_inner", "run", "target"]
    if names[:4] != thread[: len(names)] or (whole and len(names) < 4):
        return False
    if names[4:5] != ["hot"]:
        return True  # the thread still starts
    lines = [line for _, _, line in stack]
    return all(map(lambda *edge: EDGES.get(edge[:2]) == edge[2], names[4:], lines[4:], names[5:]))


def test_thread_in_a_c_call_that_holds_the_gil_shows_the_right_line(
    run_script: Callable[..., Any],
) -> None:
    symbols, samples, errors, _ = run_script(
        """
        import json, re, threading
        import pystack_probe as probe
        def handler():
            re.match("(a+)+$", "a" * 23 + "b")   # line 5
        def outer():
            handler()                            # line 7
        here = probe.thread_here()
        result = []
        taker = threading.Thread(target=lambda: result.append(probe.sample(here, 20, 2000, 20000)))
        taker.start()
        outer()                                  # line 12
        taker.join()
        print(json.dumps(result[0]))
        """
    )
    stacks = [[tuple(symbols[i][1:]) for i in indexes] for _, indexes in samples]
    want = [("handler", 5), ("outer", 7), ("<module>", 12)]
    assert [stack[-3:] for stack in stacks] == [want] * 20
    assert errors == {}


def test_gil_holder_is_found_and_its_stack_taken(run_script: Callable[..., Any]) -> None:
    symbols, samples, _, _ = run_script(
        """
        import json, re, threading, time
        import pystack_probe as probe
        done = []
        def hog():
            while not done:
                re.match("(a+)+$", "a" * 16 + "b")
        result = []
        def take():
            result.append(probe.sample(None, 100, 1000, 20000))
        threads = [threading.Thread(target=f) for f in (hog, take)]
        for t in threads: t.start()
        threads[1].join()
        done.append(1)
        threads[0].join()
        print(json.dumps(result[0]))
        """
    )
    names = [[symbols[i][1] for i in indexes] for _, indexes in samples]
    assert sum("hog" in stack for stack in names) > 20
    assert all(stack[-1].endswith("_bootstrap") for stack in names if "hog" in stack)


def test_thread_facts_are_those_of_the_threading_module(probe: ModuleType) -> None:
    facts = []

    def target() -> None:
        here = probe.thread_fields(probe.thread_here())
        at = probe.thread_fields(probe.thread_at(here[0]))
        facts.append((here, at, threading.get_ident(), threading.get_native_id()))

    thread = threading.Thread(target=target)
    thread.start()
    thread.join()
    here, at, ident, native = facts[0]
    assert here[3:] == (ident, native)
    assert at == (*here[:2], 0, *here[3:])


def test_ended_thread_has_no_stack(probe: ModuleType) -> None:
    described = []
    thread = threading.Thread(target=lambda: described.append(probe.thread_here()))
    thread.start()
    thread.join()
    _, samples, errors, _ = probe.sample(described[0], 100, 0, 0)
    assert [indexes for _, indexes in samples if indexes] == []
    assert len(samples) + sum(errors.values()) == 100


def test_nonsense_addresses_are_refused(probe: ModuleType) -> None:
    for address in (0, 8, 0x10, 1 << 47, (1 << 64) - 8, id(probe)):
        with pytest.raises(ProcessLookupError):
            probe.thread_at(address)


# --- Code objects that come and go ----------------------------------------------


def test_freed_code_object_never_lends_its_frame_another_name(probe: ModuleType) -> None:
    reused = 0
    for i in range(300):
        space = {"probe": probe}
        exec(compile(f"def made_{i}():\n    return probe.raw_here()", "<made>", "exec"), space)
        raw = space[f"made_{i}"]()
        address = id(space[f"made_{i}"].__code__)
        assert probe.symbol(raw) == ("<made>", f"made_{i}", 2)
        space.clear()  # the function and its globals are a cycle
        others = {}
        exec(compile(f"def other_{i}():\n    return probe.raw_here()", "<made>", "exec"), others)
        reused += id(others[f"other_{i}"].__code__) == address
        with pytest.raises(OSError, match=os.strerror(116)):
            probe.symbol(raw)
    assert reused > 0


CHURN_SCRIPT = """
import json, re, sys, threading, time
import pystack_probe as probe
count = int(sys.argv[1])
made = {}
def churn(n):
    # Function k stands alone in file made-k, on line 1 + k % 50.
    source = "\\n" * (n % 50) + f"def made_{n}(x): return [y for y in range(x)], work(x)"
    space = {"work": work}
    exec(compile(source, f"made-{n}", "exec"), space)
    space[f"made_{n}"](20)
def work(x):
    return sum(i * i for i in range(x))
def short():
    work(200)
done = threading.Event()
result = []
def take():
    try:
        result.append(probe.sample(None, count, 0, 0))
    finally:
        done.set()
taker = threading.Thread(target=take)
taker.start()
n = threads = 0
while not done.is_set():
    churn(n)
    n += 1
    if n % 4 == 0:
        t = threading.Thread(target=short)
        t.start()
        t.join()
        threads += 1
taker.join()
symbols, samples, errors, unnamed = result[0]
print(json.dumps([symbols, len(samples), errors, unnamed, n, threads]))
"""


def test_samples_survive_threads_and_code_objects_that_come_and_go(
    run_script: Callable[..., Any],
) -> None:
    count = 100000 if FULL else 10000
    symbols, taken, errors, unnamed, made, threads = run_script(CHURN_SCRIPT, count)
    print(f"{taken} of {count} taken, {errors}, {unnamed} unnamed, {made} made, {threads} threads")
    assert taken + unnamed + sum(errors.values()) == count
    assert taken > count / 20
    assert made > 100
    assert threads > 25
    mixed = [symbol for symbol in symbols if not belongs_together(*symbol)]
    assert mixed == []


def belongs_together(file: str, name: str, line: int) -> bool:
    """A made function's file, name and line all tell its number."""
    if not file.startswith("made-"):
        return "made_" not in name
    number = int(file[5:])
    right_name = name == "<module>" or name.partition(".")[0] in {f"made_{number}", "<listcomp>"}
    return right_name and line in {0, 1, 1 + number % 50}


# --- The GIL and the collector --------------------------------------------------


def test_gil_is_held_by_the_caller_and_by_no_one_while_it_is_released(probe: ModuleType) -> None:
    held, with_gil, _, _ = probe.gil_held()
    assert (held, with_gil) == (1, probe.thread_fields(probe.thread_here())[0])
    deadline = time.monotonic() + 10
    while probe.gil_held()[2:] != (0, 0):  # a thread of pytest may hold it for a moment
        assert time.monotonic() < deadline


def test_collector_is_seen_while_it_runs(probe: ModuleType) -> None:
    seen = []

    def callback(phase: str, info: dict[str, int]) -> None:
        seen.append(probe.collecting())

    gc.callbacks.append(callback)
    try:
        gc.collect()
    finally:
        gc.callbacks.remove(callback)
    assert seen == [True, True]
    assert probe.collecting() is False


GIL_WAIT_SCRIPT = """
import os, re, sys, threading, time
import pystack_probe as probe
def nap():
    print(*probe.gil_range(), threading.get_native_id(), flush=True)
    while True:
        time.sleep(0.001)
threading.Thread(target=nap, daemon=True).start()
while True:
    re.match("(a+)+$", "a" * 22 + "b")
"""


def test_futex_of_a_wait_for_the_gil_lies_in_the_range(probe_dir: Path) -> None:
    worker = subprocess.Popen(
        [sys.executable, "-c", GIL_WAIT_SCRIPT],
        env={**os.environ, "PYTHONPATH": str(probe_dir)},
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        start, end, tid = map(int, worker.stdout.readline().split())
        syscall = Path(f"/proc/{worker.pid}/task/{tid}/syscall")
        deadline = time.monotonic() + 20
        while True:
            fields = syscall.read_text().split()
            if len(fields) > 2 and start <= int(fields[1], 16) < end:
                break
            assert time.monotonic() < deadline, f"{fields} never in {start:#x}..{end:#x}"
            time.sleep(0.001)
    except PermissionError:
        pytest.skip("the system calls of a child may not be read here")
    finally:
        worker.kill()
        worker.wait()
        worker.stdout.close()


# --- Refused system calls --------------------------------------------------------


REFUSED_SCRIPT = """
import json, sys
import pystack_probe as probe
def check():
    return probe.capture_here() == expected(sys._getframe())
def expected(frame):
    stack = []
    while frame:
        code = frame.f_code
        stack.append((code.co_filename, getattr(code, "co_qualname", code.co_name), frame.f_lineno))
        frame = frame.f_back
    return 0, stack, 0, stack
def refuse(*names):
    probe.refuse(*[getattr(probe, name) for name in names])
log = []
%s
print(json.dumps(log))
"""


def refused(body: str) -> str:
    return REFUSED_SCRIPT % textwrap.dedent(body)


@pytest.mark.parametrize(
    ("names", "reader"),
    [
        (["SYS_process_vm_readv"], "pipe"),
        (["SYS_pipe2"], "process_vm_readv"),
        (["SYS_process_vm_readv", "SYS_pipe2"], "/proc/self/mem"),
        (["SYS_process_vm_readv", "SYS_pread64"], "pipe"),
    ],
)
def test_next_way_of_reading_is_taken_when_seccomp_refuses_one(
    run_script: Callable[..., Any], names: list[str], reader: str
) -> None:
    late = f"refuse(*{names})\nlog += [check(), check(), probe.reader()]"
    assert run_script(refused(late)) == [True, True, reader]
    early = f"refuse(*{names})\nlog += [*probe.reopen(), check()]"
    assert run_script(refused(early)) == ["", "", reader, True]


def test_feature_is_off_with_a_reason_when_no_way_is_left(run_script: Callable[..., Any]) -> None:
    everything = "'SYS_process_vm_readv', 'SYS_pipe2', 'SYS_pread64'"
    reason = "own memory cannot be read here"
    early = f"refuse({everything})\nlog += probe.reopen()"
    assert run_script(refused(early)) == [reason, reason, "none"]
    late = f"""
        refuse({everything})
        try:
            check()
        except PermissionError:
            log += [probe.reader()]
    """
    assert run_script(refused(late)) == ["none"]


def test_proc_is_not_needed(run_script: Callable[..., Any], tmp_path: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("only root may change the root directory")
    body = f"""
        import os
        os.chroot({str(tmp_path)!r})
        refuse('SYS_process_vm_readv')
        log += [os.path.exists('/proc/self/mem'), *probe.reopen(), check()]
    """
    assert run_script(refused(body)) == [False, "", "", "pipe", True]


def test_want_of_descriptors_passes(run_script: Callable[..., Any]) -> None:
    body = """
        import os, resource
        refuse('SYS_process_vm_readv')
        log += [check()]
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
        try:
            check()
        except OSError as error:
            log += [error.errno]
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        log += [check(), len(os.listdir('/proc/self/fd'))]
    """
    assert run_script(refused(body)) == [True, 24, True, 4]


def test_child_of_fork_reads_its_own_memory(run_script: Callable[..., Any]) -> None:
    for names in ([], ["SYS_process_vm_readv"], ["SYS_process_vm_readv", "SYS_pipe2"]):
        body = f"""
            import os
            names = {names}
            if names:
                refuse(*names)
            log += [check()]
            pid = os.fork()
            if pid == 0:
                probe.after_fork()
                def deeper(n):
                    return check() if n == 0 else deeper(n - 1)
                os._exit(0 if deeper(20) else 1)
            log += [os.waitpid(pid, 0)[1], check()]
        """
        assert run_script(refused(body)) == [True, 0, True]
