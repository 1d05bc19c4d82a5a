"""A proxy between the official client and a scripted upstream, over real sockets."""

from collections.abc import Iterator

import httpx
import openai
import pytest
from proxying import Proxy, running

from memopt.testing.upstream import ScriptedUpstream


@pytest.fixture(scope="module")
def shared_proxy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Proxy]:
    with (
        ScriptedUpstream() as upstream,
        running(tmp_path_factory.mktemp("proxy"), upstream) as running_proxy,
    ):
        yield running_proxy


@pytest.fixture
def proxy(shared_proxy: Proxy) -> Proxy:
    """The module's proxy, with nothing in its script."""
    shared_proxy.script(None)
    return shared_proxy


@pytest.fixture
def key(request: pytest.FixtureRequest) -> str:
    """One that nobody else has, and so a scope of one's own."""
    return f"sk-{request.node.name}"


@pytest.fixture
def client(proxy: Proxy, key: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=proxy.url, api_key=key, max_retries=0) as made:
        yield made


@pytest.fixture
def http(proxy: Proxy, key: str) -> Iterator[httpx.Client]:
    """For what the official client would not send."""
    headers = {"authorization": f"Bearer {key}"}
    with httpx.Client(base_url=proxy.url, headers=headers, timeout=30, trust_env=False) as made:
        yield made
