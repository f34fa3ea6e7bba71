"""A server that answers late, for the endpoint that waits for one.

It runs in a thread of the worker, on a free loopback port, and only sleeps; so
it takes neither the CPU nor the GIL away from what the demo shows.
"""

from __future__ import annotations

import socketserver
import threading
import time


class _LateAnswer(socketserver.StreamRequestHandler):
    def handle(self) -> None:
        self.rfile.readline()
        time.sleep(0.25)
        self.wfile.write(b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok")


class SlowServer(socketserver.ThreadingTCPServer):
    """Listens from construction on; `close` ends it."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _LateAnswer)
        self.port = int(self.server_address[1])
        self._thread = threading.Thread(target=self.serve_forever, name="slow-server", daemon=True)
        self._thread.start()

    def close(self) -> None:
        self.shutdown()
        self.server_close()
        self._thread.join()
