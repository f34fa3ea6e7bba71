"""What to write instead of the calls that block a loop most often.

One list for all who show it: the page of mode "strict", events, the pytest
plugin. Names and shapes as in fastapi-loopguard.
"""

from __future__ import annotations

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
