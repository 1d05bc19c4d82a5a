"""Conversations in Markdown, as people and programs write them."""

from pathlib import Path
from typing import Any

import pytest

from histories import abouts_of, bring, held, opened, sessions_of, spoken, steps_of
from memopt.past import Brought, Format, markdown
from memopt.past.records import Say

HEADINGS = """# About zebras

Exported by somebody.

## User (2025-06-03 10:20)

Where is it?

    indented

```python
## Assistant
print("no turn")
```

---

## 🤖 Assistant:

There.

### Details

- **You** know where.
"""
BOLD = """**You:** Where is it?
**ChatGPT:** There.

It is **User** friendly.

**Human**

Thanks.
"""
SPECSTORY = """<!-- Generated -->
_**User (2025-06-03 10:20:30Z)**_

Where is it?

---

_**Agent (model x, mode Agent)**_

There.
"""
AIDER = """
# aider chat started at 2025-01-02 03:04:05

> Aider v0.70
> Model: x

#### where is it?
#### tell me

There.

> Tokens: 1k

# aider chat started at 2025-01-03 03:04:05

#### again
## User
Fine.
"""


def read(path: Path, text: str) -> dict[str, list[tuple[str, Any]]]:
    path.write_text(text, "utf-8")
    assert markdown.is_mine(text.encode())
    found = sessions_of(steps_of(path, Format.MARKDOWN))
    return {name: spoken(messages) for name, messages in found.items()}


def test_headings_say_whose_turn_it_is(tmp_path: Path) -> None:
    found = read(tmp_path / "talk.md", HEADINGS)
    asked = 'Where is it?\n\n    indented\n\n```python\n## Assistant\nprint("no turn")\n```'
    answered = "There.\n\n### Details\n\n- **You** know where."
    assert found == {"talk": [("user", asked), ("assistant", answered)]}
    steps = steps_of(tmp_path / "talk.md", Format.MARKDOWN)
    assert abouts_of(steps)["talk"]["title"] == "About zebras"
    times = [step.at for step in steps if isinstance(step, Say)]
    assert [at and at.isoformat() for at in times] == ["2025-06-03T10:20:00+00:00", None]


def test_bold_words_say_whose_turn_it_is(tmp_path: Path) -> None:
    assert read(tmp_path / "talk.md", BOLD) == {
        "talk": [
            ("user", "Where is it?"),
            ("assistant", "There.\n\nIt is **User** friendly."),
            ("user", "Thanks."),
        ]
    }


def test_what_specstory_writes_is_read(tmp_path: Path) -> None:
    assert read(tmp_path / "talk.md", SPECSTORY) == {
        "talk": [("user", "Where is it?"), ("assistant", "There.")]
    }


def test_what_aider_writes_is_read(tmp_path: Path) -> None:
    assert read(tmp_path / ".aider.chat.history.md", AIDER) == {
        ".aider.chat.history~2025-01-02T03:04:05": [
            ("user", "where is it?\ntell me"), ("assistant", "There."),
        ],
        ".aider.chat.history~2025-01-03T03:04:05": [
            ("user", "again"), ("assistant", "## User\nFine."),
        ],
    }  # fmt: skip


def test_what_export_writes_is_read(tmp_path: Path) -> None:
    text = (
        "# s1\n\nScope acme/ann, 2 messages.\n\n"
        "## 0 · user · 2031-05-17 09:20:00 UTC\n\nWhere is it?\n\n"
        "## 1 · tool find · ann · 2031-05-17 09:20:01 UTC\n\n```\nThere.\n```\n"
    )
    assert read(tmp_path / "talk.md", text) == {
        "talk": [("user", "Where is it?"), ("tool", "```\nThere.\n```")]
    }


@pytest.mark.parametrize(
    "text",
    ["# Notes\n\nUser: none", "## User guide\n\n## System\n", "", "---\nmemopt: 1\n---\n" + BOLD],
)
def test_other_pages_are_no_conversation(text: str) -> None:
    assert not markdown.is_mine(text.encode())


def test_a_page_without_turns_is_counted(tmp_path: Path) -> None:
    (tmp_path / "notes.md").write_text("# Notes\n\nnothing")
    report = Brought()
    assert steps_of(tmp_path / "notes.md", Format.MARKDOWN, report) == []
    assert report.skipped == {"Markdown without a conversation": 1}


def test_a_page_that_grew_adds_and_one_that_was_edited_is_another(tmp_path: Path) -> None:
    path = tmp_path / "talk.md"
    with opened(tmp_path / "store") as memory:
        lines = BOLD.splitlines(keepends=True)
        for count in range(1, len(lines)):
            path.write_text("".join(lines[:count]))
            assert bring(memory, path, Format.MARKDOWN).conflicts == []
        path.write_text(BOLD)
        bring(memory, path, Format.MARKDOWN)
        grown = [message["content"] for message, _ in held(memory)["talk"]]
        assert grown == ["Where is it?", "There.\n\nIt is **User** friendly.", "Thanks."]
        path.write_text(BOLD.replace("There", "Elsewhere"))
        report = bring(memory, path, Format.MARKDOWN)
        assert (report.messages, report.messages_changed) == (3, 0)
        assert bring(memory, path, Format.MARKDOWN).messages == 0
        assert [message["content"] for message, _ in held(memory)["talk"]] == grown
        edited = [message["content"] for message, _ in held(memory)["talk~2"]]
        assert edited == [grown[0], grown[1].replace("There", "Elsewhere"), grown[2]]
