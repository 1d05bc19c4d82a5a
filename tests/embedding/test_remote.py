"""An endpoint is asked in batches and again, waited for within limits, and never told to others."""

import json
import logging
import random
import threading
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from memopt.base.errors import CapacityError, UsageError
from memopt.embedding import remote
from memopt.embedding.remote import RemoteEmbedder

httpx = pytest.importorskip("httpx", reason="httpx is what endpoints are reached by")

KEY = "sk-secret-123456"
URL = "http://model.test/v1"


def vectors_for(texts: list[str], dimensions: int = 4) -> Any:
    data = [
        {"index": at, "embedding": [len(text), 1.0, *[0.0] * (dimensions - 2)]}
        for at, text in enumerate(texts)
    ]
    return httpx.Response(200, json={"object": "list", "data": data})


class Endpoint:
    """Answers with what is planned, then as it should; remembers what it was asked."""

    def __init__(self, *planned: Any) -> None:
        self.planned = list(planned)
        self.requests: list[Any] = []
        self.waits: list[float] = []
        self.now = 1_000_000.0

    def __call__(self, request: Any) -> Any:
        self.requests.append(request)
        if self.planned:
            planned = self.planned.pop(0)
            if isinstance(planned, Exception):
                raise planned
            return planned(request) if callable(planned) else planned
        return vectors_for(self.texts(-1))

    def texts(self, number: int) -> list[str]:
        found: list[str] = json.loads(self.requests[number].content)["input"]
        return found

    def sleep(self, seconds: float) -> None:
        self.waits.append(seconds)
        self.now += seconds

    def embedder(self, **options: Any) -> RemoteEmbedder:
        options = {"key": KEY, "dimensions": 4, **options}
        return RemoteEmbedder(
            URL,
            "tiny",
            transport=httpx.MockTransport(self),
            sleep=self.sleep,
            now=lambda: self.now,
            monotonic=lambda: self.now,
            chance=random.Random(0),
            **options,
        )


def test_a_request_says_model_key_and_texts() -> None:
    endpoint = Endpoint()
    vectors = endpoint.embedder().embed(["abc", "de"])
    assert np.allclose(vectors[0, :2], np.array([3, 1]) / np.sqrt(10))
    (request,) = endpoint.requests
    assert str(request.url) == f"{URL}/embeddings"
    assert request.headers["authorization"] == f"Bearer {KEY}"
    assert json.loads(request.content) == {
        "model": "tiny",
        "input": ["abc", "de"],
        "encoding_format": "float",
        "dimensions": 4,
    }


def test_dimensions_are_found_out_where_they_are_not_given() -> None:
    endpoint = Endpoint()
    embedder = endpoint.embedder(dimensions=None, key=None)
    assert (embedder.dimensions, embedder.space) == (4, "tiny-4")
    assert "dimensions" not in json.loads(endpoint.requests[0].content)
    assert "authorization" not in endpoint.requests[0].headers


@pytest.mark.parametrize("url", [URL, URL + "/", URL + "/embeddings", URL + "/embeddings/"])
def test_an_address_may_be_given_in_full(url: str) -> None:
    endpoint = Endpoint()
    embedder = RemoteEmbedder(url, "m", dimensions=4, transport=httpx.MockTransport(endpoint))
    embedder.embed(["a"])
    assert str(endpoint.requests[0].url) == f"{URL}/embeddings"


def test_texts_go_in_batches_and_empty_ones_stay() -> None:
    endpoint = Endpoint()
    texts = ["x" * (number % 50) for number in range(300)]
    vectors = endpoint.embedder().embed(texts)
    sizes = [len(endpoint.texts(number)) for number in range(len(endpoint.requests))]
    assert sum(sizes) == sum(1 for text in texts if text)
    assert max(sizes) == remote.BATCH_TEXTS
    for text, vector in zip(texts, vectors, strict=True):
        expected = np.array([len(text), 1]) / np.hypot(len(text), 1) if text else [0, 0]
        assert np.allclose(vector[:2], expected)


def test_batches_are_limited_by_characters_too() -> None:
    endpoint = Endpoint()
    endpoint.embedder().embed(["y" * 1_000_000 for _ in range(40)])
    for number in range(len(endpoint.requests)):
        texts = endpoint.texts(number)
        assert sum(map(len, texts)) <= remote.BATCH_CHARACTERS
        assert max(map(len, texts)) == 16_384


