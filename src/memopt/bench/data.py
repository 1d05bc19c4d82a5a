"""Real conversations for the benchmarks: found, read line by line, brought into one form.

Owns: where the data lies, and the form of a tool call. Invariant: what a loader returns is exact
JSON, and a line that is not gets a UsageError that names file and line. Not here: other formats'
importers, and any change of a message's text (the schedule marks messages, this does not).

The data stays outside the project: `MEMOPT_DATA` names its directory, else it is `shared/data`
beside the repository. Reading needs no memory beyond the conversations it returns.
"""

import gzip
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, Final

import msgspec

from memopt.base.errors import UsageError
from memopt.base.records import Message

Conversation = tuple[Message, ...]

SAMPLE: Final = Path(__file__).with_name("sample.jsonl")
"""A few short conversations that are shipped, for a machine without the data."""

_GZIP_MAGIC: Final = b"\x1f\x8b"


def load(paths: Iterable[str | os.PathLike[str]]) -> tuple[Conversation, ...]:
    """Every conversation of these files, in order; those without a message are left out."""
    found = tuple(
        conversation for path in paths for conversation in read(path) if len(conversation)
    )
    if not found:
        raise UsageError("there is not one conversation with a message in it", field="files")
    return found


def read(path: str | os.PathLike[str]) -> Iterator[Conversation]:
    """The conversations of one JSONL file, gzipped or not, one at a time.

    Raises UsageError for a file that cannot be read and for the first line that is no
    conversation, naming file and line.
    """
    number = 0
    try:
        with open(path, "rb") as probe:
            opener = gzip.open if probe.read(2) == _GZIP_MAGIC else open
        with opener(path, "rb") as lines:
            for number, line in enumerate(lines, 1):
                if line.strip():
                    yield _conversation(line, where=f"{os.fspath(path)}:{number}")
    except (OSError, EOFError, zlib.error) as error:
        raise UsageError(f"cannot be read after line {number}: {error}", field=str(path)) from error


def normalised(message: Message) -> Message:
    """The message with tool calls of the `{id, name, arguments}` form turned into OpenAI's.

    Arguments become a JSON string; a string is taken as it is. Everything else stays.
    """
    calls = message.get("tool_calls")
    if not isinstance(calls, list) or not any(_is_flat(call) for call in calls):
        return message
    return {**message, "tool_calls": [_openai_call(call) for call in calls]}


def directory(environ: Mapping[str, str] | None = None) -> Path | None:
    """Where the data lies, or None where there is none."""
    named = (os.environ if environ is None else environ).get("MEMOPT_DATA")
    if named:
        return Path(named)
    # The package lies in src/memopt/bench of a checkout; an installed one tries where it is run.
    repository = Path(__file__).resolve().parents[3]
    for root in (repository, Path.cwd()):
        candidate = root.parent / "shared" / "data"
        if candidate.is_dir():
            return candidate
    return None


def find(name: str) -> Path | None:
    """A file of the data by its path within, such as `trajectories/tau_bench.jsonl.gz`."""
    root = directory()
    path = root / name if root else None
    return path if path and path.is_file() else None


def trajectories(name: str = "tau_bench") -> Path:
    """The named trajectories when they are present, else the sample that is shipped."""
    return find(f"trajectories/{name}.jsonl.gz") or SAMPLE


def _conversation(line: bytes, *, where: str) -> Conversation:
    try:
        value = msgspec.json.decode(line)
    except ValueError as error:  # msgspec's DecodeError, and bytes that are not UTF-8
        raise UsageError(f"is not JSON: {error}", field=where) from error
    messages = value.get("messages") if isinstance(value, dict) else None
    if not isinstance(messages, list):
        raise UsageError('expected {"messages": [...]}', field=where)
    for index, message in enumerate(messages):
        if not isinstance(message, dict):
            kind = type(message).__name__
            raise UsageError(f"expected an object, got {kind}", field=f"{where}: messages[{index}]")
    return tuple(normalised(message) for message in messages)


def _is_flat(call: Any) -> bool:
    return isinstance(call, dict) and "function" not in call and "name" in call


def _openai_call(call: Any) -> Any:
    if not _is_flat(call):
        return call
    arguments = call.get("arguments")
    if not isinstance(arguments, str):
        arguments = msgspec.json.encode({} if arguments is None else arguments).decode()
    rest = {key: value for key, value in call.items() if key not in ("id", "name", "arguments")}
    function = {"name": call["name"], "arguments": arguments}
    return {"id": call.get("id"), "type": "function", **rest, "function": function}
