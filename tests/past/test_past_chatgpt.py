"""ChatGPT's export: trees of nodes, in one file, in several, in an archive."""

import io
import json
import random
import zipfile
from pathlib import Path
from typing import Any

import pytest

from histories import abouts_of, bring, held, opened, sessions_of, spoken, steps_of
from memopt.past import Brought, Format, chatgpt, files
from memopt.past.json_array import objects
from memopt.past.room import Room

GPT = Format.CHATGPT


def node(id: str, parent: str | None, children: list[str], message: Any = None) -> dict[str, Any]:
    return {id: {"id": id, "parent": parent, "children": children, "message": message}}


def said(role: str, content: Any, **more: Any) -> dict[str, Any]:
    if isinstance(content, str):
        content = {"content_type": "text", "parts": [content]}
    name = more.pop("name", None)
    return {
        "id": "m", "author": {"role": role, "name": name, "metadata": {}},
        "create_time": 1704067200.25, "update_time": None, "content": content,
        "status": "finished_successfully", "end_turn": None, "weight": 1.0, "recipient": "all",
        "metadata": {"model_slug": "gpt-x"} if role == "assistant" else {}, **more,
    }  # fmt: skip


def conversation(id: str, *nodes: dict[str, Any], **more: Any) -> dict[str, Any]:
    mapping = {name: one for part in nodes for name, one in part.items()}
    return {
        "title": "A talk", "create_time": 1704067200.1, "update_time": 1704067300.1,
        "mapping": mapping, "moderation_results": [], "current_node": list(mapping)[-1],
        "conversation_id": id, "id": id, **more,
    }  # fmt: skip


CODE = {"content_type": "code", "language": "python", "text": "print(1)"}
PICTURE = {
    "content_type": "multimodal_text",
    "parts": [{"content_type": "image_asset_pointer", "asset_pointer": "sediment://f1"}, "Look!"],
}
TALK = conversation(
    "c-1",
    node("root", None, ["sys"]),
    node("sys", "root", ["n1"], said("system", "")),
    node("n1", "sys", ["n2", "n2b"], said("user", "Count the zebras")),
    node("n2", "n1", ["n3"], said("assistant", CODE, recipient="python")),
    node("n3", "n2", ["n4"], said("tool", {"content_type": "execution_output", "text": "1\n"},
                                  name="python")),
    node("n4", "n3", ["n5"], said("assistant", "One zebra.")),
    node("n5", "n4", [], said("user", PICTURE)),
    node("n2b", "n1", ["n3b"], said("assistant", {"content_type": "thoughts", "thoughts": [
        {"summary": "Counting", "content": "Hm."}]})),
    node("n3b", "n2b", [], said("assistant", "Two zebras.")),
)  # fmt: skip
TOLD = [
    {"role": "user", "content": "Count the zebras", "id": "n1"},
    {
        "role": "assistant", "content": None, "model": "gpt-x", "id": "n2",
        "tool_calls": [{
            "id": "n2", "type": "function",
            "function": {"name": "python", "arguments": '{"input":"print(1)"}'},
        }],
    },
    {"role": "tool", "content": "1\n", "id": "n3", "tool_call_id": "n2"},
    {"role": "assistant", "content": "One zebra.", "model": "gpt-x", "id": "n4"},
    {
        "role": "user", "id": "n5",
        "content": [
            {"type": "image_url", "image_url": {"url": "sediment://f1"}},
            {"type": "text", "text": "Look!"},
        ],
    },
]  # fmt: skip
OTHER = [
    TOLD[0],
    {
        "role": "assistant", "content": None, "model": "gpt-x", "id": "n2b",
        "reasoning_content": "Counting\nHm.",
    },
    {"role": "assistant", "content": "Two zebras.", "model": "gpt-x", "id": "n3b"},
]  # fmt: skip


HIDDEN = {"is_visually_hidden_from_conversation": True}


@pytest.fixture
def file(tmp_path: Path) -> Path:
    return tmp_path / "export" / "conversations.json"


def write(path: Path, value: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(value), "utf-8")
    return path


@pytest.mark.parametrize("indent", [None, 2])
def test_a_tree_is_a_session_and_its_forks(file: Path, indent: int | None) -> None:
    file.parent.mkdir()
    file.write_text(json.dumps([TALK], indent=indent))
    report = Brought()
    steps = steps_of(file, GPT, report)
    assert sessions_of(steps) == {"c-1": TOLD, "c-1~n2b": OTHER}
    assert abouts_of(steps)["c-1"] == {
        "format": "chatgpt", "title": "A talk", "gpt": None, "current": "c-1~n2b",
    }  # fmt: skip
    assert report.skipped == {"what the program said by itself": 1}


