"""What goes through the agent comes out as it went in.

Each case runs twice, without the agent and with it, and both outcomes are
compared whole: value or exception, traceback, context and cause. With the agent
the case is once the application itself, once a child task.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import functools
import gc
import inspect
import re
import sys
import types
import warnings
import weakref
from collections.abc import Awaitable, Callable, Iterator
from typing import Any

import anyio
import pytest
from agent_kit import LOOPS, agent, request, run, scope, segment

import loopguard
from loopguard import control

Coro = Callable[[], Awaitable[Any]]
variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="unset")


@pytest.fixture(autouse=True)
def stopped_afterwards() -> Iterator[None]:
    yield
    loopguard.stop()


# ---- cases: each an async function without arguments --------------------------


class OddError(Exception):
    """Compared by its address, so that another instance is noticed."""


KEPT = OddError("kept")


async def returns_none() -> None:
    await asyncio.sleep(0)


async def returns_at_once() -> int:
    return 7


async def returns_a_tuple() -> Any:
    await asyncio.sleep(0)
    return ("a", 1)


async def returns_an_empty_tuple() -> Any:
    return ()


async def returns_a_stop_iteration() -> Any:
    return StopIteration(5)


async def returns_an_exception_class() -> Any:
    return StopIteration


async def returns_an_exception() -> Any:
    await asyncio.sleep(0)
    return ValueError("only returned")


async def raises() -> None:
    await asyncio.sleep(0)
    raise ValueError("raised")


async def raises_at_once() -> None:
    raise ValueError("raised", 3)


async def raises_an_instance() -> None:
    raise KEPT


async def raises_in_a_chain() -> None:
    try:
        try:
            raise KeyError("first")
        except KeyError as error:
            await asyncio.sleep(0)
            raise ValueError("second") from error
    except ValueError:
        raise TypeError("third")  # noqa: B904  its context is what is compared


async def raises_from_none() -> None:
    try:
        raise KeyError("hidden")
    except KeyError:
        raise ValueError("shown") from None


async def raises_stop_iteration() -> None:
    raise StopIteration(3)


async def raises_stop_async_iteration() -> None:
    raise StopAsyncIteration


async def raises_generator_exit() -> None:
    raise GeneratorExit("by hand")


async def raises_through_a_deep_stack() -> None:
    def down(n: int) -> None:
        if n == 0:
            raise ValueError("bottom")
        down(n - 1)

    await asyncio.sleep(0)
    down(5)


async def raises_in_finally() -> None:
    try:
        raise ValueError("body")
    finally:
        await asyncio.sleep(0)
        raise KeyError("finally")


async def cancels_itself() -> None:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    await asyncio.sleep(0)


async def cancels_itself_with_a_word() -> None:
    raise asyncio.CancelledError("word")


async def swallows_a_cancellation() -> str:
    task = asyncio.current_task()
    assert task is not None
    task.cancel()
    try:
        await asyncio.sleep(1)
    except asyncio.CancelledError:
        if sys.version_info >= (3, 11):
            task.uncancel()
    await asyncio.sleep(0)
    return "went on"


async def cancels_a_child() -> Any:
    async def child() -> None:
        try:
            await asyncio.sleep(30)
        finally:
            await asyncio.sleep(0)

    task = asyncio.ensure_future(child())
    await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait([task])
    return task.cancelled(), repr(task)[:14]


async def cancels_a_child_before_it_began() -> Any:
    began = []

    async def child() -> None:
        began.append(1)

    task = asyncio.ensure_future(child())
    task.cancel()
    await asyncio.wait([task])
    return began, task.cancelled()


async def waits_too_long() -> None:
    await asyncio.wait_for(asyncio.sleep(30), 0.001)


async def waits_too_long_for_a_child() -> Any:
    async def child() -> None:
        try:
            await asyncio.sleep(30)
        except asyncio.CancelledError:
            raise ValueError("instead") from None

    await asyncio.wait_for(child(), 0.001)


async def shields() -> Any:
    async def child() -> str:
        await asyncio.sleep(0.002)
        return "done all the same"

    inner = asyncio.ensure_future(child())
    with contextlib.suppress(asyncio.TimeoutError):
        await asyncio.wait_for(asyncio.shield(inner), 0.0005)
    return await inner


async def gathers() -> Any:
    return await asyncio.gather(
        returns_a_tuple(), raises(), cancels_itself_with_a_word(), return_exceptions=True
    )


async def times_out() -> None:
    async with asyncio.timeout(0.001):
        await asyncio.sleep(30)


async def fails_in_a_group() -> None:
    async with asyncio.TaskGroup() as group:
        group.create_task(asyncio.sleep(30))
        group.create_task(raises())


async def moves_on_in_anyio() -> Any:
    with anyio.move_on_after(0.001) as inner:
        await anyio.sleep(30)
    return inner.cancelled_caught


async def fails_after_in_anyio() -> None:
    with anyio.fail_after(0.001):
        await anyio.sleep(30)


async def cancels_a_group_in_anyio() -> Any:
    seen = []

    async def child() -> None:
        try:
            await anyio.sleep(30)
        except BaseException as error:
            seen.append(type(error).__name__)
            raise

    async with anyio.create_task_group() as group:
        group.start_soon(child)
        await anyio.sleep(0.001)
        group.cancel_scope.cancel()
    return seen


async def works_in_a_thread() -> Any:
    def work() -> str:
        raise ValueError("in the thread")

    await anyio.to_thread.run_sync(work)


async def yields_from_a_generator() -> Any:
    async def numbers() -> Any:
        for i in range(3):
            await asyncio.sleep(0)
            yield i

    return [n async for n in numbers()]


async def leaves_a_generator_open() -> Any:
    closed = []

    async def numbers() -> Any:
        try:
            yield 1
            yield 2
        finally:
            closed.append(True)

    async for _ in numbers():
        break
    gc.collect()
    await asyncio.sleep(0)
    await asyncio.sleep(0)
    return closed


async def sets_a_variable() -> Any:
    async def child() -> None:
        variable.set("of the child")

    variable.set("of the parent")
    await asyncio.ensure_future(child())
    return variable.get()


CASES: list[Coro] = [
    returns_none,
    returns_at_once,
    returns_a_tuple,
    returns_an_empty_tuple,
    returns_a_stop_iteration,
    returns_an_exception_class,
    returns_an_exception,
    raises,
    raises_at_once,
    raises_an_instance,
    raises_in_a_chain,
    raises_from_none,
    raises_stop_iteration,
    raises_stop_async_iteration,
    raises_generator_exit,
    raises_through_a_deep_stack,
    raises_in_finally,
    cancels_itself,
    cancels_itself_with_a_word,
    swallows_a_cancellation,
    cancels_a_child,
    cancels_a_child_before_it_began,
    waits_too_long,
    waits_too_long_for_a_child,
    shields,
    gathers,
    moves_on_in_anyio,
    fails_after_in_anyio,
    cancels_a_group_in_anyio,
    works_in_a_thread,
    yields_from_a_generator,
    leaves_a_generator_open,
    sets_a_variable,
]
if sys.version_info >= (3, 11):
    CASES += [times_out, fails_in_a_group]


# ---- outcomes ---------------------------------------------------------------


def told(value: Any) -> Any:
    """A value as something that can be compared between two runs."""
    if isinstance(value, BaseException):
        return {
            "type": type(value),
            "same": value is KEPT,
            "args": told(value.args),
            "cause": told(value.__cause__),
            "context": told(value.__context__),
            "hides": value.__suppress_context__,
            "notes": getattr(value, "__notes__", None),
            "frames": [(f.f_code.co_name, n) for f, n in traceback_of(value)],
            "parts": told(getattr(value, "exceptions", None)),
        }
    if isinstance(value, (tuple, list)):
        return [told(v) for v in value]
    if isinstance(value, str):
        # anyio tells addresses, and the task that was running
        return re.sub(r"(Cancelled via cancel scope).*", r"\1", value)
    return value


def traceback_of(error: BaseException) -> Iterator[tuple[types.FrameType, int]]:
    at = error.__traceback__
    while at is not None:
        # the test's own way of calling is not the application's
        if not at.tb_frame.f_code.co_filename.endswith("agent_kit.py"):
            yield at.tb_frame, at.tb_lineno
        at = at.tb_next


async def outcome(awaitable: Awaitable[Any]) -> Any:
    try:
        return "returned", told(await awaitable)
    except BaseException as error:  # the outcome is what is compared
        return "raised", told(error)
    finally:
        KEPT.__traceback__ = None


def as_application(case: Coro) -> Callable[[Any, Any, Any], Awaitable[Any]]:
    async def app(scope: Any, receive: Any, send: Any) -> Any:
        return await case()

    return app


async def as_task(case: Coro) -> Any:
    return await asyncio.get_running_loop().create_task(case())  # type: ignore[arg-type]


async def watched() -> None:
    loopguard.watch()


@pytest.mark.parametrize("kind", LOOPS)
@pytest.mark.parametrize("case", CASES, ids=lambda case: case.__name__)
def test_outcome_of_an_application_is_the_same(case: Coro, kind: str) -> None:
    app = as_application(case)

    async def main(app: Any) -> Any:
        return await outcome(app(scope(), None, None))

    plain = run(kind, main(app))
    with agent():
        measured = run(kind, main(control.measured(app)))
        assert sum(e.requests for e in segment().endpoints) == 1
    assert measured == plain


@pytest.mark.parametrize("kind", LOOPS)
@pytest.mark.parametrize(
    # asyncio's task cannot carry that one: it passes every except clause
    "case",
    [case for case in CASES if case is not raises_generator_exit],
    ids=lambda case: case.__name__,
)
def test_outcome_of_a_task_is_the_same(case: Coro, kind: str) -> None:
    async def main() -> Any:
        return await outcome(as_task(case))

    async def main_watched() -> Any:
        with loopguard.watch():
            result = await main()
            assert f"task {case.__qualname__}" in segment().labels()
            return result

    assert run(kind, main_watched()) == run(kind, main())


@pytest.mark.parametrize("kind", LOOPS)
@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_exceptions_that_end_a_program_come_out_of_the_loop(kind: str, error: Any) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.sleep(0)
        raise error("mid-step")

    async def main() -> None:
        task = asyncio.ensure_future(control.measured(app)(scope(), None, None))
        await asyncio.wait([task])
        pytest.fail("the loop went on")

    with agent():
        loop = LOOPS[kind]()
        try:
            with pytest.raises(error, match="mid-step") as caught:
                loop.run_until_complete(main())
            names = [f.f_code.co_name for f, _ in traceback_of(caught.value)]
            assert names[-1] == "app"
            for task in asyncio.all_tasks(loop):
                task.cancel()
                with pytest.raises((error, asyncio.CancelledError)):
                    loop.run_until_complete(task)
        finally:
            loop.close()


# ---- being a coroutine ------------------------------------------------------


async def body(log: list[Any]) -> Any:
    try:
        log.append(await pause("first"))
        log.append(await pause("second"))
    except BaseException as error:
        log.append(type(error))
        raise
    finally:
        log.append("finally")
    return "end"


@types.coroutine
def pause(word: str) -> Any:
    return (yield word)


def plain_body(log: list[Any]) -> Any:
    return body(log)


def measured_body(log: list[Any]) -> Any:
    async def unused() -> None: ...

    return control.measured(lambda s, r, send: body(log))(scope(), None, None)


def both(use: Callable[[Any, list[Any]], Any]) -> None:
    """`use` does the same with a plain coroutine and with a measured one."""
    results = []
    with agent():
        for make in (plain_body, measured_body):
            log: list[Any] = []
            with warnings.catch_warnings(record=True) as caught:
                warnings.simplefilter("always")
                try:
                    result = use(make(log), log)
                except BaseException as error:  # the outcome is what is compared
                    result = told(error)
                gc.collect()
            results.append((result, log, [str(w.message) for w in caught]))
    assert results[1] == results[0]


def test_send_drives_it_by_hand() -> None:
    def use(coro: Any, log: list[Any]) -> Any:
        words = [coro.send(None), coro.send("a")]
        with pytest.raises(StopIteration) as end:
            coro.send("b")
        return words, end.value.value

    both(use)


def test_value_sent_before_it_began_is_refused() -> None:
    both(lambda coro, log: coro.send("too early"))


def test_throw_goes_in_with_one_two_or_three_arguments() -> None:
    def use(coro: Any, log: list[Any]) -> Any:
        coro.send(None)
        return coro.throw(ValueError("thrown"))

    def use_type_and_value(coro: Any, log: list[Any]) -> Any:
        coro.send(None)
        return coro.throw(ValueError, ValueError("thrown"), None)

    def use_type(coro: Any, log: list[Any]) -> Any:
        return coro.throw(ValueError)

    both(use)
    both(use_type_and_value)
    both(use_type)
    both(lambda coro, log: coro.throw())
    both(lambda coro, log: coro.throw(5))


def test_close_before_during_and_after() -> None:
    def use_during(coro: Any, log: list[Any]) -> Any:
        coro.send(None)
        return coro.close(), coro.close()

    def use_after(coro: Any, log: list[Any]) -> Any:
        coro.send(None), coro.send(None)
        with pytest.raises(StopIteration):
            coro.send(None)
        return coro.close()

    both(lambda coro, log: coro.close())
    both(use_during)
    both(use_after)


def test_dropped_in_the_middle_it_runs_its_finally() -> None:
    def use(coro: Any, log: list[Any]) -> Any:
        coro.send(None)
        del coro
        gc.collect()
        return list(log)

    both(use)


def test_never_awaited_is_warned_of() -> None:
    with agent(), pytest.warns(RuntimeWarning, match="coroutine 'body' was never awaited"):
        del_of(measured_body([]))


def del_of(coro: Any) -> None:
    del coro
    gc.collect()


def test_awaited_twice_is_refused() -> None:
    def use(coro: Any, log: list[Any]) -> Any:
        coro.send(None), coro.send(None)
        with pytest.raises(StopIteration):
            coro.send(None)
        return coro.send(None)

    both(use)


def test_entered_again_while_it_runs_is_refused() -> None:
    async def main() -> Any:
        async def app(scope: Any, receive: Any, send: Any) -> Any:
            return holder[0].send(None)

        holder = [control.measured(app)(scope(), None, None)]
        return await outcome(holder[0])

    with agent():
        kind, error = asyncio.run(main())
    assert (kind, error["type"], error["args"]) == (
        "raised",
        ValueError,
        ["coroutine already executing"],
    )


def test_attributes_are_those_of_the_coroutine_inside() -> None:
    def use(coro: Any, log: list[Any]) -> Any:
        before = inspect.getcoroutinestate(coro)
        coro.send(None)
        seen = (
            before,
            inspect.getcoroutinestate(coro),
            coro.__name__,
            coro.__qualname__,
            coro.cr_code is body.__code__,
            coro.cr_frame.f_code is body.__code__,
            coro.cr_running,
            coro.cr_await.gi_code is inspect.unwrap(pause).__code__,
            asyncio.iscoroutine(coro),
            inspect.isawaitable(coro),
            hasattr(coro, "__await__"),
            hasattr(coro, "no_such_attribute"),
        )
        coro.close()
        return seen

    both(use)


def test_name_can_be_set_and_weak_references_made() -> None:
    def use(coro: Any, log: list[Any]) -> Any:
        coro.__name__ = "renamed"
        coro.__qualname__ = "renamed too"
        name = coro.__name__, coro.__qualname__
        reference = weakref.ref(coro)
        alive = reference() is coro
        coro.close()
        del coro
        return name, alive, reference() is None

    both(use)


def test_awaited_through_dunder_await_and_yield_from() -> None:
    class Delegate:
        def __init__(self, coro: Any) -> None:
            self.coro = coro

        def __await__(self) -> Any:
            return (yield from self.coro.__await__())

    def use(coro: Any, log: list[Any]) -> Any:
        async def outer() -> Any:
            return await Delegate(coro)

        o = outer()
        words = [o.send(None), o.send("x")]
        with pytest.raises(StopIteration) as end:
            o.send("y")
        return words, end.value.value

    both(use)


def test_stack_of_a_task_looks_through_it() -> None:
    async def inner() -> None:
        await asyncio.sleep(30)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await inner()

    async def main() -> Any:
        measured = control.measured(app)(scope(), None, None)
        task = asyncio.ensure_future(measured)
        await asyncio.sleep(0.001)
        frames = [f.f_code.co_name for f in task.get_stack()]
        coro: Any = task.get_coro()
        waits = coro.cr_await.cr_code.co_name
        task.cancel()
        return frames, waits, "app" in repr(task)

    with agent():
        assert asyncio.run(main()) == (["app"], "inner", True)


def test_cycle_through_a_measured_coroutine_is_collected() -> None:
    class Node:
        coro: Any

    async def app(node: Any, receive: Any, send: Any) -> None:
        await pause("here")
        print(node)

    with agent():
        gone = weakref.ref(in_a_cycle(Node(), app))
        gc.collect()
        assert gone() is None


def in_a_cycle(node: Any, app: Any) -> Any:
    measured = control.measured(lambda s, r, send: app(node, r, send))
    node.coro = measured(scope(), None, None)
    node.coro.send(None)
    return node


# ---- the wrapped application and send -----------------------------------------


async def echo(scope: Any, receive: Any, send: Any) -> Any:
    await send({"type": "http.response.start", "status": 201, "headers": []})
    return await send({"type": "http.response.body", "body": b"x"})


def test_application_looks_like_a_coroutine_function_of_three_arguments() -> None:
    with agent():
        app = control.measured(echo)
        if sys.version_info < (3, 14):
            assert asyncio.iscoroutinefunction(app)
            assert asyncio.iscoroutinefunction(app.__call__)
        if sys.version_info >= (3, 10):
            assert inspect.iscoroutinefunction(app)
        assert inspect.iscoroutinefunction(app.__call__)  # hypercorn asks so
        assert list(inspect.signature(app).parameters) == ["scope", "receive", "send"]
        assert control.measured(app) is app
        assert app.app is echo


class OfTwoCalls:
    def __init__(self, scope: Any) -> None:
        self.scope = scope

    async def __call__(self, receive: Any, send: Any) -> None: ...


class Synchronous:
    def __call__(self, environ: Any, start_response: Any) -> Any:
        return [b"wsgi"]


def wsgi(environ: Any, start_response: Any) -> Any:
    return [b"wsgi"]


@pytest.mark.parametrize("odd", [OfTwoCalls, Synchronous(), wsgi], ids=["asgi2", "object", "wsgi"])
def test_what_is_no_asgi3_does_not_begin_to_look_like_it(odd: Any) -> None:
    with agent():
        app: Any = control.measured(odd)
        assert not asyncio.iscoroutinefunction(app)
        assert not inspect.iscoroutinefunction(app)
        assert not inspect.iscoroutinefunction(app.__call__)


@pytest.mark.parametrize("kind", LOOPS)
def test_call_attribute_calls(kind: str) -> None:
    async def app(scope: Any, receive: Any, send: Any) -> Any:
        return scope["type"]

    async def main() -> Any:
        call = control.measured(app).__call__
        return await call(scope(), None, None)

    with agent():
        assert run(kind, main()) == "http"
        assert sum(e.requests for e in segment().endpoints) == 1


def test_attributes_of_the_application_are_reached() -> None:
    class App:
        state = "kept"

        async def __call__(self, scope: Any, receive: Any, send: Any) -> None: ...

    with agent():
        inner = App()
        app: Any = control.measured(inner)
        assert app.state == "kept"
        with pytest.raises(AttributeError, match="no_such"):
            _ = app.no_such


def test_what_send_returns_and_raises_comes_back() -> None:
    async def send(message: Any) -> Any:
        if message["type"] == "http.response.body":
            raise OSError("client is gone")
        return "sent"

    async def app(scope: Any, receive: Any, send: Any) -> Any:
        first = await send({"type": "http.response.start", "status": 200, "headers": []})
        try:
            await send({"type": "http.response.body"})
        except OSError as error:
            return first, str(error)

    async def main() -> Any:
        return await control.measured(app)(scope(), None, send)

    with agent():
        assert asyncio.run(main()) == ("sent", "client is gone")


def test_send_passes_on_what_is_no_message() -> None:
    seen = []

    async def send(*args: Any, **kwargs: Any) -> None:
        seen.append((args, kwargs))

    class Message(dict):  # type: ignore[type-arg]
        pass

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send()
        await send(5)
        await send({})
        await send({"type": 3})
        await send({"type": "http.response.start", "status": "200"})
        await send(Message(type="http.response.body"))
        await send(message={"type": "x"})
        await send({"type": "y"}, more=1)

    async def main() -> Any:
        await control.measured(app)(scope(), None, send)

    with agent():
        asyncio.run(main())
        assert len(segment().requests) == 1
    assert seen == [
        ((), {}),
        ((5,), {}),
        (({},), {}),
        (({"type": 3},), {}),
        (({"type": "http.response.start", "status": "200"},), {}),
        (({"type": "http.response.body"},), {}),
        ((), {"message": {"type": "x"}}),
        (({"type": "y"},), {"more": 1}),
    ]


def test_send_looks_like_the_servers() -> None:
    seen: list[Any] = []

    class Server:
        flag = 3

        async def send(self, message: Any) -> None: ...

    async def app(scope: Any, receive: Any, send: Any) -> None:
        # 3.9 believes nobody but real functions and methods
        is_async = sys.version_info < (3, 10) or inspect.iscoroutinefunction(send)
        seen.append((send.__self__, send.__name__, is_async))

    async def main(app: Any, server: Any) -> None:
        await app(scope(), None, server.send)

    server = Server()
    asyncio.run(main(app, server))
    with agent():
        asyncio.run(main(control.measured(app), server))
    assert seen[1] == seen[0]


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param(lambda app: app(), id="no arguments"),
        pytest.param(lambda app: app({"type": "http"}), id="asgi2"),
        pytest.param(lambda app: app(1, 2, 3), id="no scope"),
        pytest.param(lambda app: app({}, 2, 3), id="no type"),
        pytest.param(lambda app: app({"type": 5}, 2, 3), id="odd type"),
        pytest.param(lambda app: app({"type": "webtransport"}, 2, 3), id="unknown type"),
        pytest.param(lambda app: app({"type": "http"}, 2, 3, 4), id="four"),
        pytest.param(lambda app: app(scope={"type": "http"}, receive=2, send=3), id="keywords"),
        pytest.param(lambda app: app(types.MappingProxyType({"type": "http"}), 2, 3), id="proxy"),
        pytest.param(lambda app: app({"type": "http", "method": 3}, 2, 3), id="odd method"),
    ],
)
def test_odd_calls_reach_the_application_as_they_are(odd: Any) -> None:
    seen: list[Any] = []

    def app(*args: Any, **kwargs: Any) -> Any:
        seen.append((args[:2], kwargs))
        return "not even awaitable"

    with agent():
        assert odd(control.measured(app)) == odd(app)
    assert seen[0] == seen[1]


def test_application_that_raises_without_awaiting() -> None:
    def app(scope: Any, receive: Any, send: Any) -> Any:
        raise ValueError("no coroutine was made")

    async def main() -> Any:
        async def call() -> Any:
            return await control.measured(app)(scope(), None, None)

        return await outcome(call())

    with agent():
        kind, error = asyncio.run(main())
        assert (kind, error["type"], [n for n, _ in error["frames"]][-1]) == (
            "raised",
            ValueError,
            "app",
        )
        assert sum(e.in_flight for e in segment().endpoints) == 0


def test_application_that_returns_another_kind_of_awaitable() -> None:
    class OtherAwaitable:
        def __await__(self) -> Any:
            yield from asyncio.sleep(0).__await__()
            return "awaited"

    def with_future(scope: Any, receive: Any, send: Any) -> Any:
        future = asyncio.get_running_loop().create_future()
        future.set_result("future")
        return future

    def with_task(scope: Any, receive: Any, send: Any) -> Any:
        return asyncio.ensure_future(returns_at_once())

    def with_object(scope: Any, receive: Any, send: Any) -> Any:
        return OtherAwaitable()

    @types.coroutine
    def with_generator(scope: Any, receive: Any, send: Any) -> Any:
        yield from asyncio.sleep(0).__await__()
        return "generator"

    async def main() -> Any:
        apps = (with_future, with_task, with_object, with_generator)
        return [await control.measured(app)(scope(), None, None) for app in apps]

    with agent():
        assert asyncio.run(main()) == ["future", 7, "awaited", "generator"]


def test_coroutine_of_another_implementation_is_measured() -> None:
    class Compiled:
        """Behaves as the coroutines that Cython makes."""

        def __init__(self, coro: Any) -> None:
            self._coro = coro
            self.send = coro.send
            self.throw = coro.throw
            self.close = coro.close

        def __await__(self) -> Any:
            return self._coro.__await__()

    def app(scope: Any, receive: Any, send: Any) -> Any:
        return Compiled(echo(scope, receive, send))

    with agent():
        sent = asyncio.run(request(control.measured(app)))
        assert [m["type"] for m in sent] == ["http.response.start", "http.response.body"]
        assert segment().requests[0].status == 201


# ---- task factories ---------------------------------------------------------


@pytest.mark.parametrize("kind", LOOPS)
def test_factory_of_the_application_is_chained_and_comes_back(kind: str) -> None:
    made = []

    def factory(loop: Any, coro: Any, **kwargs: Any) -> Any:
        made.append(kwargs)
        return asyncio.Task(coro, loop=loop, **kwargs)

    async def main() -> Any:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(factory)
        with loopguard.watch():
            ours = loop.get_task_factory()
            assert ours is not factory
            assert ours.__wrapped__ is factory  # type: ignore[union-attr]
            assert await loop.create_task(returns_a_tuple()) == ("a", 1)
            assert "task returns_a_tuple" in segment().labels()
        assert len(made) == 1
        return loop.get_task_factory()

    assert run(kind, main()) is factory


@pytest.mark.parametrize("kind", LOOPS)
def test_factory_set_after_ours_stays(kind: str) -> None:
    def factory(loop: Any, coro: Any, **kwargs: Any) -> Any:
        return asyncio.Task(coro, loop=loop, **kwargs)

    async def main() -> Any:
        loop = asyncio.get_running_loop()
        with loopguard.watch():
            loop.set_task_factory(factory)
        assert loop.get_task_factory() is factory
        await loop.create_task(returns_none())

    run(kind, main())


@pytest.mark.parametrize("kind", LOOPS)
def test_factory_set_at_startup_is_stood_before_again(kind: str) -> None:
    def factory(loop: Any, coro: Any, **kwargs: Any) -> Any:
        return asyncio.Task(coro, loop=loop, **kwargs)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] == "lifespan":
            asyncio.get_running_loop().set_task_factory(factory)
            return
        await asyncio.ensure_future(returns_none())
        wrapped.append(getattr(asyncio.get_running_loop().get_task_factory(), "__wrapped__", None))

    async def main() -> Any:
        measured = control.measured(app)
        await measured({"type": "lifespan"}, None, None)
        await request(measured)

    wrapped: list[Any] = []
    with agent():
        run(kind, main())
    assert wrapped == [factory]


@pytest.mark.parametrize("kind", LOOPS)
def test_unknown_keywords_reach_the_factory_behind(kind: str) -> None:
    seen = []

    def factory(loop: Any, coro: Any, **kwargs: Any) -> Any:
        seen.append(kwargs)
        return asyncio.Task(coro, loop=loop)

    async def main() -> Any:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(factory)
        with loopguard.watch():
            ours: Any = loop.get_task_factory()
            await ours(loop, returns_none(), name="n", of_the_future=1, more=2)
        assert seen == [{"name": "n", "of_the_future": 1, "more": 2}]

    run(kind, main())


def test_unknown_keywords_without_a_factory_behind_are_the_tasks_affair() -> None:
    async def main() -> Any:
        loop = asyncio.get_running_loop()
        with loopguard.watch():
            ours: Any = loop.get_task_factory()
            coro = returns_none()
            with pytest.raises(TypeError, match="of_the_future"):
                ours(loop, coro, of_the_future=1)
            coro.close()  # type: ignore[attr-defined]
            with pytest.raises(TypeError):
                ours(loop, 5)
            with pytest.raises(TypeError):
                ours(loop)

    asyncio.run(main())


@pytest.mark.parametrize("kind", LOOPS)
def test_names_and_contexts_of_tasks_are_kept(kind: str) -> None:
    async def main() -> Any:
        loop = asyncio.get_running_loop()
        task = loop.create_task(returns_none(), name="mine")
        names = [task.get_name()]
        await task
        if sys.version_info >= (3, 11):
            context = contextvars.Context()
            await loop.create_task(sets_a_variable(), context=context)  # type: ignore[arg-type]
            names.append(context[variable])
        return names

    async def watched() -> Any:
        with loopguard.watch():
            return await main()

    assert run(kind, watched()) == run(kind, main())


@pytest.mark.parametrize("kind", LOOPS)
def test_tasks_without_a_name_get_their_numbers(kind: str) -> None:
    async def main() -> Any:
        loop = asyncio.get_running_loop()
        tasks = [loop.create_task(returns_none()) for _ in range(3)]
        if sys.version_info >= (3, 11):
            context = contextvars.Context()
            tasks.append(loop.create_task(returns_none(), context=context))  # type: ignore[arg-type]
        await asyncio.gather(*tasks)
        first = int(tasks[0].get_name().removeprefix("Task-"))
        return [t.get_name() for t in tasks] == [f"Task-{first + i}" for i in range(len(tasks))]

    async def watched() -> Any:
        with loopguard.watch():
            return await main()

    before = asyncio.BaseEventLoop.create_task
    assert run(kind, watched())
    assert asyncio.BaseEventLoop.create_task is before


def test_factory_of_the_application_names_as_without_us() -> None:
    def factory(loop: Any, coro: Any, **kwargs: Any) -> Any:
        return asyncio.Task(coro, loop=loop, **kwargs)

    async def main() -> Any:
        asyncio.get_running_loop().set_task_factory(factory)
        task = asyncio.create_task(returns_none())  # type: ignore[arg-type]
        await task
        return task.get_name() == "None"

    async def watched() -> Any:
        with loopguard.watch():
            return await main()

    assert asyncio.run(watched()) == asyncio.run(main())


@pytest.mark.skipif(sys.version_info < (3, 12), reason="eager tasks came with 3.12")
def test_eager_factory_is_chained() -> None:
    async def main() -> Any:
        loop = asyncio.get_running_loop()
        loop.set_task_factory(asyncio.eager_task_factory)  # type: ignore[attr-defined]
        with loopguard.watch():
            log = []

            async def child(n: int) -> int:
                log.append(n)
                return n

            task = loop.create_task(child(1))
            assert log == [1]
            assert task.done()
            assert await task == 1
            nested = await loop.create_task(eager_parent())
            assert "task test_eager_factory_is_chained.<locals>.main.<locals>.child" in (
                segment().labels()
            )
        assert loop.get_task_factory() is asyncio.eager_task_factory  # type: ignore[attr-defined]
        return nested

    async def eager_parent() -> Any:
        return await asyncio.create_task(returns_a_tuple())  # type: ignore[arg-type]

    assert asyncio.run(main()) == ("a", 1)


def test_coroutine_that_is_no_coroutine_is_refused_as_before() -> None:
    async def main() -> Any:
        loop = asyncio.get_running_loop()
        errors = []
        for watched in (False, True):
            watch = loopguard.watch() if watched else None
            with pytest.raises(TypeError) as error:
                await loop.create_task(5)  # type: ignore[arg-type]
            errors.append(str(error.value))
            if watch:
                watch.stop()
        return errors

    errors = asyncio.run(main())
    assert errors[0] == errors[1]


def test_partial_of_an_application_is_measured() -> None:
    async def app(word: str, scope: Any, receive: Any, send: Any) -> str:
        return word

    async def main() -> Any:
        return await control.measured(functools.partial(app, "w"))(scope(), None, None)

    with agent():
        assert asyncio.run(main()) == "w"
