"""Histories as other programs keep them, written by hand for tests, and what came of them."""

import io
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import memopt
from memopt.past import Bringer, Brought, Format, read, sources
from memopt.past.records import About, Begin, Say, Step

SESSION = "3f2a0000-1111-2222-3333-444455556666"


def opened(path: Path, **settings: Any) -> memopt.Memory:
    return memopt.open(path, durability="os", maintenance_seconds=0, probe_seconds=0, **settings)


def record(kind: str, uuid: str, parent: str | None, content: Any, **more: Any) -> dict[str, Any]:
    """A record of Claude Code. `said` are more fields of its message."""
    message = {"role": kind, "content": content, **more.pop("said", {})}
    digits = "".join(filter(str.isdigit, uuid)) or "0"
    return {
        "parentUuid": parent, "isSidechain": False, "userType": "external", "cwd": "/work/shop",
        "sessionId": SESSION, "version": "2.1.81", "gitBranch": "main", "type": kind,
        "message": message, "uuid": uuid,
        "timestamp": f"2026-02-24T10:{int(digits) // 60 % 60:02}:{int(digits) % 60:02}.500Z",
        **more,
    }  # fmt: skip


def text(words: str) -> list[dict[str, Any]]:
    return [{"type": "text", "text": words}]


def call(id: str, name: str, **arguments: Any) -> dict[str, Any]:
    return {"type": "tool_use", "id": id, "name": name, "input": arguments}


def result(id: str, content: Any, **more: Any) -> list[dict[str, Any]]:
    return [{"type": "tool_result", "tool_use_id": id, "content": content, **more}]


def lines_of(records: Iterable[Any]) -> str:
    return "".join(json.dumps(one) + "\n" for one in records)


def write(path: Path, records: Iterable[Any]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(lines_of(records), "utf-8")
    return path


def steps_of(path: Path, format: Format, report: Brought | None = None) -> list[Step]:
    report = Brought() if report is None else report
    return [
        step
        for source in sources(path, report)
        for step in read(source, format, report, lambda count: None)
    ]


def sessions_of(steps: Iterable[Step]) -> dict[str, list[dict[str, Any]]]:
    """What sessions hold once steps are carried out, without a note of where it is from."""
    found: dict[str, list[dict[str, Any]]] = {}
    for step in steps:
        if isinstance(step, Begin):
            # What is in a source twice is read twice.
            found[step.session] = found[step.parent][: step.position] if step.parent else []
            assert len(found[step.session]) == step.position
        elif isinstance(step, Say):
            found[step.session].append(bare(step.message))
    return found


def abouts_of(steps: Iterable[Step]) -> dict[str, dict[str, Any]]:
    return {step.session: step.about for step in steps if isinstance(step, About)}


def bare(message: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in message.items() if name != "origin"}


def spoken(messages: Iterable[dict[str, Any]]) -> list[tuple[str, Any]]:
    return [(message["role"], message["content"]) for message in messages]


def bring(memory: memopt.Memory, path: Path, format: Format, scope: str = "me/past") -> Brought:
    """Import a path."""
    report = Brought()
    bringer = Bringer(memory, scope=scope, agent=format.value, report=report)
    for source in sources(path, report):
        bringer.bring(read(source, format, report, lambda count: None, bringer.room))
    return report


def held(memory: memopt.Memory, scope: str = "me/past") -> dict[str, list[Any]]:
    """All sessions of a scope: what was said when."""
    infos = memory.sessions(scope, limit=1000)
    return {
        info.id: [
            (entry.message, None if entry.at == entry.committed_at else entry.at)
            for entry in memory.session(info.id, scope=scope).entries()
        ]
        for info in infos
    }


def stream(data: bytes) -> io.BytesIO:
    return io.BytesIO(data)
