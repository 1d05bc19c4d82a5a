"""What nobody should ask for, said or embedded: a clear error, or an empty answer that says why."""

import threading
from collections.abc import Callable, Iterator, Sequence
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

import memopt
from memopt import Memory, Selector, UsageError
from memopt.embedding.remote import RemoteEmbedder

SCOPE = "acme/ann"
TEXTS = ("an elephant came to the lake", "the gazelle ran away", "rain fell all the night")


def opened(path: Path, **settings: Any) -> Memory:
    return memopt.open(
        path, budget="64MiB", durability="os", maintenance_seconds=0, probe_seconds=0, **settings
    )


@pytest.fixture
def memory(tmp_path: Path) -> Iterator[Memory]:
    with opened(tmp_path / "store") as memory:
        memory.session("s", scope=SCOPE).extend([{"role": "user", "content": t} for t in TEXTS])
        yield memory
        assert memory.check().clean


def texts(memory: Memory, query: str, **how: Any) -> list[str]:
    return [hit.text for hit in memory.recall(query, **({"scope": SCOPE, "limit": 3} | how))]


# -- texts ----------------------------------------------------------------------------------------

HUGE = "elephant " * 200_000
NO_TEXTS: list[tuple[str, Any, str]] = [
    ("empty", "", "expected some text"),
    ("blank", " \n\t ", "expected some text"),
    ("huge", HUGE, "at most"),
    ("binary", "an elephant\x00\x01", "is not text"),
    ("surrogate", "\ud800", "surrogate"),
    ("bytes", b"an elephant", "expected a string, got bytes"),
    ("none", None, "expected a string"),
]


@pytest.mark.parametrize(("text", "words"), [t[1:] for t in NO_TEXTS], ids=[t[0] for t in NO_TEXTS])
def test_what_is_no_text_is_not_remembered(memory: Memory, text: Any, words: str) -> None:
    item = memory.remember("the elephant is grey", scope=SCOPE)
    before = memory.lsn
    for call in (
        lambda: memory.remember(text, scope=SCOPE),
        lambda: memory.revise(item.item_id, text, scope=SCOPE),
    ):
        with pytest.raises(UsageError, match=words) as raised:
            call()
        assert raised.value.field == "text"
    assert memory.lsn == before


NO_DOCUMENTS: list[tuple[str, Any, str]] = [
    ("binary", b"\x7fELF\x02\x01\x01" + bytes(range(256)), "binary|text"),
    ("image", b"\x89PNG\r\n\x1a\n" + bytes(64), "image|binary|text"),
    ("huge", "x" * 2000, "at most 1000"),
    ("number", 17, "expected"),
]


@pytest.mark.parametrize(
    ("document", "words"), [d[1:] for d in NO_DOCUMENTS], ids=[d[0] for d in NO_DOCUMENTS]
)
def test_what_is_no_document_is_not_ingested(tmp_path: Path, document: Any, words: str) -> None:
    with opened(tmp_path / "store", document_bytes_max=1000) as memory:
        before = memory.lsn
        with pytest.raises(UsageError, match=words):
            memory.ingest(document, scope=SCOPE, source="d")
        assert memory.lsn == before
        assert memory.items(SCOPE, kinds=["document"]) == []


def test_an_empty_document_says_that_it_is(memory: Memory) -> None:
    for document in ("", "  \n", b"", "<html><body><script>x()</script></body></html>"):
        done = memory.ingest(document, scope=SCOPE, source="empty")
        assert done.pieces == 0


def test_a_message_of_any_text_is_kept_and_spoils_nothing(memory: Memory) -> None:
    """A conversation is kept as it is; recall makes of it what it can."""
    session = memory.session("strange", scope=SCOPE)
    for text in ("", " ", "\x00\x01\x02", "\x1b[2J", HUGE[:900_000], "💥" * 1000, "\u202e" * 9):
        session.append({"role": "user", "content": text})
    assert texts(memory, "gazelle", limit=1) == [TEXTS[1]]
    memory.compact()
    assert texts(memory, "gazelle", limit=1) == [TEXTS[1]]
    assert any(text.startswith("elephant elephant") for text in texts(memory, "elephant"))
    # What is longer than the tokens that are left is no hit, and hides none.
    assert texts(memory, "elephant", limit=None, max_tokens=50)[0] == TEXTS[0]


