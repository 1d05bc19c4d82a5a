"""The handle on a mapping: a dict's verbs over encoded keys and values."""

import collections.abc
from collections.abc import Callable, Iterable, Iterator
from typing import Any, TypeVar

from memopt.base.containers import Key, StoredMapping
from memopt.base.records import EntryHead, EntryRow, Stored
from memopt.codecs.entry import decode_key, encode_key, find_key
from memopt.codecs.values import decode_value, encode_value, equal
from memopt.collections.mappings import MISSING, Item, Mappings
from memopt.collections.rows import Ref, Row

T = TypeVar("T", EntryHead, EntryRow)


class Mapping(StoredMapping):
    """A dict that lives in the store: it spills instead of growing, and lives as long as its owner.

    Thread-safe; cheap to make and to throw away. Keys are str, int or bytes (UsageError where
    others are set; looking for one finds nothing); values are exact JSON, bytes, numpy arrays or
    scipy sparse matrices. A value that is read is fresh: changing it changes nothing here until it
    is set again. Order, `popitem`, `|=` and equality are a dict's. What is set is committed when
    the call returns; `update` is one commit, all or nothing. Iterating while entries come or go
    raises RuntimeError.
    """

    __slots__ = ("_agent", "_ref", "_row", "_store")

    __hash__ = None  # type: ignore[assignment]

    def __init__(self, store: Mappings, ref: Ref, agent: str | None) -> None:
        self._store = store
        self._ref = ref
        self._agent = agent
        self._row: Row | None = None
        """What is known of the collection, once it is known: to find it anew costs a third of a
        read."""

    @property
    def name(self) -> str:
        return self._ref.name

    def __repr__(self) -> str:
        owner = f"scope={self._ref.scope!r}"
        if self._ref.session is not None:
            owner += f", session={self._ref.session!r}"
        return f"Mapping({self._ref.name!r}, {owner})"

    # -- one key ----------------------------------------------------------------------------------

    def __getitem__(self, key: Key) -> Any:
        row = self._row
        if row is None or row.is_gone:
            row = self._row = self._store.row(self._ref)
        encoded = find_key(key)
        value = MISSING if encoded is None else self._store.value(self._ref, row, encoded)
        if value is MISSING:
            raise KeyError(key)
        return value

    def get(self, key: Key, default: Any = None) -> Any:
        row = self._row
        if row is None or row.is_gone:
            row = self._row = self._store.row(self._ref)
        encoded = find_key(key)
        value = MISSING if encoded is None else self._store.value(self._ref, row, encoded)
        return default if value is MISSING else value

    def __contains__(self, key: object) -> bool:
        encoded = find_key(key)
        return encoded is not None and self._store.has(self._ref, encoded)

    def __setitem__(self, key: Key, value: Any) -> None:
        store, limits = self._store, self._store.limits
        encoded = encode_key(key)
        raw, _ = encode_value(
            value, bytes_max=limits.value_bytes_max, depth_max=limits.depth_max, field="value"
        )
        store.put_one(self._ref, self._agent, encoded, raw)

    def put(self, key: Key, value: Any, *, encoding: str | None = None) -> Stored:
        """Set a key, saying how. `encoding` "int8" or "int4" rounds an array of floats to integers,
        with a scale for each row (along the last axis): an eighth or a sixteenth of float64, and
        an error of at most half a step, which is max|row| ÷ 254 or ÷ 14. The largest error is
        returned, and stored with the array; every other value comes back exactly as it was."""
        encoded = encode_key(key)
        raw, error = self._encoded(value, "value", encoding)
        self._store.put_one(self._ref, self._agent, encoded, raw)
        return Stored(raw_bytes=len(raw), error_max=error)

    def __delitem__(self, key: Key) -> None:
        encoded = find_key(key)
        if encoded is None or not self._store.delete(self._ref, encoded):
            raise KeyError(key)

    def setdefault(self, key: Key, default: Any = None) -> Any:
        raw = self._store.setdefault(self._ref, self._agent, self._item(key, default))
        return default if raw is None else decode_value(raw)

    def pop(self, key: Key, default: Any = MISSING) -> Any:
        encoded = find_key(key)
        value = MISSING if encoded is None else self._store.pop(self._ref, encoded)
        if value is not MISSING:
            return value
        if default is MISSING:
            raise KeyError(key)
        return default

    def popitem(self) -> tuple[Key, Any]:
        """The pair that was put last, as with a dict."""
        item = self._store.pop_last(self._ref)
        if item is None:
            raise KeyError("popitem(): mapping is empty")
        return decode_key(item[0]), item[1]

    # -- many keys --------------------------------------------------------------------------------

    def update(self, other: Any = (), /, **more: Any) -> None:
        """Set many keys in one commit: all of them or none. Their values, encoded, are limited like
        one value: UsageError."""
        items = {
            encode_key(key, field=f"keys[{index}]"): (key, value)
            for index, (key, value) in enumerate(_pairs(other, more))
        }
        encoded = [
            Item(packed, self._encoded(value, f"values[{key!r}]", None)[0])
            for packed, (key, value) in items.items()
        ]
        if encoded:
            self._store.put(self._ref, self._agent, encoded)

    def clear(self) -> None:
        """Delete everything, in one commit."""
        self._store.clear(self._ref)

    def copy(self) -> dict[Key, Any]:
        """A dict with everything in it."""
        return dict(self.items())

    __copy__ = copy

    def __reduce_ex__(self, protocol: Any) -> Any:
        raise TypeError("a stored mapping cannot be pickled or deep-copied: copy() gives a dict")

    def __or__(self, other: Any) -> dict[Key, Any]:
        if not isinstance(other, collections.abc.Mapping):
            return NotImplemented
        return self.copy() | dict(other.items())

    def __ror__(self, other: Any) -> dict[Key, Any]:
        if not isinstance(other, collections.abc.Mapping):
            return NotImplemented
        return dict(other.items()) | self.copy()

    def __ior__(self, other: Any) -> "Mapping":
        self.update(other)
        return self

    def __len__(self) -> int:
        return self._store.count(self._ref)

    def __bool__(self) -> bool:
        return not self._store.is_empty(self._ref)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, collections.abc.Mapping):
            return NotImplemented
        if len(self) != len(other):
            return False
        return all(key in other and equal(value, other[key]) for key, value in self.items())

    # -- in order ---------------------------------------------------------------------------------

    def __iter__(self) -> Iterator[Key]:
        return self._keys(descending=False)

    def __reversed__(self) -> Iterator[Key]:
        return self._keys(descending=True)

    def keys(self) -> "KeysView":
        return KeysView(self)

    def values(self) -> "ValuesView":
        return ValuesView(self)

    def items(self) -> "ItemsView":
        return ItemsView(self)

    def _keys(self, *, descending: bool) -> Iterator[Key]:
        found = self._walk(
            lambda row, at: self._store.keys(self._ref, row, at, descending=descending)
        )
        return (decode_key(key) for _, (_, key, _) in found if key is not None)

    def _pairs(self, *, descending: bool = False) -> Iterator[tuple[Key, Any]]:
        """Keys and values; a value that was set meanwhile is the new one."""
        store, ref = self._store, self._ref
        # Not a loop, whose variable would hold an entry while the next ones are read.
        return map(
            self._pair,
            self._walk(lambda row, at: store.entries(ref, row, at, descending=descending)),
        )

    def _pair(self, found: tuple[bool, EntryRow]) -> tuple[Key, Any]:
        is_fresh, entry = found
        store, ref = self._store, self._ref
        assert entry.key is not None
        value = (
            store.value_of(ref, entry) if is_fresh else store.value(ref, store.row(ref), entry.key)
        )
        if value is MISSING:
            raise RuntimeError("the mapping changed during iteration")
        return decode_key(entry.key), value

    def _walk(self, read: Callable[[Row, int | None], list[T]]) -> Iterator[tuple[bool, T]]:
        """(whether it is still as it was read, what was read), batch after batch; nothing is kept
        of what was handed out."""
        row = self._store.row(self._ref)
        if row is None:
            return
        moves, at = row.moves, None
        while True:
            version = row.version if not row.writers else -1
            batch = read(row, at)
            self._refuse_changed(row, moves)
            if not batch:
                return
            at = batch[-1].place
            batch.reverse()
            while batch:
                self._refuse_changed(row, moves)
                yield row.version == version, batch.pop()

    def _refuse_changed(self, row: Row, moves: int) -> None:
        if row.is_gone:
            # Of a turn that has ended, or of the process that this one was forked from: that is
            # said rather.
            self._store.row(self._ref)
        if row.moves != moves or row.is_gone:
            raise RuntimeError("the mapping changed during iteration")

    def _item(self, key: Key, value: Any) -> Item:
        encoded = encode_key(key)
        return Item(encoded, self._encoded(value, "value", None)[0])

    def _encoded(self, value: Any, field: str, encoding: str | None) -> tuple[bytes, float]:
        limits = self._store.limits
        return encode_value(
            value, bytes_max=limits.value_bytes_max, depth_max=limits.depth_max, field=field,
            encoding=encoding,
        )  # fmt: skip


