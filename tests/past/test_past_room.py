"""What is read has room in the store's budget before it is read, or is named and passed over."""

import json
from pathlib import Path
from typing import Any

import pytest
import zstandard

import memopt
from histories import SESSION, bring, lines_of, opened, record, steps_of, text, write
from memopt.base.budget import Budget
from memopt.base.units import MIB
from memopt.past import Bringer, Brought, Format, Room, logs, read, sources
from memopt.past.records import Say
from memopt.past.room import decoding_bytes

LONG = "x" * (4 * MIB)


class Watched(Budget):
    """A budget that knows how much an import held at a time."""

    def __init__(self, limit_bytes: int) -> None:
        super().__init__(limit_bytes)
        self.held_max = 0

    def try_reserve(self, owner: str, size_bytes: int) -> bool:
        done = super().try_reserve(owner, size_bytes)
        self.held_max = max(self.held_max, self.held_bytes("importing"))
        return done


def said(path: Path, format: Format, budget: Budget, report: Brought) -> list[Any]:
    room = Room(budget)
    found = []
    for source in sources(path, report):
        for step in read(source, format, report, lambda count: None, room):
            budget.check()
            if isinstance(step, Say):
                found.append(step.message["content"])
    assert budget.used_bytes == 0
    return found


def chat(name: str, *texts: str) -> dict[str, Any]:
    ids = [f"{name}{n}" for n in range(len(texts))]
    mapping = {
        id: {
            "parent": ids[n - 1] if n else None, "children": ids[n + 1 : n + 2],
            "message": {
                "author": {"role": "user"}, "content": {"content_type": "text", "parts": [texts[n]]}
            },
        }
        for n, id in enumerate(ids)
    }  # fmt: skip
    return {"conversation_id": name, "mapping": mapping}


HISTORIES: dict[Format, tuple[str, str, str]] = {
    Format.CLAUDE_CODE: (
        f"{SESSION}.jsonl",
        lines_of([record("user", "u1", None, "a"), record("user", "u2", "u1", LONG),
                  record("user", "u3", "u2", "b")]),
        ":2",
    ),
    Format.CODEX: (
        "rollout.jsonl",
        lines_of([{"type": "session_meta", "payload": {"id": "t-1"}}, *(
            {"type": "response_item", "payload": {"type": "message", "role": "user", "content": c}}
            for c in ("a", LONG, "b")
        )]),
        ":3",
    ),
    Format.MESSAGES: (
        "talk.jsonl", lines_of({"role": "user", "content": one} for one in ("a", LONG, "b")), ":2",
    ),
    Format.CHATGPT: (
        "conversations.json",
        json.dumps([chat("a", "a"), chat("x", LONG), chat("b", "b")]),
        ": conversation 2",
    ),
}  # fmt: skip


@pytest.mark.parametrize("format", HISTORIES, ids=str)
def test_what_has_no_room_is_named_and_the_rest_comes_in(tmp_path: Path, format: Format) -> None:
    name, body, where = HISTORIES[format]
    (tmp_path / name).write_text(body)
    report = Brought()
    budget = Watched(16 * MIB)
    found = said(tmp_path / name, format, budget, report)
    assert [one for one in found if "left out" not in one] == ["a", "b"]
    (damage,) = report.damaged
    assert damage.where == f"{tmp_path / name}{where}"
    assert "no room for it in the budget of 16.0 MiB" in damage.reason
    assert budget.held_max <= 8 * MIB
    # With more it comes in, and room for it was taken beforehand.
    large = Watched(64 * MIB)
    assert said(tmp_path / name, format, large, Brought()) == ["a", LONG, "b"]
    assert large.held_max >= 5 * len(LONG)