def test_a_request_that_is_too_large_is_divided() -> None:
    def small_only(request: Any) -> Any:
        texts = json.loads(request.content)["input"]
        return vectors_for(texts) if len(texts) <= 3 else httpx.Response(413)

    endpoint = Endpoint(*[small_only] * 30)
    texts = ["z" * number for number in range(1, 12)]
    vectors = endpoint.embedder().embed(texts)
    assert np.allclose(vectors[:, 0] / vectors[:, 1], range(1, 12), rtol=1e-4)
    alone = Endpoint(*[httpx.Response(413)] * 2)
    with pytest.raises(UsageError, match="413"):
        alone.embedder().embed(["too long"])


@pytest.mark.parametrize(
    "failure",
    [
        httpx.Response(429),
        httpx.Response(500, text="oops"),
        httpx.Response(503),
        httpx.ConnectError("no"),
        httpx.ReadTimeout("slow"),
        httpx.RemoteProtocolError("cut"),
    ],
)
def test_what_passes_is_tried_again_after_a_random_wait_that_doubles(failure: Any) -> None:
    endpoint = Endpoint(*[failure] * 5)
    assert endpoint.embedder().embed(["a"]).shape == (1, 4)
    assert len(endpoint.requests) == 6
    for number, wait in enumerate(endpoint.waits):
        assert 0 <= wait <= 0.5 * 2**number
    assert len(set(endpoint.waits)) == 5, "all clients would come back at one moment"


def test_what_does_not_pass_is_given_up_with_when_to_come_back() -> None:
    endpoint = Endpoint(*[httpx.Response(503, text="busy")] * 99)
    with pytest.raises(CapacityError, match="503 busy") as caught:
        endpoint.embedder(attempts_max=3).embed(["a"])
    assert (caught.value.limit, len(endpoint.requests), len(endpoint.waits)) == ("embedder", 3, 2)
    assert caught.value.retry_after_seconds >= 1


@pytest.mark.parametrize("value", ["7", "7.0", "Mon, 12 Jan 1970 13:46:47 GMT"])
def test_the_endpoint_may_say_when_to_come_back(value: str) -> None:
    endpoint = Endpoint(httpx.Response(429, headers={"Retry-After": value}))
    endpoint.embedder().embed(["a"])
    (wait,) = endpoint.waits
    assert 7 <= wait <= 7.5


@pytest.mark.parametrize(
    "value", ["soon", "nan", "-5", "Mon, 99 Jan 1970 13:46:47 GMT", "Mon, 01 Jan 1900 00:00:00 GMT"]
)
def test_a_time_that_is_none_or_past_is_no_reason_to_wait(value: str) -> None:
    endpoint = Endpoint(httpx.Response(429, headers={"Retry-After": value}))
    endpoint.embedder().embed(["a"])
    assert endpoint.waits[0] <= 0.5


@pytest.mark.parametrize("value", ["3600", "inf"])
def test_a_long_wait_is_the_callers(value: str) -> None:
    endpoint = Endpoint(httpx.Response(429, headers={"Retry-After": value}))
    with pytest.raises(CapacityError) as caught:
        endpoint.embedder().embed(["a"])
    assert caught.value.retry_after_seconds >= 3600
    assert endpoint.waits == []


@pytest.mark.parametrize("status", [301, 400, 401, 403, 404, 204])
def test_a_refusal_is_said_without_the_key_and_not_tried_again(
    status: int, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    planned = httpx.Response(status, text=f"bad\x1b[31m key {KEY}", headers={"Location": URL})
    endpoint = Endpoint(planned)
    embedder = endpoint.embedder()
    with pytest.raises(UsageError, match=f"embedder: .*{status}") as caught:
        embedder.embed(["a"])
    assert len(endpoint.requests) == 1
    for text in (str(caught.value), repr(embedder), caplog.text, str(vars(caught.value))):
        assert KEY not in text
        assert "\x1b" not in text


def test_an_error_of_the_connection_does_not_show_the_key() -> None:
    endpoint = Endpoint(*[httpx.ConnectError(f"could not send {KEY}")] * 9)
    with pytest.raises(CapacityError, match="ConnectError") as caught:
        endpoint.embedder().embed(["a"])
    assert KEY not in str(caught.value)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>hello</html>",
        b"{}",
        b'{"data": []}',
        b'{"data": [{"embedding": []}]}',
        b'{"data": [{"embedding": [1, 2, 3]}]}',
        b'{"data": [{"embedding": [1, 2, 3, "x"]}]}',
        b'{"data": [{"embedding": [1, 2, 3, NaN]}]}',
        b'{"data": [{"embedding": [1, 2, 3, 1e999]}]}',
        b'{"data": [{"index": 5, "embedding": [1, 2, 3, 4]}]}',
        b'{"data": [{"embedding": [1, 2, 3, 4]}, {"embedding": [1, 2, 3, 4]}]}',
        b'{"data": null}',
        b"\xff\xfe",
    ],
)
def test_an_answer_that_is_none_is_a_clear_error(body: bytes) -> None:
    endpoint = Endpoint(httpx.Response(200, content=body))
    with pytest.raises(UsageError, match="embedder"):
        endpoint.embedder().embed(["a"])