@pytest.mark.parametrize("whole", [TALK, {"conversations": [TALK]}, [3, [TALK["title"]], TALK]])
def test_a_single_conversation_and_a_list_in_an_object_are_read(file: Path, whole: Any) -> None:
    assert list(sessions_of(steps_of(write(file, whole), GPT))) == ["c-1", "c-1~n2b"]


def test_an_archive_and_its_parts_are_read_where_they_are(tmp_path: Path) -> None:
    archive = tmp_path / "export.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("chat.html", "x" * 1000)
        zipped.writestr("../../evil/conversations-001.json", json.dumps([{**TALK, "id": None,
                        "conversation_id": "c-2"}]))  # fmt: skip
        zipped.writestr("data/conversations-000.json", json.dumps([TALK]))
        zipped.writestr("shared_conversations.json", json.dumps([TALK]))
    before = sorted(tmp_path.rglob("*"))
    assert list(sessions_of(steps_of(archive, GPT))) == ["c-2", "c-2~n2b", "c-1", "c-1~n2b"]
    assert sorted(tmp_path.rglob("*")) == before


def test_a_bomb_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(files, "_UNPACKED_BYTES_FREE", 10_000)
    archive = tmp_path / "export.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("conversations.json", "[" + " " * 1_000_000 + "]")
    report = Brought()
    assert steps_of(archive, GPT, report) == []
    assert "unpack to 1000002 and more" in report.damaged[0].reason


def test_a_locked_or_torn_archive_is_named(tmp_path: Path) -> None:
    archive = tmp_path / "export.zip"
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_DEFLATED) as zipped:
        zipped.writestr("conversations.json", json.dumps([TALK] * 50))
    whole = archive.read_bytes()
    middle = len(whole) // 3
    archive.write_bytes(whole[:middle] + bytes(20) + whole[middle + 20 :])
    report = Brought()
    steps_of(archive, GPT, report)
    assert "damaged" in report.damaged[-1].reason
    archive.write_bytes(whole[:middle])
    report = Brought()
    assert steps_of(archive, GPT, report) == []
    assert "damaged" in report.damaged[0].reason


def test_what_is_no_conversation_is_named(file: Path) -> None:
    cycle = conversation("c-3", node("a", "b", ["b"], said("user", "x")), node("b", "a", ["a"]))
    odd = [
        {"title": "none"}, {**TALK, "mapping": 7}, {**TALK, "id": None, "conversation_id": None},
        cycle, conversation("c-4", node("a", "gone", ["gone"], said("user", "Hello"))), TALK,
        conversation("c-5", {"a": None}, node("b", "a", [], said("user", {"parts": None}))),
    ]  # fmt: skip
    report = Brought()
    found = sessions_of(steps_of(write(file, odd), GPT, report))
    assert list(found) == ["c-4", "c-1", "c-1~n2b"]
    assert [one.where for one in report.damaged] == [f"{file}: conversation {n}" for n in (1, 2, 3)]
    assert report.skipped["nodes that no root leads to"] == 2


def test_a_file_that_ends_early_gives_what_is_whole(file: Path) -> None:
    whole = json.dumps([TALK, {**TALK, "id": "c-2", "conversation_id": "c-2"}])
    file.parent.mkdir()
    file.write_text(whole[:-200])
    report = Brought()
    assert list(sessions_of(steps_of(file, GPT, report))) == ["c-1", "c-1~n2b"]
    assert report.damaged[0].reason == "the file ends within it"


def test_a_later_export_only_adds(file: Path, tmp_path: Path) -> None:
    later = json.loads(json.dumps(TALK))
    later["mapping"]["n5"]["children"] = ["n6"]
    later["mapping"]["n4"]["children"] = ["n5", "n5b"]
    later["mapping"] |= node("n6", "n5", [], said("assistant", "Nice."))
    later["mapping"] |= node("n5b", "n4", [], said("user", "Sure?"))
    with opened(tmp_path / "store") as memory:
        assert bring(memory, write(file, [TALK]), GPT).messages == 5 + 2
        assert bring(memory, file, GPT).messages == 0
        report = bring(memory, write(file, [later]), GPT)
        assert (report.messages, report.messages_rewritten) == (2, 0)
        grown = held(memory)
        assert [content for content, _ in grown["c-1~n5b"]][-1]["content"] == "Sure?"
        # The older one, once more.
        assert bring(memory, write(file, [TALK]), GPT).messages == 0
        assert held(memory) == grown
    with opened(tmp_path / "fresh") as memory:
        bring(memory, write(file, [later]), GPT)
        assert held(memory) == grown


