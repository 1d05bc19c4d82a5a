"""A proxy between the official client and a scripted upstream, over real sockets."""

import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx

import memopt
from memopt.server.serving import listen, make_server, url_of
from memopt.server.settings import Callers, ServerSettings
from memopt.testing.upstream import Answer, Asked, Script, ScriptedUpstream

STOP_SECONDS = 30.0


class Proxy:
    """A running one, and what is on both sides of it."""

    def __init__(
        self, url: str, memory: memopt.Memory, upstream: ScriptedUpstream, settings: ServerSettings
    ) -> None:
        self.url = url
        self.memory = memory
        self.upstream = upstream
        self.settings = settings
        self.stop: Callable[[], None] = lambda: None
        """End it, while it is looked at from outside."""

    def script(self, answers: Script | Answer | Iterable[Answer] | None) -> None:
        """What the upstream says from now on."""
        self.upstream.answer_with(answers)
        self.upstream.requests.clear()

    @property
    def asked(self) -> list[Asked]:
        return self.upstream.requests

    def open_requests(self) -> int:
        with httpx.Client(trust_env=False) as client:
            found = client.get(self.url.removesuffix("/v1") + "/health").json()
        count: int = found["open_requests"]
        return count

    def scope_of(self, key: str) -> str:
        caller = Callers(self.settings).of(f"Bearer {key}")
        assert caller is not None
        return caller.scope

    def messages(self, session: str, key: str) -> list[dict[str, Any]]:
        return list(self.memory.session(session, scope=self.scope_of(key)).messages())

    def sessions(self, key: str) -> list[str]:
        return [info.id for info in self.memory.sessions(self.scope_of(key))]


@contextmanager
def running(path: Path, upstream: ScriptedUpstream, **settings: Any) -> Iterator[Proxy]:
    chosen = ServerSettings.load(None, **{"upstream": upstream.url, "port": 0, **settings})
    with memopt.open(path / "store", durability="os", budget="64MiB") as memory:
        server = make_server(memory, chosen)
        listening = listen(chosen)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]})
        thread.start()

        def stop() -> None:
            server.should_exit = True
            thread.join(STOP_SECONDS)
            listening.close()
            assert not thread.is_alive()

        proxy = Proxy(url_of(chosen, listening), memory, upstream, chosen)
        proxy.stop = stop
        try:
            yield proxy
        finally:
            stop()
        assert memory.check().clean
