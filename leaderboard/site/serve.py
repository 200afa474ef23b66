"""A server of the site's files, for this machine alone."""

from __future__ import annotations

from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from dream_envs.core import DreamEnvsError
from dream_envs.leaderboard.site import MARK

POLICY = "; ".join((
    "default-src 'none'", "img-src 'self'", "style-src 'self'", "base-uri 'none'", "form-action 'none'",
    "frame-ancestors 'none'",
))  # fmt: skip


class _Handler(SimpleHTTPRequestHandler):
    def end_headers(self) -> None:
        """With headers that a file cannot have: no guessing of types, in nobody's frame, listings too."""
        self.send_header("X-Content-Type-Options", "nosniff")
        self.send_header("Content-Security-Policy", POLICY)
        self.send_header("Cache-Control", "no-cache")
        super().end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        """Nothing: a request's line may hold anything."""


def server(folder: Path, port: int) -> ThreadingHTTPServer:
    """A server on 127.0.0.1 that is not running yet; port 0: any that is free.

    Raises:
        DreamEnvsError: where there is no site, or the port is taken.
    """
    if not (folder / MARK).is_file():
        raise DreamEnvsError(f"no site in {folder}: dream-envs board build --out {folder}")
    try:
        return ThreadingHTTPServer(("127.0.0.1", port), partial(_Handler, directory=str(folder)))
    except OSError as error:
        raise DreamEnvsError(f"--port {port}: {error.strerror}: choose another") from None
