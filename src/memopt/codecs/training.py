"""Learning a dictionary in a process of its own.

Learning takes a second or two of numpy, most of it under the interpreter's lock, and leaves several
MB behind in the heap: next door it slows no append down, and all that it took is given back. The
neighbour is this interpreter started anew (no fork, no copy of what this process holds); it gets
the samples through a pipe and answers with the dictionary. Where no process can be started, or
numpy is loaded anyway and there is little to learn from, the work is done here.

Not here: how a dictionary is learnt (dictionaries.py), when, and the budget, which is charged for
the neighbour too.
"""

import contextlib
import logging
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import Final

import msgspec

from memopt.base.units import KIB

_LITTLE_BYTES: Final = 512 * KIB
_SECONDS_MAX: Final = 300.0
_NICENESS: Final = 10
_log: Final = logging.getLogger("memopt")
_Request = tuple[int, int, list[tuple[int, bytes]]]
_decode_answer: Final[Callable[[bytes], bytes | None]] = msgspec.msgpack.Decoder(
    bytes | None
).decode


def train_dictionary(
    samples: Sequence[tuple[int, bytes]], *, size_bytes: int, scopes_min: int
) -> bytes | None:
    """What dictionaries.train_dictionary returns. None as well when the neighbour failed: pages do
    without a dictionary until the next time."""
    little = sum(len(raw) for _, raw in samples) < _LITTLE_BYTES
    if sys.executable and not (little and "numpy" in sys.modules):
        request = msgspec.msgpack.encode((size_bytes, scopes_min, samples))
        # The path as it is here: a package may lie where only this process looks.
        script = f"import sys; sys.path[:] = {sys.path!r}; import memopt.codecs.training as t"
        with contextlib.suppress(OSError):
            return _answer([sys.executable, "-c", f"{script}; t.serve()"], request)
    from memopt.codecs.dictionaries import train_dictionary as train

    return train(samples, size_bytes=size_bytes, scopes_min=scopes_min)


def serve() -> None:
    """The neighbour's side: a request from standard input, its answer to standard output."""
    from memopt.codecs.dictionaries import train_dictionary as train

    with contextlib.suppress(AttributeError, OSError):
        os.nice(_NICENESS)
    size_bytes, scopes_min, samples = msgspec.msgpack.decode(sys.stdin.buffer.read(), type=_Request)
    body = train(samples, size_bytes=size_bytes, scopes_min=scopes_min)
    sys.stdout.buffer.write(msgspec.msgpack.encode(body))


def _answer(command: list[str], request: bytes) -> bytes | None:
    try:
        # In a group of its own, so that a Ctrl-C at the terminal is not its affair.
        done = subprocess.run(
            command, input=request, capture_output=True, timeout=_SECONDS_MAX, check=True,
            process_group=0 if os.name == "posix" else None,
        )  # fmt: skip
        return _decode_answer(done.stdout)
    except subprocess.CalledProcessError as error:
        lines = error.stderr.decode(errors="replace").strip().splitlines() or ["no message"]
        reason = f"exit status {error.returncode}: {lines[-1]}"
    except (subprocess.TimeoutExpired, msgspec.DecodeError) as error:
        reason = str(error)
    _log.warning("no dictionary was learnt: %s", reason)
    return None