def test_vectors_of_several_lengths_or_twice_one_number_are_refused() -> None:
    for data in (
        [{"index": 0, "embedding": [1, 2, 3, 4]}, {"index": 1, "embedding": [1, 2]}],
        [{"index": 0, "embedding": [1, 2, 3, 4]}, {"index": 0, "embedding": [1, 2, 3, 4]}],
    ):
        endpoint = Endpoint(httpx.Response(200, json={"data": data}))
        with pytest.raises(UsageError, match="embedder"):
            endpoint.embedder().embed(["a", "b"])


def test_an_answer_is_read_to_its_limit_and_no_further(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "RESPONSE_BYTES_MAX", 5_000)
    read: list[int] = []

    def endless() -> Iterator[bytes]:
        while True:
            read.append(1000)
            yield b"x" * 1000

    with pytest.raises(UsageError, match="more than 5000 bytes"):
        Endpoint(httpx.Response(200, content=endless())).embedder().embed(["a"])
    assert sum(read) < 10_000


def test_an_answer_that_drips_times_out() -> None:
    endpoint = Endpoint()

    def dripping(_: Any) -> Any:
        def drops() -> Iterator[bytes]:
            while True:
                endpoint.now += 20
                yield b" "

        return httpx.Response(200, content=drops())

    endpoint.planned = [dripping]
    assert endpoint.embedder().embed(["a"]).shape == (1, 4)
    assert len(endpoint.requests) == 2
    endpoint.planned = [dripping] * 9
    with pytest.raises(CapacityError, match="too long"):
        endpoint.embedder(attempts_max=2).embed(["a"])


@pytest.mark.parametrize(
    ("url", "model", "options"),
    [
        ("ftp://host/v1", "m", {}),
        ("host/v1", "m", {}),
        ("http://", "m", {}),
        ("http://host:99999/v1", "m", {}),
        ("http://user:pass@host/v1", "m", {}),
        ("http://host/v1?key=1", "m", {}),
        (None, "m", {}),
        (URL, "", {}),
        (URL, "two words", {}),
        (URL, None, {}),
        (URL, "m", {"key": "a\r\nb"}),
        (URL, "m", {"dimensions": 0}),
        (URL, "m", {"dimensions": 1 << 20}),
        (URL, "m", {"timeout_seconds": 0}),
        (URL, "m", {"attempts_max": 0}),
        (URL, "m", {"space": "\n"}),
    ],
)
def test_what_is_no_endpoint_is_refused_by_name(url: Any, model: Any, options: Any) -> None:
    with pytest.raises(UsageError, match="embedder") as caught:
        RemoteEmbedder(url, model, **{"dimensions": 4, **options})
    assert "pass@" not in str(caught.value) or "password" in str(caught.value)


def test_a_text_that_is_not_unicode_is_refused() -> None:
    with pytest.raises(UsageError, match="texts"):
        Endpoint().embedder().embed(["\ud800"])


class Handler(BaseHTTPRequestHandler):
    """A server of one's own, over a real socket."""

    seen: Callable[[str], None]

    def do_POST(self) -> None:
        body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        type(self).seen(self.headers["Authorization"])
        content = vectors_for(body["input"]).content
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Not on standard error."""


def test_a_real_server_is_asked() -> None:
    keys: list[str] = []
    handler = type("Own", (Handler,), {"seen": keys.append})
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        try:
            url = f"http://127.0.0.1:{server.server_port}/v1"
            with RemoteEmbedder(url, "tiny", key=KEY) as embedder:
                assert embedder.dimensions == 4
                assert embedder.embed(["one", "two", "three"]).shape == (3, 4)
        finally:
            server.shutdown()
            thread.join()
    assert keys == [f"Bearer {KEY}"] * 2


def test_a_port_that_nobody_listens_on_is_a_clear_error() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        url = f"http://127.0.0.1:{server.server_port}/v1"
    with pytest.raises(CapacityError, match="ConnectError"):
        RemoteEmbedder(url, "tiny", attempts_max=2, sleep=lambda _: None)
