"""The `memopt` command for tests: run in this process, as a shell would see it."""

import json
from typing import Any

from typer.testing import CliRunner

from memopt.cli.app import app


class Outcome:
    """What a command said, and its exit code."""

    def __init__(self, result: Any) -> None:
        self.code: int = result.exit_code
        self.out: str = result.stdout
        self.err: str = result.stderr

    @property
    def json(self) -> Any:
        return json.loads(self.out)


def run(*arguments: object, answer: str | bytes | None = None) -> Outcome:
    """`memopt ARGUMENTS…`, with `answer` on its standard input. An error that a shell would see a
    traceback of is raised."""
    result = CliRunner().invoke(app, [str(argument) for argument in arguments], input=answer)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return Outcome(result)
