"""The application that uvicorn serves for wrk: one trivial endpoint.

BENCH_VARIANT names the tool around it.
"""

from __future__ import annotations

import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from fastapi import FastAPI

import variants

VARIANT = os.environ.get("BENCH_VARIANT", "none")


@asynccontextmanager
async def lifespan(_: FastAPI) -> AsyncIterator[None]:
    variants.in_loop(VARIANT)
    yield


api = FastAPI(lifespan=lifespan)


@api.get("/")
async def root() -> dict[str, bool]:
    return {"ok": True}


app = variants.around(VARIANT, api)
