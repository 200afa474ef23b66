"""Frames between the trainer and the process of an entry's own code: length, then JSON, both bounded."""

from __future__ import annotations

import os
import select
import struct
import time
from typing import Any

import msgspec

from dream_envs.core import DreamEnvsError

#: Bytes of one frame.
MOST = 64 * 2**20
_HEAD = struct.Struct("<I")


def send(fd: int, data: Any) -> None:
    """Write one frame.

    Raises:
        DreamEnvsError: if it is too long, or nobody reads.
    """
    body = msgspec.json.encode(data)
    if len(body) > MOST:
        raise DreamEnvsError(f"a message of {len(body)} bytes, at most {MOST}")
    left = memoryview(_HEAD.pack(len(body)) + body)
    try:
        while left:
            left = left[os.write(fd, left) :]
    except BrokenPipeError:
        raise DreamEnvsError("the other process has ended") from None


def receive(fd: int, seconds: float | None = None) -> Any:
    """Read one frame within ``seconds``.

    Raises:
        DreamEnvsError: at the end of the pipe, for a frame that is too long or no JSON, and when time is up.
    """
    until = None if seconds is None else time.monotonic() + seconds
    (length,) = _HEAD.unpack(_exactly(fd, _HEAD.size, until))
    if length > MOST:
        raise DreamEnvsError(f"a message of {length} bytes, at most {MOST}")
    try:
        return msgspec.json.decode(_exactly(fd, length, until))
    except (msgspec.DecodeError, RecursionError) as error:
        raise DreamEnvsError(f"a message that is no JSON ({error})") from None


def _exactly(fd: int, count: int, until: float | None) -> bytes:
    parts, left = list[bytes](), count
    while left:
        wait = None if until is None else until - time.monotonic()
        if wait is not None and (wait <= 0 or not select.select([fd], [], [], wait)[0]):
            raise DreamEnvsError("no answer in time")
        part = os.read(fd, min(left, 1 << 20))
        if not part:
            raise DreamEnvsError("the other process has ended")
        parts.append(part)
        left -= len(part)
    return b"".join(parts)
