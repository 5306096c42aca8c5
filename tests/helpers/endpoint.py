"""A local OpenAI-compatible chat endpoint whose replies a function of the request decides."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


def completion(content: object, finish: str | None = "stop") -> bytes:
    return json.dumps({"choices": [{"message": {"content": content}, "finish_reason": finish}]}).encode()


class Server:
    """The endpoint; it keeps every request and its headers."""

    def __init__(self, reply: Callable[[dict], bytes | int]) -> None:
        self.reply = reply
        self.requests: list[dict] = []
        self.headers: list[dict] = []
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                request = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
                outer.requests.append(request)
                outer.headers.append(dict(self.headers))
                reply = outer.reply(request) if self.path == "/v1/chat/completions" else 404
                body = reply if isinstance(reply, bytes) else b"{}"
                try:
                    self.send_response(200 if isinstance(reply, bytes) else reply)
                    self.send_header("Content-Length", str(len(body)))
                    self.end_headers()
                    size = 50 if outer.pause else len(body) or 1
                    for start in range(0, len(body), size):
                        self.wfile.write(body[start : start + size])
                        self.wfile.flush()
                        time.sleep(outer.pause)
                except OSError:
                    self.close_connection = True  # the client hung up, as the timeout tests want

            def log_message(self, *_: object) -> None:
                pass

        self.pause = 0.0
        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.http.server_port}/v1"
        threading.Thread(target=self.http.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()


@contextmanager
def serving(reply: Callable[[dict], bytes | int]) -> Iterator[Server]:
    """An endpoint inside the block."""
    server = Server(reply)
    try:
        yield server
    finally:
        server.http.shutdown()
        server.http.server_close()
