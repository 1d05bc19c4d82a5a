"""Work in a process of its own, so that its memory is its own and it can be killed.

A target is `module:function`; the function takes its argument (anything JSON can say) and a
`report` to send word while it works, and returns a result that JSON can say. The parent writes the
argument to the child's standard input; the child answers with one JSON object a line. What the
child prints otherwise goes to standard error, so no library's chatter can be taken for an answer.

Invariant: a Child that is left as a context manager has ended and was waited for.
Not here: what is measured.
"""

import contextlib
import importlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO, Self

import msgspec

import memopt
from memopt.base.errors import MemoptError, UsageError

Report = Callable[[dict[str, Any]], None]
Work = Callable[[Any, Report], Any]


class ChildFailedError(MemoptError):
    """A benchmark's process ended without an answer; its standard error says why."""


class Child:
    """A running target."""

    def __init__(
        self, work: Work, argument: Any, *, prefix: Sequence[str] = (), is_quiet: bool = False
    ) -> None:
        """`prefix` comes before the command, such as what puts it into a control group;
        `is_quiet` drops what the child prints to standard error."""
        target = _target(work)
        source = str(Path(memopt.__file__).resolve().parents[1])
        inherited = os.environ.get("PYTHONPATH")
        path = os.pathsep.join([source, inherited] if inherited else [source])
        self._target = target
        self._process = subprocess.Popen(
            [*prefix, sys.executable, "-m", "memopt.bench.child", target],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL if is_quiet else None,
            env={**os.environ, "PYTHONPATH": path},
        )
        assert self._process.stdin is not None
        with contextlib.suppress(BrokenPipeError), self._process.stdin as stdin:
            stdin.write(msgspec.json.encode(argument))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._process.poll() is None:
            self._process.kill()
        if self._process.stdout is not None:
            self._process.stdout.close()
        self._process.wait()

    def lines(self) -> Iterator[dict[str, Any]]:
        """What the child reports, until it ends or is killed; the last one holds `result`."""
        assert self._process.stdout is not None
        for line in self._process.stdout:
            if line.endswith(b"\n"):  # a killed child may leave half a line
                yield msgspec.json.decode(line)

    @property
    def pid(self) -> int:
        return self._process.pid

    def wait(self) -> int:
        """The exit code; below zero, the signal that ended it."""
        return self._process.wait()

    def kill(self) -> None:
        """SIGKILL: no handler runs, nothing is flushed."""
        self._process.kill()

    def result(self, report: Report | None = None) -> Any:
        """Wait for the answer, passing on what is reported before it.

        Raises UsageError for one the child raised, else ChildFailedError.
        """
        for line in self.lines():
            if "result" in line:
                return line["result"]
            if "usage" in line:
                raise UsageError(line["usage"])
            if "error" in line:
                raise ChildFailedError(f"{self._target}: {line['error']}")
            if report is not None:
                report(line)
        code = self._process.wait()
        raise ChildFailedError(f"{self._target}: the process ended with code {code}")


def run_in_child(work: Work, argument: Any, report: Report | None = None) -> Any:
    """The result of `work(argument, report)`, run in a fresh process."""
    with Child(work, argument) as child:
        return child.result(report)


def _target(work: Work) -> str:
    module = work.__module__
    if module == "__main__":  # run with -m: the module's real name is in its spec
        module = sys.modules["__main__"].__spec__.name  # type: ignore[union-attr]
    return f"{module}:{work.__qualname__}"


def _serve(target: str, answers: BinaryIO) -> int:
    def report(line: dict[str, Any]) -> None:
        answers.write(msgspec.json.encode(line) + b"\n")
        answers.flush()

    module, _, name = target.partition(":")
    work: Work = getattr(importlib.import_module(module), name)
    try:
        report({"result": work(msgspec.json.decode(sys.stdin.buffer.read()), report)})
    except UsageError as error:
        report({"usage": str(error)})
    except MemoptError as error:
        report({"error": f"{type(error).__name__}: {error}"})
    except KeyboardInterrupt:
        # A Ctrl-C reaches the whole group; the parent is the one to say so.
        return 130
    else:
        return 0
    return 1


if __name__ == "__main__":
    with os.fdopen(os.dup(1), "wb") as own_stdout:
        os.dup2(2, 1)
        code = _serve(sys.argv[1], own_stdout)
    sys.exit(code)