@pytest.mark.parametrize("format", [Format.CLAUDE_CODE, Format.CODEX, Format.CHATGPT], ids=str)
def test_what_had_no_room_comes_in_once_there_is_room(tmp_path: Path, format: Format) -> None:
    name, body, _ = HISTORIES[format]
    (tmp_path / name).write_text(body)
    with opened(tmp_path / "store", budget="16MiB") as memory:
        for times in range(2):
            report = bring(memory, tmp_path / name, format)
            assert len(report.damaged) == 1
            assert (report.messages > 0) == (times == 0)
    with opened(tmp_path / "store", budget="64MiB") as memory:
        assert bring(memory, tmp_path / name, format).damaged == []
        assert bring(memory, tmp_path / name, format).messages == 0
        told = {
            info.id: [one["content"] for one in memory.session(info.id, scope="me/past").messages()]
            for info in memory.sessions("me/past")
        }
    wanted = [["a"], ["b"], [LONG]] if format is Format.CHATGPT else [["a", LONG, "b"]]
    assert sorted(told.values()) == wanted


def test_many_small_objects_need_more_than_their_bytes(tmp_path: Path) -> None:
    talk = chat("x", *("y" for _ in range(20_000)))
    raw = json.dumps(talk).encode()
    assert decoding_bytes(raw) > 10 * len(raw)
    (tmp_path / "conversations.json").write_bytes(b"[" + raw + b"]")
    report = Brought()
    assert said(tmp_path / "conversations.json", Format.CHATGPT, Budget(16 * MIB), report) == []
    assert "bytes to read: there is no room" in report.damaged[0].reason


def test_a_message_of_a_page_ends_where_there_is_no_room(tmp_path: Path) -> None:
    (tmp_path / "talk.md").write_text("**You:** a\n\n**Claude:** b\n" + "ab\n" * 1_000_000)
    report = Brought()
    first, second = said(tmp_path / "talk.md", Format.MARKDOWN, Budget(16 * MIB), report)
    assert (first, second[:4]) == ("a", "b\nab")
    assert len(second) < 2_000_000
    assert "bytes came in: there is no room" in report.damaged[0].reason
    assert report.damaged[0].where.endswith("talk.md:3")


def test_a_window_of_what_was_packed_has_room(tmp_path: Path) -> None:
    settings = zstandard.ZstdCompressionParameters(window_log=24)
    packed = zstandard.ZstdCompressor(compression_params=settings).compressobj()
    body = lines_of([record("user", "u1", None, "a")]).encode()
    (tmp_path / "talk.jsonl.zst").write_bytes(packed.compress(body) + packed.flush())
    report = Brought()
    assert said(tmp_path / "talk.jsonl.zst", Format.CLAUDE_CODE, Budget(16 * MIB), report) == []
    assert "unpacked with 16777216 bytes at hand" in report.damaged[0].reason
    assert said(tmp_path / "talk.jsonl.zst", Format.CLAUDE_CODE, Budget(64 * MIB), report) == ["a"]


def test_replies_of_many_subagents_do_not_pile_up(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(logs, "_LOOKED_AT_BYTES", 1000)
    monkeypatch.setattr(logs, "_HELD_BYTES_MAX", 10_000)
    records = [record("user", "u1", None, "a")] + [
        record("assistant", f"a{n}", None, text("z" * 500), said={"id": f"m{n}"}, agentId=f"g{n}")
        for n in range(200)
    ]  # fmt: skip
    file = write(tmp_path / f"{SESSION}.jsonl", records)
    steps = steps_of(file, Format.CLAUDE_CODE)
    said_of = [step.session for step in steps if isinstance(step, Say)]
    assert len(said_of) == 201
    report = Brought()
    budget = Watched(1 * MIB)
    assert len(said(file, Format.CLAUDE_CODE, budget, report)) == 201
    assert 0 < budget.held_max < 100_000


def test_a_store_has_its_budget_back_after_an_import(tmp_path: Path) -> None:
    file = write(tmp_path / "talk.jsonl", [{"role": "user", "content": LONG[:MIB]}])
    with opened(tmp_path / "store", budget="64MiB") as memory:
        assert isinstance(memory, memopt.Memory)
        bring(memory, file, Format.MESSAGES)
        bringer = Bringer(memory, scope="me", agent=None, report=Brought())
        for source in sources(file, Brought()):
            bringer.bring(read(source, Format.MESSAGES, Brought(), lambda n: None, bringer.room))
        assert memory._parts.budget.held_bytes("importing") > 0
        del bringer
        assert memory._parts.budget.held_bytes("importing") == 0