class KeysView(collections.abc.KeysView[Key]):
    """As a dict's."""

    _mapping: Mapping

    def __reversed__(self) -> Iterator[Key]:
        return reversed(self._mapping)


class ValuesView(collections.abc.ValuesView[Any]):
    """As a dict's."""

    _mapping: Mapping

    def __iter__(self) -> Iterator[Any]:
        return (value for _, value in self._mapping._pairs())

    def __reversed__(self) -> Iterator[Any]:
        return (value for _, value in self._mapping._pairs(descending=True))

    def __contains__(self, value: object) -> bool:
        return any(equal(value, found) for found in self)


class ItemsView(collections.abc.ItemsView[Key, Any]):
    """As a dict's."""

    _mapping: Mapping

    def __iter__(self) -> Iterator[tuple[Key, Any]]:
        return self._mapping._pairs()

    def __contains__(self, item: object) -> bool:
        if not isinstance(item, tuple) or len(item) != 2:
            return False
        found = self._mapping.get(item[0], MISSING)
        return found is not MISSING and equal(found, item[1])

    def __reversed__(self) -> Iterator[tuple[Key, Any]]:
        return self._mapping._pairs(descending=True)


def _pairs(other: Any, more: dict[str, Any]) -> Iterable[tuple[Any, Any]]:
    """What dict.update takes."""
    if isinstance(other, collections.abc.Mapping):
        yield from other.items()
    elif hasattr(other, "keys"):
        for key in other.keys():  # noqa: SIM118 - it need not be iterable itself
            yield key, other[key]
    else:
        for key, value in other:
            yield key, value
    yield from more.items()
