"""`embedder=` of a store: what embeds its messages, and what is said of what cannot."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import memopt
from memopt.base.errors import UsageError

TEXTS = ("an elephant came to the lake", "the gazelle ran away", "rain fell all the night")


class Counts:
    """An embedder of letters that remembers what it was asked."""

    def __init__(self, dimensions: int = 26) -> None:
        self.space, self.dimensions = f"letters-{dimensions}", dimensions
        self.asked: list[str] = []

    def embed(self, texts: Sequence[str]) -> Any:
        self.asked += texts
        return [
            [text.count(chr(97 + at % 26)) + 1 for at in range(self.dimensions)] for text in texts
        ]


def opened(path: Path, embedder: Any) -> memopt.Memory:
    return memopt.open(
        path, embedder=embedder, budget="128MiB", maintenance_seconds=0, probe_seconds=0,
        page_target_bytes=64,
    )  # fmt: skip


def say_all(memory: memopt.Memory) -> None:
    session = memory.session("s")
    for text in TEXTS:
        session.append({"role": "user", "content": text})


def test_an_embedder_of_ones_own_embeds_messages_and_questions(tmp_path: Path) -> None:
    own = Counts()
    with opened(tmp_path / "store", own) as memory:
        say_all(memory)
        # One that may take long is asked in the background.
        assert own.asked == []
        memory.compact()
        hits = list(memory.recall("elephant", scope="default"))
        assert hits[0].text == TEXTS[0]
    assert "elephant" in own.asked
    assert set(TEXTS) <= set(own.asked)


def test_without_vectors_messages_are_found_by_their_words(tmp_path: Path) -> None:
    with opened(tmp_path / "store", "off") as memory:
        say_all(memory)
        assert next(iter(memory.recall("gazelle", scope="default"))).text == TEXTS[1]


def test_another_embedder_never_meets_the_vectors_of_the_first(tmp_path: Path) -> None:
    """Of other dimensions, they could not even be multiplied."""
    for embedder in (Counts(26), Counts(30), "off", None, Counts(26)):
        with opened(tmp_path / "store", embedder) as memory:
            if not len(memory.session("s")):
                say_all(memory)
            hits = list(memory.recall("what about the gazelle?", scope="default"))
            assert hits[0].text == TEXTS[1]


@pytest.mark.parametrize("wrong", ["nothing of that name", 7, object(), "http://host/v1"])
def test_what_cannot_embed_is_refused_before_anything_is_made(tmp_path: Path, wrong: Any) -> None:
    with pytest.raises(UsageError, match="embedder"):
        opened(tmp_path / "store", wrong)
    assert not (tmp_path / "store").exists()


class Fails(Counts):
    def __init__(self, made: Any) -> None:
        super().__init__()
        self.made = made

    def embed(self, texts: Sequence[str]) -> Any:
        if isinstance(self.made, Exception):
            raise self.made
        return self.made


@pytest.mark.parametrize(
    "made",
    [
        np.ones((1, 7)),
        np.full((1, 26), np.nan),
        OSError("gone"),
        memopt.CapacityError("x", limit="e"),
    ],
)
def test_an_embedder_that_fails_costs_no_message(tmp_path: Path, made: Any) -> None:
    with opened(tmp_path / "store", Fails(made)) as memory:
        say_all(memory)
        assert [message["content"] for message in memory.session("s").messages()] == [*TEXTS]
    with opened(tmp_path / "store", None) as memory:
        assert next(iter(memory.recall("gazelle", scope="default"))).text == TEXTS[1]


def test_an_endpoint_is_closed_with_its_store_and_an_object_of_ones_own_is_not(
    tmp_path: Path,
) -> None:
    class Closes(Counts):
        closed = 0

        def close(self) -> None:
            self.closed += 1

    own = Closes()
    with opened(tmp_path / "store", own) as memory:
        say_all(memory)
        list(memory.recall("gazelle", scope="default"))
    assert own.closed == 0
