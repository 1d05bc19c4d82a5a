"""Every setting of the server, with its default and its unit, and who a key is.

Invariant: settings check themselves, and hold no key in clear: only digests of those that clients
send, and the names of variables that hold those the upstream wants.
"""

import dataclasses
import hashlib
import ipaddress
import math
import os
import re
import tomllib
from pathlib import Path
from typing import Any, Final, Self
from urllib.parse import urlsplit

from memopt.base.errors import UsageError
from memopt.base.names import check_name, check_scope
from memopt.base.units import KIB, MIB, parse_bytes, parse_seconds

_DIGEST: Final = re.compile(r"[0-9a-f]{64}")
_KEY_SCOPE_BYTES: Final = 8
_PRIORITIES: Final = ("normal", "low")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class KeySettings:
    """What one client key may do, and what it gets without asking."""

    name: str
    """For logs."""
    sha256: str
    """Of the key, in hexadecimal digits."""
    scope: str
    """Where its conversations are. Two keys of one scope see each other's."""
    upstream: str | None = None
    """Another base URL than the server's."""
    upstream_key_env: str | None = None
    """The variable that holds the key to send to it; None sends the server's to the server's
    upstream, and the client's own to another."""
    window_tokens: int | None = None
    """Requests are cut down to so many tokens; None sends them as they are."""
    recall: bool = False
    """Whether what is remembered is put into the window."""
    tools: bool = False
    """Whether a model may open what its window left out."""
    answers: bool = False
    """Whether answers come from the cache, and go there."""
    figures: bool = False
    """Whether it sees what all keys asked for, at /metrics; else only its own."""
    priority: str = "normal"
    """normal, or low: refused as soon as memory is short."""

    def __post_init__(self) -> None:
        check_name(self.name, field="keys.name")
        check_scope(self.scope, field="keys.scope")
        if not isinstance(self.sha256, str) or not _DIGEST.fullmatch(self.sha256.lower()):
            raise UsageError("expected 64 hexadecimal digits", field="keys.sha256")
        if self.upstream is not None:
            check_upstream(self.upstream, field="keys.upstream")
        if self.priority not in _PRIORITIES:
            raise UsageError(
                f"expected normal or low, got {self.priority!r}", field="keys.priority"
            )
        if self.window_tokens is not None:
            _whole(self.window_tokens, "keys.window_tokens")
        for name in ("recall", "tools", "answers", "figures"):
            if not isinstance(getattr(self, name), bool):
                raise UsageError("expected true or false", field=f"keys.{name}")


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class ServerSettings:
    """Settings of one server. Names end in their unit; every limit is `…_max`."""

    upstream: str
    """The base URL of an OpenAI-compatible API, such as https://api.openai.com/v1. Nothing else is
    ever asked but it and what `keys` name."""
    host: str = "127.0.0.1"
    """Other than a loopback address only where there are `keys`."""
    port: int = 8484
    scope: str = "default"
    """Where conversations without a key are; without `keys`, each key has a scope of its own
    below it."""
    keys: tuple[KeySettings, ...] = ()
    """Who may use the server; empty: everybody who reaches it."""
    upstream_key_env: str | None = None
    """The variable that holds the key to send upstream; None sends the client's own."""
    origins: tuple[str, ...] = ()
    """Web pages that may call, such as https://chat.example; none by default."""
    connections_max: int = 4096
    requests_max: int = 2048
    """That may be under way; one more gets 503."""
    header_bytes_max: int = 64 * KIB
    headers_max: int = 128
    body_bytes_max: int = 32 * MIB
    unsized_body_bytes_max: int = 1 * MIB
    """Of a body whose length was not said."""
    reply_bytes_max: int = 64 * MIB
    """Of what the upstream answers to one request."""
    event_bytes_max: int = 16 * MIB
    """Of one event of a stream."""
    socket_bytes: int = 32 * KIB
    """That the system takes in from the upstream on a connection before they are passed on."""
    request_bytes: int = 64 * KIB
    """What a request is expected to take beside four times its body: reserved in the budget."""
    admission_wait_seconds: float = 10.0
    """A request waits so long for room in the budget."""
    header_seconds: float = 10.0
    """In which the head of a request has to come."""
    body_seconds: float = 60.0
    connect_seconds: float = 10.0
    reply_seconds: float = 600.0
    """Between two pieces of what the upstream sends."""
    request_seconds: float = 3600.0
    keep_alive_seconds: float = 75.0
    drain_seconds: float = 30.0
    """In which open requests may end when the server is told to stop."""
    retries_max: int = 2
    """Before the upstream has accepted a request, or where it says when to come again."""
    retry_after_seconds_max: float = 20.0
    """A longer wait is left to the client."""
    store_threads: int = 8
    store_queue_max: int = 4096
    """Calls of the store that may wait for a thread."""
    matches_max: int = 16_384
    """Ends of conversations that are remembered, to find the one that a request goes on with."""
    lines_max: int = 1024
    """Sessions whose digests are kept."""
    level_seconds: float = 0.5
    """How often the pressure level is looked at."""

    def __post_init__(self) -> None:
        check_upstream(self.upstream, field="upstream")
        check_scope(self.scope)
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            if field.name.endswith(("_seconds", "_seconds_max")):
                value = parse_seconds(value, field=field.name)
            elif "_bytes" in field.name:
                value = parse_bytes(value, field=field.name)
            elif field.name == "port":
                _whole(value, field.name, least=0, most=65_535)
            elif field.name == "retries_max":
                _whole(value, field.name, least=0)
            elif isinstance(field.default, int):
                _whole(value, field.name)
            object.__setattr__(self, field.name, value)
        if len({key.sha256.lower() for key in self.keys}) < len(self.keys):
            raise UsageError("one key is named twice", field="keys.sha256")
        if len({key.name for key in self.keys}) < len(self.keys):
            # What goes upstream for a key, and what is in the books, is found by its name.
            raise UsageError("one name is of two keys", field="keys.name")
        if not is_loopback(self.host) and not self.keys:
            raise UsageError(
                f"{self.host} can be reached from outside: name the keys that may use it",
                field="host",
            )

    @classmethod
    def load(cls, file: str | os.PathLike[str] | None = None, **arguments: Any) -> Self:
        """`file` (TOML), then `arguments` that are not None. Raises UsageError."""
        values: dict[str, Any] = {}
        if file is not None:
            try:
                values = tomllib.loads(Path(file).read_text("utf-8"))
            except (OSError, ValueError) as error:
                raise UsageError(f"cannot be read: {error}", field=f"settings {file}") from error
        values |= {name: value for name, value in arguments.items() if value is not None}
        keys = values.pop("keys", ())
        if not isinstance(keys, list | tuple) or not all(isinstance(key, dict) for key in keys):
            raise UsageError("expected tables", field="keys")
        if "upstream" not in values:
            raise UsageError("a base URL is needed", field="upstream")
        made = tuple(KeySettings(**_known(KeySettings, key, "keys.")) for key in keys)
        known = _known(cls, values, "")
        known["origins"] = tuple(known.get("origins", ()))
        return cls(**known, keys=made)