def test_a_conversation_that_is_there_twice_comes_in_once(file: Path, tmp_path: Path) -> None:
    with opened(tmp_path / "store") as memory:
        report = bring(memory, write(file, [TALK, TALK]), GPT)
        assert (report.messages, report.messages_there) == (7, 7)
        assert [len(messages) for messages in held(memory).values()] == [5, 3]


def test_a_conversation_that_is_too_large_is_left_out(
    file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(chatgpt, "CONVERSATION_BYTES_MAX", 2 << 20)
    large = conversation("c-0", node("a", None, [], said("user", 'x"\\' * (2 << 20))))
    report = Brought()
    found = sessions_of(steps_of(write(file, [large, TALK]), GPT, report))
    assert list(found) == ["c-1", "c-1~n2b"]
    assert "more than 2097152 bytes" in report.damaged[0].reason


@pytest.mark.parametrize("seed", range(5))
def test_objects_are_found_wherever_chunks_end(seed: int) -> None:
    chance = random.Random(seed)

    def value(depth: int) -> Any:
        if depth and chance.random() < 0.6:
            keys = ["".join(chance.choices('ab"\\{}[],é', k=3)) for _ in range(3)]
            inner = [value(depth - 1) for _ in range(chance.randrange(3))]
            return dict(zip(keys, inner, strict=False)) if chance.random() < 0.5 else inner
        return chance.choice(['"\\', "}{", "[\\\\", "", 1.5, None, True, "\\" * 5])

    wanted = [{"v": value(4)} for _ in range(40)]
    raw = json.dumps(wanted).encode()

    class Dripping(io.BytesIO):
        def read(self, size: int | None = -1) -> bytes:
            return super().read(chance.randint(1, 7))

    def never(*told: object) -> None:
        raise AssertionError(told)

    def whole(**more: Any) -> list[tuple[int, bytes]]:
        return list(objects(Dripping(raw), Room(), cut_off=never, **more))

    found = whole(bytes_max=1 << 20, left_out=never)
    assert [json.loads(body) for _, body in found] == wanted
    assert [number for number, _ in found] == list(range(1, 41))
    # With no room but for the small ones, those come all the same.
    limit = 60
    missed: list[int] = []
    small = whole(bytes_max=limit, left_out=lambda number, reason: missed.append(number))
    kept = {number for number, _ in small}
    assert kept.isdisjoint(missed)
    assert kept | set(missed) == set(range(1, 41))
    assert {n for n, one in enumerate(wanted, 1) if len(json.dumps(one)) <= limit} <= kept


def test_a_hidden_prompt_is_no_part(file: Path) -> None:
    custom = {"content_type": "user_editable_context", "user_profile": "I am Ann"}
    talk = conversation(
        "c-9",
        node("a", None, ["b"], said("user", custom)),
        node("b", "a", ["c"], said("user", "Hello")),
        node("c", "b", [], said("user", "Be brief", metadata=HIDDEN)),
    )
    assert spoken(sessions_of(steps_of(write(file, [talk]), GPT))["c-9"]) == [("user", "Hello")]


def test_files_are_named_and_references_leave_nothing_odd(file: Path) -> None:
    attached = {"attachments": [{"id": "f", "name": "lease-2024.pdf"}, {"id": "g"}, 7]}
    picture = {"content_type": "image_asset_pointer", "asset_pointer": "file-service://x"}
    words = "Three months \ue200filecite\ue202turn0file0\ue201in \ue200entity\ue202"
    words += '["city","Lisbon","capital"]\ue201.\ue200i\ue201'
    talk = conversation(
        "c-7",
        node("a", None, ["b"], said("user", "What is in it?", metadata=attached)),
        node("b", "a", ["c"], said("assistant", words)),
        node("c", "b", ["d"], {
            "author": {"role": "user"}, "metadata": {"attachments": [{"name": "bird.jpg"}]},
            "content": {"content_type": "multimodal_text", "parts": [picture]},
        }),
        node("d", "c", [], {
            "author": {"role": "assistant"},
            "content": {"content_type": "system_error", "name": "E", "text": "rate limited"},
        }),
    )  # fmt: skip
    (messages,) = sessions_of(steps_of(write(file, [talk]), GPT)).values()
    assert [one["content"] for one in messages] == [
        "What is in it?\n\n[attached: lease-2024.pdf]",
        "Three months in Lisbon.",
        [
            {"type": "image_url", "image_url": {"url": "file-service://x"}},
            {"type": "text", "text": "[attached: bird.jpg]"},
        ],
    ]
