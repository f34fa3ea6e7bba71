"""What counts as a blocking call for `loopguard.blocking`, and how much it weighs.

Names and weights are those of aiocop 1.2.1, so that scores stay comparable; the
names are CPython's audit events (https://docs.python.org/3/library/audit_events.html)
and, for functions that raise none, their dotted path.
"""

from __future__ import annotations

import sys

WEIGHT_HEAVY = 50
WEIGHT_MODERATE = 10
WEIGHT_LIGHT = 1
WEIGHT_TRIVIAL = 0

THRESHOLD_HIGH = 50
THRESHOLD_MEDIUM = 10
THRESHOLD_LOW = 1

_WRAPPED = {
    WEIGHT_HEAVY: """
        socket.socket.accept socket.socket.connect socket.socket.connect_ex
    """,
    WEIGHT_MODERATE: """
        os.sendfile
        socket.socket.recv socket.socket.recv_into socket.socket.recvfrom
        socket.socket.recvfrom_into socket.socket.recvmsg
        socket.socket.send socket.socket.sendall socket.socket.sendmsg socket.socket.sendto
        ssl.SSLSocket.read ssl.SSLSocket.recv ssl.SSLSocket.send ssl.SSLSocket.write
    """,
    WEIGHT_LIGHT: """
        os.access os.readlink os.stat os.statvfs
        os.path.ismount os.path.sameopenfile os.path.samestat
    """,
    WEIGHT_TRIVIAL: """
        os.getcwd os.path.abspath os.path.islink socket.socket.bind
    """,
}

_AUDITED = {
    WEIGHT_HEAVY: """
        builtins.input import time.sleep
        ftplib.connect http.client.connect imaplib.open nntplib.connect poplib.connect
        smtplib.connect urllib.Request
        glob.glob os.fwalk os.walk pathlib.Path.glob pathlib.Path.rglob
        shutil.copytree shutil.rmtree
        os.exec os.fork os.posix_spawn os.spawn os.system subprocess.Popen
        socket.getaddrinfo socket.gethostbyaddr socket.gethostbyname socket.getnameinfo
    """,
    WEIGHT_MODERATE: """
        open os.listdir os.scandir tempfile.mkdtemp tempfile.mkstemp
        os.link os.mkdir os.remove os.rename os.replace os.rmdir os.symlink os.truncate
        shutil.copyfile shutil.copymode shutil.copystat shutil.move
        sqlite3.connect
    """,
    WEIGHT_LIGHT: """
        fcntl.flock fcntl.lockf os.kill syslog.openlog syslog.syslog
    """,
}


def _by_name(table: dict[int, str]) -> dict[str, int]:
    return {name: weight for weight, names in table.items() for name in names.split()}


FUNCTIONS_TO_PATCH_DICT: dict[str, int] = _by_name(_WRAPPED)
"""Dotted path -> weight of the functions that `patch_audit_functions` wraps. Add
your own before you call it."""

if sys.version_info < (3, 13):
    FUNCTIONS_TO_PATCH_DICT["time.sleep"] = WEIGHT_HEAVY  # raises its own event from 3.13 on

BLOCKING_EVENTS_DICT: dict[str, int] = {**_by_name(_AUDITED), **FUNCTIONS_TO_PATCH_DICT}
"""Audit event -> weight. Add your own before `start_blocking_io_detection`."""
