"""The server that tests ask: one of ours, in a process, or one whose URL TRIMTAB_SERVER_URL has.

TRIMTAB_SERVER_URL=http://127.0.0.1:8000 pytest tests/serving/test_conformance.py
"""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from conftest import TEMPLATE, make_tokenizer, save_model

PLACE = re.compile(r"at (http://\S+)/v1")
STRICT = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}" + TEMPLATE
)
"""As Gemma's: no system turn."""


@dataclass
class Process:
    """A running server.

    Attributes:
        url: without `/v1`.
        lines: what it wrote so far.
    """

    running: subprocess.Popen[str]
    url: str = ""
    lines: list[str] = field(default_factory=list)

    def stop(self, how: signal.Signals = signal.SIGTERM, seconds: float = 60) -> int:
        """Its exit code."""
        self.running.send_signal(how)
        return self.running.wait(seconds)


def models(folder: Path) -> list[str]:
    """Options for a base and two ARMs of a few thousand parameters, and an instruction."""
    save_model(folder / "tiny", 0, tokenizer=make_tokenizer(template=STRICT))
    save_model(folder / "helpful", 1)
    save_model(folder / "harmless", 2)
    for name in ("tiny", "helpful", "harmless"):  # room for a judge's questions
        config = folder / name / "config.json"
        config.write_text(config.read_text().replace('embeddings": 256', 'embeddings": 4096'))
    return [
        "--base", str(folder / "tiny"), "--arm", f"helpful={folder / 'helpful'}",
        "--arm", f"harmless={folder / 'harmless'}", "--instruct", "plain=Use short words.",
    ]  # fmt: skip


@contextmanager
def serving(options: Sequence[str], **environment: str) -> Iterator[Process]:
    """`trimtab serve`, once it listens; killed at the end if it still runs."""
    running = subprocess.Popen(
        [sys.executable, "-m", "trimtab", "serve", "--port", "0", *options],
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
        env={**os.environ, **environment},
    )
    process, listens = Process(running), threading.Event()

    def read() -> None:
        assert running.stderr
        for line in running.stderr:
            process.lines.append(line.rstrip("\n"))
            if not process.url and (found := PLACE.search(line)):
                process.url = found[1]
                listens.set()
        listens.set()

    reader = threading.Thread(target=read, daemon=True)
    reader.start()
    try:
        assert listens.wait(300) and process.url, "\n".join(process.lines)
        yield process
    finally:
        if running.poll() is None:
            running.kill()
            running.wait()
        reader.join(10)
        assert running.stderr
        running.stderr.close()


@pytest.fixture(scope="session")
def tiny_options(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    return models(tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="session")
def own_url(tiny_options: list[str]) -> Iterator[str]:
    """Of a server of ours."""
    with serving(tiny_options) as process:
        yield process.url


@pytest.fixture(scope="session")
def url(request: pytest.FixtureRequest) -> str:
    """Of the server that is tried."""
    given = os.environ.get("TRIMTAB_SERVER_URL", "").rstrip("/")
    return given or str(request.getfixturevalue("own_url"))


@pytest.fixture(scope="session")
def tiny_folder(tiny_options: list[str]) -> Path:
    return Path(tiny_options[1]).parent
