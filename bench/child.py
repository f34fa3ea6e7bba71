"""One measured process: child.py VARIANT MEASURE; driven by rounds.py.

Reads a number of operations from a line of standard input, does them, writes
how many nanoseconds of CPU time one took. The loop, the application and the tool stay as
they are from one line to the next.
"""

from __future__ import annotations

import asyncio
import logging
import os
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

import variants

SCOPE = {
    "type": "http",
    "asgi": {"version": "3.0", "spec_version": "2.3"},
    "http_version": "1.1",
    "server": ("127.0.0.1", 80),
    "client": ("127.0.0.1", 5),
    "scheme": "http",
    "method": "GET",
    "root_path": "",
    "path": "/",
    "raw_path": b"/",
    "query_string": b"",
    "headers": [(b"host", b"127.0.0.1"), (b"accept", b"*/*")],
}
Operation = Callable[[int], Awaitable[float]]  # how many -> seconds for all

# CPU time of the loop's thread: what other processes do hardly shows in it.
now = time.thread_time


async def receive() -> dict[str, Any]:
    return {"type": "http.request", "body": b"", "more_body": False}


async def send(message: Any) -> None:
    del message


class Driver:
    """The part of a server that is not network: a task for each request."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.loop = asyncio.get_running_loop()
        self._lifespan: asyncio.Task[None] | None = None

    async def start(self) -> None:
        ready = asyncio.Event()

        async def receive_lifespan() -> dict[str, Any]:
            if ready.is_set():
                await asyncio.Event().wait()
            return {"type": "lifespan.startup"}

        async def send_lifespan(message: Any) -> None:
            del message
            ready.set()

        scope = {"type": "lifespan", "asgi": SCOPE["asgi"], "state": {}}
        self._lifespan = self.loop.create_task(self.app(scope, receive_lifespan, send_lifespan))
        await ready.wait()

    async def requests(self, count: int) -> float:
        app, loop = self.app, self.loop
        start = now()
        for _ in range(count):
            scope = SCOPE.copy()
            scope["state"] = {}
            await loop.create_task(app(scope, receive, send))
        return now() - start

    async def ask(self) -> None:
        await self.app(SCOPE.copy(), receive, send)


async def answer(reply: Any) -> None:
    await reply({"type": "http.response.start", "status": 200, "headers": []})
    await reply({"type": "http.response.body", "body": b""})


def in_request(work: Callable[[int], Awaitable[float]]) -> Callable[[Any], Operation]:
    """An operation within one request of a bare ASGI application."""

    def make(around: Any) -> Operation:
        todo = [0]
        took = [0.0]

        async def app(scope: Any, receive: Any, reply: Any) -> None:
            if scope["type"] == "lifespan":
                await receive()
                await reply({"type": "lifespan.startup.complete"})
                await receive()
                return
            took[0] = await work(todo[0])
            await answer(reply)

        driver: list[Driver] = []

        async def operation(count: int) -> float:
            if not driver:
                driver.append(Driver(around(app)))
                await driver[0].start()
            todo[0] = count
            await driver[0].loop.create_task(driver[0].ask())
            return took[0]

        return operation

    return make


def request(around: Any) -> Operation:
    from fastapi import FastAPI  # noqa: PLC0415

    api = FastAPI()

    @api.get("/")
    async def root() -> dict[str, bool]:
        return {"ok": True}

    driver: list[Driver] = []

    async def operation(count: int) -> float:
        if not driver:
            driver.append(Driver(around(api)))
            await driver[0].start()
        return await driver[0].requests(count)

    return operation


def step(around: Any) -> Operation:
    """Fifty requests at once, so that a step's share of an iteration is small."""
    per_request = [1]

    async def app(scope: Any, receive: Any, reply: Any) -> None:
        if scope["type"] == "lifespan":
            await receive()
            await reply({"type": "lifespan.startup.complete"})
            await receive()
            return
        for _ in range(per_request[0]):
            await asyncio.sleep(0)
        await answer(reply)

    driver: list[Driver] = []

    async def operation(count: int) -> float:
        if not driver:
            driver.append(Driver(around(app)))
            await driver[0].start()
        per_request[0] = max(1, count // 50)
        start = now()
        await asyncio.gather(*(driver[0].ask() for _ in range(50)))
        return (now() - start) * count / (per_request[0] * 50)

    return operation


async def ping_pong(count: int) -> float:
    """Iterations of the loop that run one callback each."""
    loop = asyncio.get_running_loop()
    done = loop.create_future()
    left = [count]

    def callback() -> None:
        left[0] -= 1
        if left[0]:
            loop.call_soon(callback)
        else:
            done.set_result(None)

    start = now()
    loop.call_soon(callback)
    await done
    return now() - start


async def child_tasks(count: int) -> float:
    async def nothing() -> None:
        return None

    loop = asyncio.get_running_loop()
    start = now()
    for _ in range(count):
        await loop.create_task(nothing())
    return now() - start


async def system_calls(count: int) -> float:
    """A call that the hooks replace, and that does next to nothing."""
    fd = os.open("/dev/null", os.O_RDONLY)
    pread = os.pread
    start = now()
    for _ in range(count):
        pread(fd, 1, 0)
    took = now() - start
    os.close(fd)
    return took


async def pool_calls(count: int) -> float:
    import anyio.to_thread  # noqa: PLC0415

    start = now()
    for _ in range(count):
        await anyio.to_thread.run_sync(int)
    return now() - start


MEASURES: dict[str, Callable[[Any], Operation]] = {
    "request": request,
    "step": step,
    "iteration": in_request(ping_pong),
    "task": in_request(child_tasks),
    "call": in_request(system_calls),
    "pool": in_request(pool_calls),
}


async def serve_rounds(variant: str, measure: str) -> None:
    operation = MEASURES[measure](lambda app: variants.around(variant, app))
    variants.in_loop(variant)
    loop = asyncio.get_running_loop()
    while True:
        # in a thread: a loop that waits is not blocked
        line = await loop.run_in_executor(None, sys.stdin.readline)
        if not line:
            return
        count = int(line)
        await operation(min(count, 10))  # awake, and its code in the cache
        print(await operation(count) / count * 1e9, flush=True)


if __name__ == "__main__":
    logging.disable(logging.CRITICAL)
    asyncio.run(serve_rounds(sys.argv[1], sys.argv[2]))
