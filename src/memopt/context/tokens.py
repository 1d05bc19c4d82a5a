"""Who counts the tokens of a text for a model, and what is known already.

A tokenizer is used where it is known: the one a store was opened with, or tiktoken's for a model it
knows and whose table is on this machine; nothing is fetched from anywhere. Else tokens are
estimated, and reports say so.

Owns: the choice, and the counts of messages. Invariant: a message is encoded once, for as long as
its count is remembered; what is remembered is reserved first and lost first. Not here: what of a
message is counted (payload.py).
"""

import array
import collections
import hashlib
import os
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec

from memopt.base.budget import Budget
from memopt.base.context_protocols import Tokenizer
from memopt.base.errors import UsageError
from memopt.base.forks import LostLock
from memopt.base.records import Message
from memopt.context.estimating import Estimate
from memopt.context.payload import CALL_TOKENS, MESSAGE_TOKENS, payload_of, provider_of

OWNER: Final = "contexts"
_BARE_TOKENS: Final = MESSAGE_TOKENS + CALL_TOKENS
"""Of a message without text and without a role."""
_COUNT_BYTES: Final = 256
_SHARE: Final = 1 / 32
_TABLES: Final = {
    "o200k_base": "https://openaipublic.blob.core.windows.net/encodings/o200k_base.tiktoken",
    "cl100k_base": "https://openaipublic.blob.core.windows.net/encodings/cl100k_base.tiktoken",
}
"""Where tiktoken would get its tables from: their digests are the names of the files it keeps."""
_ESTIMATE: Final = Estimate()


class _Adapted:
    """A Tokenizer made of what others call one: a tokenizers.Tokenizer, a tiktoken Encoding, or
    anything with an `encode` that returns ids, or something that has them."""

    def __init__(self, name: str, encode: Callable[..., Any], options: dict[str, Any]) -> None:
        self.name = name
        self._encode = encode
        self._options = options

    def count(self, text: str) -> int:
        return len(self.encode(text))

    def encode(self, text: str) -> Sequence[int]:
        made = self._encode(text, **self._options)
        ids: Sequence[int] = getattr(made, "ids", made)
        return ids


class Choice(NamedTuple):
    """What counts for one model."""

    tokenizer: Tokenizer
    provider: str

    @property
    def is_estimate(self) -> bool:
        return isinstance(self.tokenizer, Estimate)

    @property
    def name(self) -> str:
        return self.tokenizer.name


class Tokenizers:
    """Which tokenizer is whose. `given`: None, "estimate", a tokenizer, the path of a
    tokenizer.json, or any of these by the beginning of models' names."""

    def __init__(self, given: Any) -> None:
        self._given = given
        self._lock: AbstractContextManager[Any] = threading.Lock()
        self._made: dict[str, Tokenizer] = {}
        check_tokenizer(given)

    def of(self, model: str | None) -> Choice:
        return Choice(self._of(model), provider_of(model))

    def _of(self, model: str | None) -> Tokenizer:
        given = self._given
        if isinstance(given, Mapping):
            names = [name for name in given if (model or "").startswith(name)]
            given = given[max(names, key=len)] if names else None
        if given is None:
            return self._known(model) or _ESTIMATE
        if given == "estimate":
            return _ESTIMATE
        if isinstance(given, str | os.PathLike):
            return self._make(os.fspath(given), lambda path: _from_file(path))
        return self._make(f"{id(given)}", lambda _: _adapted(given))

    def _known(self, model: str | None) -> Tokenizer | None:
        """tiktoken's, where it and its table are here."""
        if model is None:
            return None
        try:
            import tiktoken
        except ImportError:
            return None
        try:
            name = tiktoken.encoding_name_for_model(model)
        except KeyError:
            return None
        if not _is_here(name):
            return None
        return self._make(name, lambda found: _adapted(tiktoken.get_encoding(found)))

    def _make(self, name: str, make: Callable[[str], Tokenizer]) -> Tokenizer:
        with self._lock:
            if name not in self._made:
                self._made[name] = make(name)
            return self._made[name]

    def abandon(self) -> None:
        """In a forked child."""
        self._lock = LostLock()


def check_tokenizer(given: Any) -> None:
    """Raises UsageError for what is no tokenizer; reads nothing."""
    if isinstance(given, Mapping):
        for name, one in given.items():
            if not isinstance(name, str) or isinstance(one, Mapping):
                raise UsageError(f"expected tokenizers by models, got {name!r}", field="tokenizer")
            check_tokenizer(one)
    elif isinstance(given, str | os.PathLike):
        if given != "estimate" and not Path(given).is_file():
            raise UsageError(f"there is no file {os.fspath(given)}", field="tokenizer")
    elif given is not None and not callable(getattr(given, "encode", None)):
        raise UsageError(
            f"expected a tokenizer or the path of one, got {type(given).__name__}",
            field="tokenizer",
        )


def _from_file(path: str) -> Tokenizer:
    try:
        from tokenizers import Tokenizer as FromFile
    except ImportError:
        raise UsageError(
            "the package tokenizers is not installed, which reads this file", field="tokenizer"
        ) from None
    try:
        return _adapted(FromFile.from_file(path), Path(path).parent.name or path)
    except Exception as error:  # noqa: BLE001 the library raises nothing narrower
        raise UsageError(f"{path} cannot be read: {error}", field="tokenizer") from None


