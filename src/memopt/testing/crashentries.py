"""Mappings and sequences of a process that is to be killed: what is in them, and changes at random.

A change is planned first, which alters the digests that should be there, and made afterwards; in
between the process says what it is about to do (crashwork.py).
"""

import functools
import hashlib
import json
import random
from collections.abc import Callable
from typing import Any, Final

from memopt.base.containers import Key, StoredMapping, StoredSequence
from memopt.memory import Memory

COLLECTIONS: Final = ("map", "seq")
"""How the names of scopes' own collections end."""
_ENTRIES_MAX: Final = 40


class WrongError(Exception):
    """The store does not hold what it should."""


@functools.lru_cache(maxsize=1 << 16)
def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=8).digest()


def digest_of(value: Any) -> bytes:
    return _digest(json.dumps(value, sort_keys=True))


def collection_of(memory: Memory, key: tuple[str, str]) -> Any:
    """The mapping or sequence of a scope that goes by a key; or a session's own, by the session."""
    if key[1].endswith("-own"):
        return memory.session(key[1], scope=key[0]).mapping("own")
    make = memory.mapping if key[1].endswith("-map") else memory.sequence
    return make(key[1], scope=key[0])


def entries_of(collection: Any) -> tuple[bytes, ...]:
    """Digests of what is in it, in order; by iterating and by asking for each."""
    if isinstance(collection, StoredMapping):
        entries = [[key, value] for key, value in collection.items()]
        again = [[key, collection[key]] for key in collection]
    else:
        entries = list(collection)
        again = [collection[index] for index in range(len(collection))]
    if entries != again or len(entries) != len(collection):
        raise WrongError(f"{collection!r} iterates over something else than it holds")
    return tuple(map(digest_of, entries))


def mapping_change(
    mapping: StoredMapping, entries: list[bytes], chance: random.Random, value: Callable[[], Any]
) -> Callable[[], Any]:
    """One change: `entries` become the digests after it; what is returned makes it."""
    keys = list(mapping)
    dice = chance.random()
    if len(keys) > _ENTRIES_MAX or dice < 0.03:
        entries.clear()
        return mapping.clear
    if keys and dice < 0.1:
        entries.pop()
        return mapping.popitem
    if keys and dice < 0.3:
        at = chance.randrange(len(keys))
        entries.pop(at)
        return lambda: mapping.pop(keys[at])
    new: dict[Key, Any] = {chance.randrange(60): value() for _ in range(1 if dice < 0.8 else 9)}
    for key, item in new.items():
        if key in keys:
            entries[keys.index(key)] = digest_of([key, item])
        else:
            entries.append(digest_of([key, item]))
    return lambda: mapping.update(new)


def sequence_change(
    sequence: StoredSequence, entries: list[bytes], chance: random.Random, value: Callable[[], Any]
) -> Callable[[], Any]:
    """The same for a sequence."""
    at = chance.randint(0, len(entries))
    dice = chance.random()
    if len(entries) > _ENTRIES_MAX:
        entries.clear()
        return sequence.clear
    if dice < 0.4:
        last = value()
        entries.append(digest_of(last))
        return lambda: sequence.append(last)
    where = slice(at, at if dice < 0.7 else at + chance.randint(1, 3))
    new = [value() for _ in range(chance.randint(1, 5))] if dice < 0.7 or dice > 0.9 else []
    entries[where] = map(digest_of, new)
    if new:
        return lambda: sequence.__setitem__(where, new)
    return lambda: sequence.__delitem__(where)
