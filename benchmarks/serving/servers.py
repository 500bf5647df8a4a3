"""Servers in processes of their own: `trimtab serve`, and `transformers serve`."""

from __future__ import annotations

import contextlib
import re
import signal
import socket
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path

import psutil


class StartError(RuntimeError):
    """A server that did not come up, and its last words."""


class Server:
    """A process that listens.

    Args:
        command: that starts it.
        place: what its standard error is searched for; the first group is the URL.
    """

    def __init__(self, command: Sequence[str], place: str) -> None:
        self.process = subprocess.Popen(
            command, stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True
        )
        self.url, lines, listens = "", deque[str](maxlen=20), threading.Event()

        def read() -> None:
            for line in self.process.stderr or ():
                lines.append(line.rstrip())
                if not self.url and (found := re.search(place, line)):
                    self.url = found[1]
                    listens.set()
            listens.set()

        self._reader = threading.Thread(target=read, daemon=True)
        self._reader.start()
        listens.wait(300)
        if not self.url:
            self.stop(signal.SIGKILL)
            raise StartError("\n".join(lines))

    @property
    def rss(self) -> int:
        """Bytes of memory."""
        return int(psutil.Process(self.process.pid).memory_info().rss)

    def stop(self, how: signal.Signals = signal.SIGTERM) -> None:
        """End it, unless it has ended."""
        if self.process.poll() is None:
            self.process.send_signal(how)
            self.process.wait(120)
        self._reader.join(10)
        if self.process.stderr:
            self.process.stderr.close()


@contextlib.contextmanager
def running(command: Sequence[str], place: str) -> Iterator[Server]:
    """A server, and its end."""
    server = Server(command, place)
    try:
        yield server
    finally:
        server.stop(signal.SIGKILL)


def trimtab_server(base: str, *options: str) -> contextlib.AbstractContextManager[Server]:
    """Ours."""
    command = [sys.executable, "-m", "trimtab", "serve", "--port", "0", "--base", base, *options]
    return running(command, r"at (http://\S+)/v1")


def transformers_server(*options: str) -> contextlib.AbstractContextManager[Server]:
    """What comes with transformers."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = str(free.getsockname()[1])
    command = [str(Path(sys.executable).parent / "transformers"), "serve", *options]
    command += ["--host", "127.0.0.1", "--port", port]
    return running(command, r"(http://127\.0\.0\.1:\d+)")
