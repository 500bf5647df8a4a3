"""A small OpenAI-compatible server on loopback that answers as a test tells it."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator, Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Server(ThreadingHTTPServer):
    """Answers with what `replies` says for each question in turn; the last one goes on.

    A reply is (status, content) or (status, content, headers). Content is the message's text, or a
    function of the question that gives it (or another such reply); at another status than 200 it is
    the body. A dictionary with `choices` or `error` is the whole body at any status.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.replies: list[Any] = [(200, "Rating: 5")]
        self.bodies: list[Any] = []
        self.keys: list[str | None] = []
        self.lock = threading.Lock()

    @property
    def spec(self) -> str:
        return f"judge:tiny@http://127.0.0.1:{self.server_port}/v1"

    @property
    def rated(self) -> list[str]:
        """The responses that were asked about."""
        questions = [body["messages"][0]["content"] for body in self.bodies]
        return [rated_response(question) for question in questions]


def rated_response(question: str) -> str:
    return question.split("[Response to rate]")[1].split("[End of response]")[0].strip()


class Handler(BaseHTTPRequestHandler):
    server: Server

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        with self.server.lock:
            self.server.bodies.append(body)
            self.server.keys.append(self.headers["Authorization"])
            replies = self.server.replies
            found = replies.pop(0) if len(replies) > 1 else replies[0]
        status, content, *more = found if isinstance(found, tuple) else found(body)
        if callable(content):
            content = content(body["messages"][0]["content"])
            if isinstance(content, tuple):
                status, content, *more = content
        headers: Mapping[str, str] = more[0] if more else {}
        if isinstance(content, dict) and {"choices", "error"} & set(content):
            data = json.dumps(content).encode()
        elif status == 200:
            data = json.dumps({"choices": [{"message": {"content": content}}]}).encode()
        else:
            data = content.encode()
        if self.path != "/v1/chat/completions":
            status = 404
        self.send_response(status)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_: Any) -> None:
        pass


@contextlib.contextmanager
def serving() -> Iterator[Server]:
    """A running server."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
