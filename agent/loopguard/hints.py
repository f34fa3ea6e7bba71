"""What to write instead of the calls that block a loop most often.

One list for all who show it: the page of mode "strict", events, the pytest
plugin. Names and shapes as in fastapi-loopguard. `hint_for` picks the advice for
one block by what was measured of it: frames, call, cause.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from loopguard.frames import Frame

# (kind of work, what blocks, what does not)
FIX_HINTS: tuple[tuple[str, str, str], ...] = (
    ("Waiting", "time.sleep(s)", "await asyncio.sleep(s)"),
    ("HTTP", "requests.get(url)", "await httpx.AsyncClient().get(url)"),
    ("Database", "a synchronous driver or session", "an async driver, or a `def` endpoint"),
    ("Files", "path.read_bytes()", "await asyncio.to_thread(path.read_bytes)"),
    ("Names", "socket.getaddrinfo(host, port)", "await loop.getaddrinfo(host, port)"),
    ("Processes", "subprocess.run(args)", "await asyncio.create_subprocess_exec(*args)"),
    ("Locks", "threading.Lock().acquire()", "await asyncio.Lock().acquire()"),
    ("Computing", "compute(data)", "await loop.run_in_executor(process_pool, compute, data)"),
)


def hint_lines() -> list[str]:
    """The list as text.

    Returns:
        A new list, one "what blocks -> what does not" for each of `FIX_HINTS`.
    """
    return [f"{before} -> {after}" for _, before, after in FIX_HINTS]


_BY_CAUSE = {
    "cpu": "Long computation in the coroutine: move it to a process pool "
    "(loop.run_in_executor), or split it and await asyncio.sleep(0) in between.",
    "io": "A call waits for the network or for a pipe: use the library's async client, or "
    "await run_in_threadpool(call, ...).",
    "disk": "A file operation waits for the disk: await asyncio.to_thread(operation, ...).",
    "lock": "A threading lock is waited for on the loop: use asyncio.Lock, or take the lock "
    "in a worker thread.",
    "gil": "Another thread held the GIL: do that thread's computation in a process pool.",
    "gc": "The garbage collector ran: gc.freeze() after start-up, fewer objects in cycles, or a "
    "higher gc.set_threshold().",
    "scheduler": "The thread could run but got no CPU: fewer busy threads and processes on this "
    "machine, or a higher CPU limit of the container.",
    "page_fault": "Memory had to be read back from disk: the machine is short of memory.",
}
_SLEEP = "time.sleep() stops the whole loop: await asyncio.sleep(), or run_in_threadpool()."
# (package or part of a file name on the stack, advice); the first that is found
_BY_FILE = (
    (
        ("/requests/", "/urllib3/"),
        "requests is synchronous: use httpx.AsyncClient, or run_in_threadpool(requests.get, url).",
    ),
    (
        ("/httpx/_client.py",),
        "A synchronous httpx client: use httpx.AsyncClient and await its calls.",
    ),
    (
        ("/urllib/request.py", "/http/client.py"),
        "A synchronous HTTP client: use httpx.AsyncClient, or run_in_threadpool().",
    ),
    (
        ("/subprocess.py",),
        "subprocess waits for the child: await asyncio.create_subprocess_exec().",
    ),
    (
        ("/psycopg2/", "/pymysql/", "/MySQLdb/", "/pymongo/", "/redis/client.py"),
        "A synchronous database driver: use its async counterpart, or run_in_threadpool().",
    ),
    (
        ("/sqlalchemy/",),
        "A synchronous session: use sqlalchemy.ext.asyncio, or make the endpoint a plain `def`.",
    ),
)
_WAITS = ("io", "disk", "lock", "unknown")


def hint_for(cause: str, call: str, stack: Sequence[Frame]) -> str:
    """One sentence of advice for a block.

    Args:
        cause: as in `BlockingEvent`.
        call: the longest blocking call, or "".
        stack: frames of whoever is to blame, innermost first; may be empty.
    Returns:
        The sentence, or "" when there is nothing to say.
    """
    if cause in _WAITS:
        word = call.split(" ", 1)[0]
        for parts, text in _BY_FILE:
            if any(part in frame.filename for frame in stack for part in parts):
                return text
        if word == "sleep":
            return _SLEEP
        if word in ("waitpid", "spawn"):
            return "A child process is waited for: await asyncio.create_subprocess_exec()."
        if word == "getaddrinfo":
            return "A host name is looked up on the loop: await loop.getaddrinfo()."
        if cause == "unknown":
            return _BY_CAUSE["io"] if call else ""
    return _BY_CAUSE.get(cause, "")