# -- queries --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "query", ["", "  ", "the of and", "who is it?", "?!", "\x00\x01", "elephant\x00\x01\x02", "🎉"]
)
def test_a_query_that_says_nothing_finds_nothing_and_says_so(memory: Memory, query: str) -> None:
    found = memory.recall(query, scope=SCOPE)
    assert list(found) == []
    assert found.notes == ("the query has no word that says anything",)


@pytest.mark.parametrize(
    "query",
    ["elephant " * 50_000, "x" * 1_000_000, "is it an elephant?\x00", "elephant \ud800", "大" * 99],
)
def test_a_strange_query_is_answered(memory: Memory, query: str) -> None:
    found = memory.recall(query, scope=SCOPE)
    assert found.query == query
    if "elephant" in query:
        assert found[0].text == TEXTS[0]


def test_a_scope_that_is_not_there_is_empty_and_made_by_no_question(memory: Memory) -> None:
    before = memory.lsn
    for scope in ("nobody", "acme", "acme/ann/work", "Acme/ann", "acme/an"):
        found = memory.recall("elephant", scope=scope)
        assert list(found) == []
        assert found.notes[0].removeprefix("there is ").startswith(f"nothing in scope {scope!r}")
        assert memory.items(scope) == []
        assert memory.contradictions(scope) == []
    assert memory.lsn == before
    for scope in ("", "a//b", "../ann", 7):
        with pytest.raises(UsageError) as raised:
            memory.recall("elephant", scope=scope)  # type: ignore[arg-type]
        assert raised.value.field == "scope"


@pytest.mark.parametrize(
    ("how", "note"),
    [
        ({"kinds": ["goal"]}, "nothing there passes kinds"),
        ({"tags": ["x"], "kinds": ["fact"]}, "nothing there passes kinds and tags"),
        ({"min_score": 1.1}, "nothing there is good enough"),
        ({"max_tokens": 1}, "short enough"),
        ({"known_at": 0}, "was known then"),
    ],
)
def test_a_recall_that_finds_nothing_says_what_was_in_its_way(
    memory: Memory, how: dict[str, Any], note: str
) -> None:
    found = memory.recall("elephant", scope=SCOPE, **how)
    assert list(found) == []
    assert note in found.notes[0]


# -- embedders ------------------------------------------------------------------------------------


class Letters:
    """Counts letters, with or without a fault."""

    def __init__(self, dimensions: int, says: int | None = None) -> None:
        self.space, self.dimensions = f"letters-{dimensions}", says or dimensions
        self._made = dimensions

    def embed(self, texts: Sequence[str]) -> Any:
        counts = [[t.count(chr(97 + n % 26)) + 1 for n in range(self._made)] for t in texts]
        return np.array(counts, np.float32).reshape(len(texts), self._made)


def test_an_embedder_whose_vectors_are_not_of_its_dimensions_is_named(tmp_path: Path) -> None:
    with opened(tmp_path / "store", embedder=Letters(26, says=30)) as memory:
        memory.session("s", scope=SCOPE).extend([{"content": text} for text in TEXTS])
        memory.remember("a gazelle is no goat", scope=SCOPE)
        memory.compact()
        found = memory.recall("gazelle", scope=SCOPE, limit=2)
        assert {hit.text for hit in found} == {TEXTS[1], "a gazelle is no goat"}
        assert "found by words alone: the embedder failed" in found.notes[0]
        assert "30" in found.notes[0]


def test_an_embedder_of_another_dimension_takes_over(tmp_path: Path) -> None:
    for embedder in (Letters(26), Letters(7), "off", None):
        with opened(tmp_path / "store", embedder=embedder) as memory:
            if embedder is not None and not memory.sessions(SCOPE):
                memory.session("s", scope=SCOPE).extend([{"content": text} for text in TEXTS])
            for _ in range(2):
                found = memory.recall("gazelle", scope=SCOPE, limit=1)
                assert (found[0].text, found.notes) == (TEXTS[1], ())
                memory.compact()
            assert memory.check().clean


