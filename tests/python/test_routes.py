"""Endpoints are named by their templates, on the FastAPI and Starlette found here."""

from __future__ import annotations

import asyncio
import sys
from pathlib import Path
from typing import Any

import pytest
from fastapi import APIRouter, FastAPI, WebSocket
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Host, Mount, Route, Router
from starlette.staticfiles import StaticFiles

from loopguard import patches, routes


class Named:
    """Does in Python what the agent does in C: names each route at `handle`."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.template = ""
        for module, classes in patches.ROUTE_CLASSES.items():
            for name, kind in classes:
                cls = getattr(sys.modules[module], name, None)
                if cls is not None and "handle" in vars(cls):
                    monkeypatch.setattr(cls, "handle", self._naming(cls.handle, kind))

    def _naming(self, original: Any, kind: str) -> Any:
        async def handle(route: Any, scope: Any, receive: Any, send: Any) -> None:
            prefix = scope.get("prefix", "")
            self.template = routes.template(route, scope, prefix)
            if kind == "mount":
                scope["prefix"] = self.template
            await original(route, scope, receive, send)

        return handle


class Client:
    """One ASGI call at a time, without a server."""

    def __init__(self, app: Any) -> None:
        self.app = app

    def call(self, path: str, method: str = "GET", host: str = "here", kind: str = "http") -> int:
        """Returns the status, or 101 for an accepted WebSocket."""
        scope: dict[str, Any] = {"type": kind, "path": path, "query_string": b"", "root_path": ""}
        scope["headers"] = [(b"host", host.encode())]
        if kind == "http":
            scope["method"] = method
        status = []

        async def receive() -> dict[str, Any]:
            return {"type": "websocket.connect" if kind == "websocket" else "http.request"}

        async def send(message: dict[str, Any]) -> None:
            if message["type"] in ("http.response.start", "websocket.accept"):
                status.append(message.get("status", 101))

        asyncio.run(self.app(scope, receive, send))
        return int(status[0])


@pytest.fixture
def named(monkeypatch: pytest.MonkeyPatch) -> Named:
    return Named(monkeypatch)


@pytest.fixture
def client(tmp_path: Path) -> Client:
    return Client(make_app(tmp_path))


def make_app(folder: Path) -> FastAPI:
    async def say(request: Request) -> PlainTextResponse:
        return PlainTextResponse("said")

    async def read(z: str) -> str:
        return z

    async def talk(socket: WebSocket) -> None:
        await socket.accept()
        await socket.close()

    deep = APIRouter(prefix="/deep")
    deep.add_api_route("/x/{z}", read)
    deep.add_api_websocket_route("/ws/{z}", talk)
    tenant = APIRouter(prefix="/{tenant}")
    tenant.include_router(deep)

    sub = FastAPI()
    sub.add_api_route("/users/{z}", read)
    sub.include_router(deep, prefix="/included")

    inner = Mount("/m/{k}", routes=[Route("/in/{q}", say), Mount("/n", routes=[Route("/", say)])])
    host = Host("{tenant}.example.org", app=Router(routes=[Route("/h", say)]))
    plain = Starlette(routes=[Route("/s/{q}", say), inner])

    app = FastAPI()
    app.add_api_route("/plain/{z}", read)
    app.add_api_route("/number/{z:int}", read)
    app.include_router(tenant, prefix="/api/v1")
    app.include_router(deep, prefix="/api/v2")
    app.mount("/sub/{region}", sub)
    app.mount("/st", plain)
    app.mount("/static", StaticFiles(directory=str(folder)))
    app.router.routes.append(host)
    return app


@pytest.mark.parametrize(
    ("path", "template"),
    [
        ("/plain/1", "/plain/{z}"),
        ("/number/7", "/number/{z:int}"),
        ("/api/v1/acme/deep/x/3", "/api/v1/{tenant}/deep/x/{z}"),
        ("/api/v2/deep/x/3", "/api/v2/deep/x/{z}"),
        ("/sub/eu/users/7", "/sub/{region}/users/{z}"),
        ("/sub/eu/included/deep/x/9", "/sub/{region}/included/deep/x/{z}"),
        ("/st/s/1", "/st/s/{q}"),
        ("/st/m/kk/in/3", "/st/m/{k}/in/{q}"),
        ("/st/m/kk/n/", "/st/m/{k}/n/"),
        ("/docs", "/docs"),
        ("/openapi.json", "/openapi.json"),
        ("/static/none", "/static"),
    ],
)
def test_endpoint_is_named_by_its_whole_template(
    named: Named, client: Client, path: str, template: str
) -> None:
    client.call(path)
    assert named.template == template


def test_host_is_named_by_its_template(named: Named, client: Client) -> None:
    assert client.call("/h", host="acme.example.org") == 200
    assert named.template == "{tenant}.example.org/h"


def test_wrong_method_is_counted_at_its_route(named: Named, client: Client) -> None:
    assert client.call("/api/v2/deep/x/3", method="DELETE") == 405
    assert named.template == "/api/v2/deep/x/{z}"


def test_path_without_a_route_is_not_named(named: Named, client: Client) -> None:
    assert client.call("/nowhere/4711") == 404
    assert named.template == ""


def test_websocket_is_named_with_the_prefix_of_its_router(named: Named, client: Client) -> None:
    assert client.call("/api/v1/acme/deep/ws/3", kind="websocket") == 101
    assert named.template == "/api/v1/{tenant}/deep/ws/{z}"


def test_a_thousand_paths_have_one_name(named: Named, client: Client) -> None:
    seen = set()
    for n in range(1000):
        client.call(f"/sub/region{n}/users/{n}")
        seen.add(named.template)
    assert seen == {"/sub/{region}/users/{z}"}


def test_route_without_a_path_is_unknown() -> None:
    assert routes.template(object(), {}, "/sub") == "(unknown)"


def test_context_of_an_outer_router_does_not_name_an_inner_route() -> None:
    class Context:
        original_route = object()
        path = "/outer/{x}"

    class Inner:
        path = "/inner"

    scope = {"fastapi": {"effective_route_context": Context()}}
    assert routes.template(Inner(), scope, "/mounted") == "/mounted/inner"
