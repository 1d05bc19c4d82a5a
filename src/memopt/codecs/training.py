"""Learning a dictionary in a process of its own.

Learning takes a second or two of numpy, most of it under the interpreter's lock, and leaves several
MB behind in the heap: next door it slows no append down, and all that it took is given back. The
neighbour is this interpreter started anew (no fork, no copy of what this process holds); it gets
the samples through a pipe and answers with the dictionary. Where that does not work, or numpy is
loaded anyway and there is next to nothing to learn from, the work is done here.

Not here: how a dictionary is learnt (dictionaries.py), when, and the budget, which is charged for
the neighbour too.
"""

import contextlib
import logging
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Sequence
from typing import IO, Final

import msgspec

from memopt.base.units import KIB

_LITTLE_BYTES: Final = 64 * KIB
"""Learnt from faster than another process starts, within 2.5 MB."""
_SECONDS_MAX: Final = 60.0
_LOOK_SECONDS: Final = 0.1
_NICENESS: Final = 10
_ANSWER: Final = b"\0memopt's answer:\0"
"""Stands before the answer: start-up files of an interpreter may print too."""
_log: Final = logging.getLogger("memopt")
_Request = tuple[int, int, list[tuple[int, bytes]]]
_decode_answer: Final[Callable[[bytes], bytes | None]] = msgspec.msgpack.Decoder(
    bytes | None
).decode


class _NotAnsweredError(Exception):
    pass


def train_dictionary(
    samples: Sequence[tuple[int, bytes]], *, size_bytes: int, scopes_min: int,
    is_wanted: Callable[[], bool] = lambda: True,
) -> bytes | None:  # fmt: skip
    """What dictionaries.train_dictionary returns; None as well when it took too long, or when
    `is_wanted`, which is asked all the while, said no."""
    little = sum(len(raw) for _, raw in samples) < _LITTLE_BYTES
    if _has_neighbour() and not (little and "numpy" in sys.modules):
        request = msgspec.msgpack.encode((size_bytes, scopes_min, samples))
        try:
            return _ask(request, is_wanted)
        except (OSError, RuntimeError, _NotAnsweredError) as error:
            _log.warning("a dictionary is learnt here, for next door failed: %s", error)
    from memopt.codecs.dictionaries import train_dictionary as train

    return train(samples, size_bytes=size_bytes, scopes_min=scopes_min)


def serve() -> None:
    """The neighbour's side: a request from standard input, its answer to standard output."""
    from memopt.codecs.dictionaries import train_dictionary as train

    with contextlib.suppress(AttributeError, OSError):
        os.nice(_NICENESS)
    size_bytes, scopes_min, samples = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=_Request)
    body = train(samples, size_bytes=size_bytes, scopes_min=scopes_min)
    sys.stdout.buffer.write(_ANSWER + msgspec.msgpack.encode(body))


def _has_neighbour() -> bool:
    # A frozen application's executable is the application.
    name = os.path.basename(sys.executable or "").lower()
    return not getattr(sys, "frozen", False) and name.startswith(("python", "pypy"))


def _ask(request: bytes, is_wanted: Callable[[], bool]) -> bytes | None:
    # The path as it is here, for a package may lie where only this process looks; and nothing else
    # of this process's surroundings (-I).
    path = [os.path.abspath(entry) for entry in sys.path if isinstance(entry, str)]
    script = f"import sys; sys.path[:] = {path!r}; import memopt.codecs.training as t; t.serve()"
    until = time.monotonic() + _SECONDS_MAX
    with subprocess.Popen(
        [sys.executable, "-I", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        # In a group of its own, so that a Ctrl-C at the terminal is not its affair.
        process_group=0 if os.name == "posix" else None,
    ) as neighbour:  # fmt: skip
        try:
            # By a thread: communicate() forgets what it had to send once it has timed out.
            pipe, neighbour.stdin = neighbour.stdin, None
            threading.Thread(target=_send, args=(pipe, request), daemon=True).start()
            while True:
                try:
                    out, errors = neighbour.communicate(timeout=_LOOK_SECONDS)
                    break
                except subprocess.TimeoutExpired:
                    if not is_wanted() or time.monotonic() > until:
                        _log.warning("no dictionary was learnt: it took too long, or is closing")
                        return None
        finally:
            neighbour.kill()
    _, marker, answer = out.rpartition(_ANSWER)
    if neighbour.returncode or not marker:
        lines = errors.decode(errors="replace").strip().splitlines() or ["no message"]
        raise _NotAnsweredError(f"exit status {neighbour.returncode}: {lines[-1]}")
    try:
        return _decode_answer(answer)
    except msgspec.DecodeError as error:
        raise _NotAnsweredError(str(error)) from error


def _send(pipe: IO[bytes] | None, request: bytes) -> None:
    assert pipe is not None
    with contextlib.suppress(OSError), pipe:
        pipe.write(request)