class Endpoint(BaseHTTPRequestHandler):
    """As many numbers a vector as `dimensions`, or a failure."""

    dimensions = 4
    status = 200

    def do_POST(self) -> None:
        body = msgspec.json.decode(self.rfile.read(int(self.headers["Content-Length"])))
        vectors = [
            {"index": index, "embedding": [1.0 + len(text) % 7] * self.dimensions}
            for index, text in enumerate(body["input"])
        ]
        answer = msgspec.json.encode({"data": vectors})
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(answer)))
        self.end_headers()
        self.wfile.write(answer)

    def log_message(self, *_: Any) -> None:
        pass


@pytest.fixture
def endpoint() -> Iterator[tuple[type[Endpoint], str, Callable[[], None]]]:
    handler: type[Endpoint] = type("Handler", (Endpoint,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()

    def stop() -> None:
        server.shutdown()
        thread.join()
        server.server_close()

    yield handler, f"http://127.0.0.1:{server.server_port}/v1", stop
    stop()


@pytest.mark.parametrize("fault", ["gone", "refuses", "other dimensions"])
def test_an_endpoint_that_breaks_costs_vectors_and_no_message(
    tmp_path: Path, endpoint: Any, fault: str
) -> None:
    handler, url, stop = endpoint
    embedder = RemoteEmbedder(url, "tiny", attempts_max=2, sleep=lambda _: None)
    with embedder, opened(tmp_path / "store", embedder=embedder) as memory:
        session = memory.session("s", scope=SCOPE)
        session.append({"content": TEXTS[0]})
        memory.compact()
        assert memory.recall("elephant", scope=SCOPE).notes == ()
        if fault == "gone":
            stop()
        elif fault == "refuses":
            handler.status = 500
        else:
            handler.dimensions = 5
        session.append({"content": TEXTS[1]})
        memory.remember("a gazelle is no goat", scope=SCOPE)
        memory.compact()
        found = memory.recall("gazelle", scope=SCOPE, limit=2)
        assert {hit.text for hit in found} == {TEXTS[1], "a gazelle is no goat"}
        assert "found by words alone: the embedder failed" in found.notes[0]
        assert url.removesuffix("/v1").removeprefix("http://") in found.notes[0] or "5" in str(
            found
        )
        assert memory.check().clean


def test_an_endpoint_that_was_never_there_is_said_at_each_question(tmp_path: Path) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Endpoint) as server:
        url = f"http://127.0.0.1:{server.server_port}/v1"
    embedder = RemoteEmbedder(url, "tiny", dimensions=4, attempts_max=1)
    with embedder, opened(tmp_path / "store", embedder=embedder) as memory:
        memory.session("s", scope=SCOPE).append({"content": TEXTS[0]})
        for _ in range(2):
            found = memory.recall("elephant", scope=SCOPE)
            assert [hit.text for hit in found] == [TEXTS[0]]
            assert "the embedder failed" in found.notes[0]
            memory.compact()


# -- arguments of other kinds ---------------------------------------------------------------------


@pytest.mark.parametrize("text", [5, "", b"elephant"])
def test_what_is_no_text_to_look_for_is_not_forgotten(memory: Memory, text: Any) -> None:
    with pytest.raises(UsageError) as refused:
        memory.plan_forget(Selector(scope=SCOPE, containing=text))
    assert refused.value.field == "selector.containing"


@pytest.mark.parametrize("field", ["valid_from", "valid_to"])
@pytest.mark.parametrize(
    "moment",
    [
        datetime.max.replace(tzinfo=timezone(timedelta(hours=-12))),
        datetime.min.replace(tzinfo=timezone(timedelta(hours=14))),
    ],
)
def test_a_time_beyond_all_years_is_refused(memory: Memory, field: str, moment: datetime) -> None:
    span: dict[str, Any] = {field: moment}
    with pytest.raises(UsageError) as refused:
        memory.remember("the elephant is grey", scope=SCOPE, **span)
    assert refused.value.field == field
