"""A local OpenAI-compatible server that injects faults; every fault is drawn from the request's own content."""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class Server(ThreadingHTTPServer):
    """Answers ``reply(messages)``; a share ``faults`` of first tries fails, each in one of several ways."""

    daemon_threads = True
    request_queue_size = 1024

    def __init__(self, reply: Any, faults: float = 0.0, hopeless: float = 0.0) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.complete: Any = None  # of ``/completions``: body -> text
        self.reply, self.faults, self.hopeless = reply, faults, hopeless
        self.tries, self.lock, self.kinds = Counter[str](), threading.Lock(), Counter[str]()
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: Any, client_address: Any) -> None:
        return None


FAULTS = ("429", "500", "503", "reset", "cut", "garbage", "empty", "null", "no_choices", "html")


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *args: Any) -> None:
        return None

    def do_GET(self) -> None:
        self._send(200, json.dumps({"data": [{"id": "fake"}]}))

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        key = hashlib.sha256(body).hexdigest()
        with self.server.lock:
            self.server.tries[key] += 1
            first = self.server.tries[key] == 1
        draw = int(key[:8], 16) / 16**8
        if draw < self.server.hopeless or (first and draw < self.server.hopeless + self.server.faults):
            kind = FAULTS[int(key[8:12], 16) % len(FAULTS)]
            self.server.kinds[kind] += 1
            self._fail(kind)
            return
        asked = json.loads(body)
        if self.path.endswith("/completions") and "messages" not in asked:
            choice = {"index": 0, "text": self.server.complete(asked), "finish_reason": "stop", "token_ids": [3, 1]}
            choice["logprobs"] = {"token_logprobs": [-0.5, -0.25]}
            self._send(200, json.dumps({"choices": [choice], "usage": {"prompt_tokens": 2, "completion_tokens": 2}}))
            return
        text = self.server.reply(asked["messages"])
        if isinstance(text, float):
            time.sleep(text)
            text = "late"
        choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
        usage = {"prompt_tokens": 7, "completion_tokens": 3, "total_tokens": 10}
        whole = {"id": key[:16], "object": "chat.completion", "created": 0, "model": asked["model"]}
        self._send(200, json.dumps({**whole, "choices": [choice], "usage": usage}))

    def _fail(self, kind: str) -> None:
        if kind in ("429", "500", "503"):
            self._send(int(kind), "{}")
        elif kind == "reset":
            self.close_connection = True
            self.connection.close()
        elif kind == "cut":
            self.send_response(200)
            self.send_header("Content-Length", "1000")
            self.end_headers()
            self.wfile.write(b'{"choices": [{"mess')
            self.close_connection = True
        else:
            bodies = {
                "garbage": "\x00{[", "empty": '{"choices": []}', "no_choices": "{}", "html": "<html>busy</html>",
                "null": '{"choices": [{"message": {"content": null}}]}',
            }  # fmt: skip
            self._send(200, bodies[kind])

    def _send(self, code: int, text: str) -> None:
        data = text.encode()
        self.send_response(code)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
