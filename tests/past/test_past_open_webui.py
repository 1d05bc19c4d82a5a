"""Open WebUI's export, as its documentation has it."""

import json
from pathlib import Path
from typing import Any

import pytest

from histories import abouts_of, bring, held, opened, sessions_of, steps_of
from memopt.past import Brought, Format, detected, sources

WEBUI = Format.OPEN_WEBUI


def message(id: str, parent: str | None, children: list[str], role: str, said: Any) -> Any:
    return {
        id: {
            "id": id, "parentId": parent, "childrenIds": children, "role": role, "content": said,
            "timestamp": 1700000000, **({"model": "llama"} if role == "assistant" else {}),
        }
    }  # fmt: skip


HISTORY = {
    "currentId": "m3",
    "messages": {
        **message("m1", None, ["m2", "m3"], "user", "Where is the zebra?"),
        **message("m2", "m1", [], "assistant", "There."),
        **message("m3", "m1", [], "assistant", "Here."),
    },
}
CHAT = {"title": "Zebras", "models": ["llama"], "history": HISTORY}
STANDARD = {"id": "w-1", "user_id": "u", "title": "Zebras", "chat": CHAT, "meta": {}}
TOLD = [
    {"role": "user", "content": "Where is the zebra?", "id": "m1"},
    {"role": "assistant", "content": "There.", "model": "llama", "id": "m2"},
]


@pytest.mark.parametrize(
    ("chat", "name"), [(STANDARD, "w-1"), ({"chat": CHAT}, "m1"), (CHAT, "m1")]
)
def test_chats_are_read_in_both_forms(tmp_path: Path, chat: Any, name: str) -> None:
    file = tmp_path / "chat-export-1700000000000.json"
    file.write_text(json.dumps([chat]))
    assert [detected(source) for source in sources(file, Brought())] == [WEBUI]
    steps = steps_of(file, WEBUI)
    other = {"role": "assistant", "content": "Here.", "model": "llama", "id": "m3"}
    assert sessions_of(steps) == {name: TOLD, f"{name}~m3": [TOLD[0], other]}
    assert abouts_of(steps)[name] == {
        "format": "open-webui", "title": "Zebras", "gpt": None, "current": f"{name}~m3",
    }  # fmt: skip


def test_chats_come_in_once_and_bad_ones_are_named(tmp_path: Path) -> None:
    file = tmp_path / "export.json"
    odd = [{}, {"chat": 7}, {"history": {"messages": {}}}, {"chat": {"history": {"messages": 1}}}]
    file.write_text(json.dumps([*odd, STANDARD]))
    with opened(tmp_path / "store") as memory:
        report = bring(memory, file, WEBUI)
        assert (report.messages, len(report.damaged)) == (3, 4)
        assert bring(memory, file, WEBUI).messages == 0
        assert set(held(memory)) == {"w-1", "w-1~m3"}
