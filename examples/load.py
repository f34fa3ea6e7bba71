"""A bounded load for the demo: some tens of requests a second, never more.

    python load.py --url http://127.0.0.1:8000 --duration 30 --mix mixed

Only the standard library; one connection per request.
"""

from __future__ import annotations

import argparse
import asyncio
import base64
import collections
import os
import random
import sys
from urllib.parse import urlsplit

HONEST = [
    ("GET", "/health", 30),
    ("GET", "/items/{n}", 30),
    ("POST", "/items", 10),
    ("GET", "/stream", 3),
    ("GET", "/patient", 2),
]
BLOCKERS = [
    ("POST", "/reports/{n}", 3),
    ("POST", "/reports/{n}?seconds=1.2", 1),
    ("GET", "/search", 4),
    ("GET", "/cuts", 1),
    ("GET", "/validate", 1),
    ("GET", "/export", 1),
    ("GET", "/login", 1),
    ("GET", "/sleep", 1),
    ("GET", "/quote", 1),
    ("GET", "/file", 1),
    ("GET", "/convert", 1),
    ("GET", "/lock", 1),
    ("GET", "/gc", 1),
    ("GET", "/pool", 1),
    ("GET", "/child", 1),
    ("GET", "/later", 2),
    ("POST", "/orders", 1),
    ("WS", "/chat/{n}", 1),
    ("GET", "/nowhere/{n}", 1),
]
MIXES = {
    "honest": HONEST,
    "mixed": [(method, path, 2 * weight) for method, path, weight in HONEST] + BLOCKERS,
    "blockers": BLOCKERS,
}
MOST_OPEN = 64  # a blocked server must not make us pile up connections


class Load:
    """Sends requests of a mix at a fixed rate and counts the answers."""

    def __init__(self, url: str, rate: float, mix: list[tuple[str, str, int]], seed: int) -> None:
        parts = urlsplit(url)
        if parts.scheme != "http" or parts.hostname is None:
            raise ValueError(f"expected http://HOST:PORT, got {url!r}")
        self.host = parts.hostname
        self.port = parts.port or 80
        self.rate = rate
        self.mix = mix
        self.answers: collections.Counter[str] = collections.Counter()
        self._random = random.Random(seed)
        self._open: set[asyncio.Task[None]] = set()

    async def run(self, duration: float) -> None:
        loop = asyncio.get_running_loop()
        end = loop.time() + duration
        due = loop.time()
        while loop.time() < end:
            if len(self._open) < MOST_OPEN:
                task = loop.create_task(self._one())
                self._open.add(task)
                task.add_done_callback(self._open.discard)
            else:
                self.answers["held back"] += 1
            due = max(due + 1 / self.rate, loop.time())
            await asyncio.sleep(due - loop.time())
        if self._open:
            await asyncio.wait(self._open, timeout=10)

    async def _one(self) -> None:
        weights = [weight for _, _, weight in self.mix]
        method, path, _ = self._random.choices(self.mix, weights)[0]
        path = path.replace("{n}", str(self._random.randrange(1000)))
        try:
            self.answers[await asyncio.wait_for(self._exchange(method, path), 30)] += 1
        except (OSError, asyncio.TimeoutError, asyncio.IncompleteReadError, ValueError):
            self.answers["no answer"] += 1

    async def _exchange(self, method: str, path: str) -> str:
        reader, writer = await asyncio.open_connection(self.host, self.port)
        try:
            if method == "WS":
                return await _say_hello(reader, writer, path)
            request = f"{method} {path} HTTP/1.1\r\nHost: demo\r\nConnection: close\r\n"
            writer.write((request + "Content-Length: 0\r\n\r\n").encode())
            status = (await reader.readline()).split()
            await reader.read()
            return status[1].decode() if len(status) > 1 else "no answer"
        finally:
            writer.close()


async def _say_hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, path: str) -> str:
    """One message over a WebSocket (RFC 6455), then goodbye."""
    key = base64.b64encode(os.urandom(16)).decode()
    writer.write(
        f"GET {path} HTTP/1.1\r\nHost: demo\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {key}\r\n\r\n".encode()
    )
    head = await reader.readuntil(b"\r\n\r\n")
    status = head.split()[1].decode()
    if status == "101":
        writer.write(_frame(0x1, b"hello"))
        await reader.readexactly(2)
        writer.write(_frame(0x8, b"\x03\xe8"))
        await reader.read()
    return status


def _frame(opcode: int, payload: bytes) -> bytes:
    mask = os.urandom(4)
    masked = bytes(byte ^ mask[i % 4] for i, byte in enumerate(payload))
    return bytes([0x80 | opcode, 0x80 | len(payload)]) + mask + masked


def main() -> int:
    parser = argparse.ArgumentParser(description="A bounded load for the demo application.")
    parser.add_argument("--url", default="http://127.0.0.1:8000")
    parser.add_argument("--duration", type=float, default=30.0, help="seconds (default 30)")
    parser.add_argument("--rate", type=float, default=20.0, help="requests a second, 1 to 50")
    parser.add_argument("--mix", choices=sorted(MIXES), default="mixed")
    parser.add_argument("--seed", type=int, default=1, help="the same seed, the same requests")
    options = parser.parse_args()
    if not 1 <= options.rate <= 50:
        parser.error(f"--rate must be between 1 and 50, got {options.rate:g}")
    load = Load(options.url, options.rate, MIXES[options.mix], options.seed)
    asyncio.run(load.run(options.duration))
    print(", ".join(f"{count} x {what}" for what, count in load.answers.most_common()))
    return 0 if any(what.isdigit() for what in load.answers) else 1


if __name__ == "__main__":
    sys.exit(main())