class Caller:
    """Who sends a request: the key it came with, and what that key gets."""

    __slots__ = ("scope", "settings")

    def __init__(self, scope: str, settings: KeySettings | None) -> None:
        self.scope = scope
        self.settings = settings


class Callers:
    """Finds the caller of a request by its key."""

    def __init__(self, settings: ServerSettings) -> None:
        self._scope = settings.scope
        self._by_digest = {key.sha256.lower(): key for key in settings.keys}

    def of(self, authorization: str | None, key: str | None = None) -> Caller | None:
        """None where the key is not known; `key`: of a header that holds nothing else. What is
        looked up is a digest, so that the time it takes says nothing about a key."""
        token = bearer_of(authorization) or (key or "").strip()
        if not self._by_digest:
            if not token:
                return Caller(self._scope, None)
            digest = hashlib.blake2b(token.encode(), digest_size=_KEY_SCOPE_BYTES).hexdigest()
            return Caller(f"{self._scope}/key-{digest}", None)
        known = self._by_digest.get(hashlib.sha256(token.encode()).hexdigest())
        return None if known is None else Caller(known.scope, known)


def bearer_of(authorization: str | None) -> str:
    """The key in an Authorization header; "" where there is none."""
    kind, _, token = (authorization or "").strip().partition(" ")
    return token.strip() if kind.lower() == "bearer" else ""


def check_upstream(url: object, *, field: str) -> str:
    """A base URL that may be asked: HTTP, without a name or a password in it."""
    if not isinstance(url, str):
        raise UsageError(f"expected a URL, got {type(url).__name__}", field=field)
    try:
        parts = urlsplit(url)
        port = parts.port
    except ValueError as error:
        raise UsageError(f"no URL: {error}", field=field) from None
    if parts.scheme not in ("http", "https") or not parts.hostname or port == 0:
        raise UsageError(f"expected http:// or https:// and a host, got {url!r}", field=field)
    if parts.username is not None or parts.password is not None or parts.query or parts.fragment:
        raise UsageError("only scheme, host, port and path", field=field)
    return url


def is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _known(kind: type, values: dict[str, Any], prefix: str) -> dict[str, Any]:
    names = {field.name for field in dataclasses.fields(kind)}
    for name in values.keys() - names:
        raise UsageError("there is no such setting", field=f"{prefix}{name}")
    missing = [
        field.name
        for field in dataclasses.fields(kind)
        if field.default is dataclasses.MISSING and field.name not in values
    ]
    if missing:
        raise UsageError("is missing", field=f"{prefix}{missing[0]}")
    return dict(values)


def _whole(value: Any, field: str, *, least: int = 1, most: float = math.inf) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not least <= value <= most:
        raise UsageError(f"expected a whole number from {least}, got {value!r}", field=field)