def _adapted(given: Any, name: str | None = None) -> Tokenizer:
    kind = type(given)
    said = name or getattr(given, "name", None) or kind.__name__
    options: dict[str, Any] = {}
    if kind.__module__.split(".")[0] == "tokenizers":
        options = {"add_special_tokens": False}
    elif kind.__module__.split(".")[0] == "tiktoken":
        # What a user wrote is text, whatever it looks like.
        options = {"disallowed_special": ()}
    return _Adapted(str(said), given.encode, options)


def _is_here(name: str) -> bool:
    url = _TABLES.get(name)
    folder = os.environ.get("TIKTOKEN_CACHE_DIR") or os.environ.get("DATA_GYM_CACHE_DIR")
    if url is None or folder is None:
        return False
    # As tiktoken names its files; no secret is protected by it.
    return (Path(folder) / hashlib.sha1(url.encode(), usedforsecurity=False).hexdigest()).is_file()


def _json(value: Any, field: str) -> str:
    try:
        return msgspec.json.encode(value).decode()
    except (ValueError, TypeError, RecursionError) as error:
        for at, one in enumerate(value if isinstance(value, list) else ()):
            _json(one, f"{field}[{at}]")
        is_surrogate = isinstance(error, UnicodeEncodeError)
        reason = "a lone surrogate is not text" if is_surrogate else f"it is no JSON: {error}"
        raise UsageError(reason, field=field) from None


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


# -- counts ---------------------------------------------------------------------------------------


class Counts:
    """What messages cost, remembered. Thread-safe."""

    def __init__(self, budget: Budget) -> None:
        self._budget = budget
        self._lock: AbstractContextManager[Any] = threading.Lock()
        self._known: collections.OrderedDict[tuple[Any, ...], int] = collections.OrderedDict()
        self._ids: collections.OrderedDict[tuple[Any, ...], array.array[int]] = (
            collections.OrderedDict()
        )
        self._bytes_max = int(budget.limit_bytes * _SHARE)
        self._held = 0

    def of(self, key: tuple[Any, ...], message: Message, choice: Choice) -> tuple[int, int]:
        """(tokens of a message, those that had to be encoded). `key` names the message as it is
        sent."""
        key = (choice.name, choice.provider, *key)
        with self._lock:
            known = self._known.get(key)
            if known is not None:
                self._known.move_to_end(key)
                return known, 0
        payload = payload_of(message, choice.provider)
        count = choice.tokenizer.count(payload.text)
        with self._lock:
            if key not in self._known and self._room(_COUNT_BYTES):
                self._known[key] = count + payload.extra
        return count + payload.extra, count

    def of_made(self, message: Message, choice: Choice) -> tuple[int, int]:
        """The same of a message that is not sent as it is stored."""
        payload = payload_of(message, choice.provider)
        return self.of((_digest(payload.text), payload.extra), message, choice)

    def ids(self, message: Message, choice: Choice) -> tuple[int, ...]:
        """Token ids of a message's text. Raises UsageError where tokens are only estimated."""
        text = payload_of(message, choice.provider).text
        key = (choice.name, _digest(text))
        with self._lock:
            known = self._ids.get(key)
            if known is not None:
                self._ids.move_to_end(key)
                return tuple(known)
        ids = array.array("I", choice.tokenizer.encode(text))
        with self._lock:
            if key not in self._ids and self._room(_COUNT_BYTES + 4 * len(ids)):
                self._ids[key] = ids
        return tuple(ids)

    def of_value(self, value: Any, choice: Choice) -> int:
        """Of tools' schemas, as text. Raises UsageError that names the one that is no JSON."""
        if not value:
            return 0
        text = _json(value, "tools")
        return self.of((_digest(text),), {"content": text, "role": "system"}, choice)[0]

    def of_text(self, text: str, choice: Choice) -> int:
        """Of a text, without what a message adds."""
        return self.of((_digest(text),), {"content": text}, choice)[0] - _BARE_TOKENS

    def make_free(self, size_bytes: int) -> None:
        """Forget until so much is free, or nothing is left."""
        with self._lock:
            while self._budget.free_bytes() < size_bytes and self._forget_one():
                pass

    def _room(self, size_bytes: int) -> bool:
        while self._held + size_bytes > self._bytes_max and self._forget_one():
            pass
        if self._held + size_bytes > self._bytes_max:
            return False
        if not self._budget.try_reserve(OWNER, size_bytes):
            return False
        self._held += size_bytes
        return True

    def _forget_one(self) -> bool:
        if self._ids and len(self._ids) >= len(self._known) // 4:
            _, ids = self._ids.popitem(last=False)
            size = _COUNT_BYTES + 4 * len(ids)
        elif self._known:
            self._known.popitem(last=False)
            size = _COUNT_BYTES
        else:
            return False
        self._held -= size
        self._budget.release(OWNER, size)
        return True

    def clear(self) -> None:
        with self._lock:
            while self._forget_one():
                pass

    def abandon(self) -> None:
        """In a forked child."""
        self._lock = LostLock()

    def check(self) -> None:
        """Assert that what is charged is what is here."""
        with self._lock:
            ids = sum(_COUNT_BYTES + 4 * len(one) for one in self._ids.values())
            assert self._held == _COUNT_BYTES * len(self._known) + ids
