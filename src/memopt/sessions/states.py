"""The versions of an agent's state: keyframes and deltas.

A version is stored as a delta of the one before it, with that one as raw dictionary. One in
`state_keyframe_versions` (k) is a keyframe: a delta of the keyframe before; one in k² stands alone.
So a version is decoded in at most 2k steps, and a state that grows costs what was added.

Invariant: `base` of a stored version is stored too. Not here: what a state means.
"""

import collections
import threading
from collections.abc import Callable
from typing import Final, NamedTuple

from memopt.base.budget import Budget
from memopt.base.config import Config
from memopt.base.errors import (
    BackpressureError,
    ConflictError,
    CorruptionError,
    NotFoundError,
)
from memopt.base.events import Events, StateSaved
from memopt.base.protocols import Compressor, Reader, Tables
from memopt.base.records import (
    EventRow,
    RecordKind,
    State,
    StateRow,
    StateVersion,
    to_datetime,
)
from memopt.codecs.keys import state_key
from memopt.codecs.message import decode_json
from memopt.journal.commit import CommitTransaction, GroupCommitter
from memopt.sessions.names import SessionKey, naming
from memopt.sessions.reading import NOW, Bound
from memopt.sessions.transcripts import Transcripts, publish_event

_OWNER: Final = "states"
_ATTEMPTS_MAX: Final = 64
_CACHE_SHARE: Final = 1 / 16


def base_of(version: int, keyframe: int, oldest: int = 1) -> int:
    """Which version a version is a delta of; 0 when it stands alone."""
    step = version - 1
    if step % keyframe:
        base = version - 1
    elif step % (keyframe * keyframe):
        base = version - keyframe
    else:
        return 0
    return base if base >= oldest else 0


class _Latest(NamedTuple):
    version: int
    raw: bytes


class States:
    """Saves and loads states. Thread-safe."""

    def __init__(
        self,
        home: Reader,
        committer: GroupCommitter,
        transcripts: Transcripts,
        compressor: Compressor,
        budget: Budget,
        *,
        config: Config,
        events: Events,
        admit: Callable[[int], None],
    ) -> None:
        self._home = home
        self._committer = committer
        self._transcripts = transcripts
        self._compressor = compressor
        self._budget = budget
        self._keyframe = config.state_keyframe_versions
        self._events = events
        self._admit = admit
        self._cache_bytes_max = int(budget.limit_bytes * _CACHE_SHARE)
        self._cache_bytes = 0
        self._cache: collections.OrderedDict[tuple[int, str], _Latest] = collections.OrderedDict()
        self._lock = threading.Lock()

    def save(
        self, key: SessionKey, agent: str | None, name: str, raw: bytes, if_version: int | None
    ) -> StateVersion:
        """Commit a new version. Raises ConflictError unless `if_version` is the latest."""
        self._admit(len(raw))
        self._budget.reserve(_OWNER, 2 * len(raw))
        try:
            for _ in range(_ATTEMPTS_MAX):
                saved = self._try_save(key, agent, name, raw, if_version)
                if saved is not None:
                    return saved
        finally:
            self._budget.release(_OWNER, 2 * len(raw))
        raise BackpressureError("others keep saving this state", limit="save attempts")

    def _try_save(
        self, key: SessionKey, agent: str | None, name: str, raw: bytes, if_version: int | None
    ) -> StateVersion | None:
        """One attempt; None when somebody else saved meanwhile."""
        with self._home.snapshot() as tables:
            session = tables.sessions.find(*key)
            rows = tables.states.versions(session.session, name) if session is not None else []
        latest = rows[-1].version if rows else 0
        if if_version is not None and if_version != latest:
            raise ConflictError("the state has moved", expected=if_version, actual=latest)
        version = latest + 1
        base = base_of(version, self._keyframe, rows[0].version if rows else version)
        base_raw = b""
        if base:
            assert session is not None
            base_raw = self._raw(session.session, name, base)

        def member(transaction: CommitTransaction) -> tuple[StateVersion, int, int] | None:
            tables = transaction.tables
            resident = self._transcripts.resident(transaction, key)
            if resident is None:
                resident = self._transcripts.create(transaction, key, agent)
            newest = tables.states.latest(resident.session, name)
            if (newest.version if newest else 0) != latest or (
                session is not None and session.session != resident.session
            ):
                return None
            if base != latest and base and not tables.states.get(resident.session, name, base):
                # Trimmed meanwhile.
                return None
            body = encode_state(self._compressor, resident.session, name, version, raw, base_raw)
            lsn = transaction.next_lsn()
            at_us = transaction.at_us
            tables.states.put(
                StateRow(resident.session, name, version, lsn, at_us, base, len(raw), body)
            )
            kind = RecordKind.STATE_SAVED
            tables.events.put(EventRow(lsn, at_us, kind, resident.session, 0, version, name))
            publish_event(transaction, lsn, kind, key, seq=version, state=name)
            at = to_datetime(at_us)
            saved = StateVersion(name=name, version=version, lsn=lsn, at=at)
            return saved, resident.session, len(body)

        done = self._committer.commit(member)
        if done is None:
            return None
        saved, number, stored_bytes = done
        self._remember(number, name, _Latest(version, raw))
        self._events.emit(StateSaved(len(raw), stored_bytes))
        return saved

    def load(
        self, key: SessionKey, name: str, version: int | None, bound: Bound = NOW
    ) -> State | None:
        """A version, or the latest that `bound` sees; None when there is none at all. Raises
        NotFoundError for a version that is not there."""
        with naming(key), self._home.snapshot() as tables:
            session = tables.sessions.find(*key)
            rows = tables.states.versions(session.session, name) if session is not None else []
        rows = [row for row in rows if bound.sees(row.lsn, row.at_us)]
        if not rows and version is None:
            return None
        found = [row for row in rows if version is None or row.version == version]
        if not found:
            raise NotFoundError(f"state {name!r} has no version {version}")
        row = found[-1]
        with naming(key):
            raw = self._raw(row.session, name, row.version)
        at = to_datetime(row.at_us)
        return State(value=decode_json(raw), version=row.version, lsn=row.lsn, at=at)

    def versions(self, key: SessionKey, name: str | None, bound: Bound = NOW) -> list[StateVersion]:
        with naming(key), self._home.snapshot() as tables:
            session = tables.sessions.find(*key)
            rows = tables.states.versions(session.session, name) if session is not None else []
        return [
            StateVersion(name=row.name, version=row.version, lsn=row.lsn, at=to_datetime(row.at_us))
            for row in rows
            if bound.sees(row.lsn, row.at_us)
        ]

    def forget(self, session: int) -> None:
        """Drop what is remembered of a session's states."""
        with self._lock:
            for key in [key for key in self._cache if key[0] == session]:
                del self._cache[key]
        self._settle()

    def close(self) -> None:
        with self._lock:
            self._cache.clear()
        self._settle()

    def _raw(self, session: int, name: str, version: int) -> bytes:
        with self._lock:
            latest = self._cache.get((session, name))
            if latest is not None and latest.version == version:
                return latest.raw
        with self._home.snapshot() as tables:
            chain = chain_of(tables, session, name, version)
        need = 2 * max(row.raw_bytes for row in chain) + sum(len(row.body) for row in chain)
        self._budget.reserve(_OWNER, need)
        try:
            return decode_chain(self._compressor, chain)
        finally:
            self._budget.release(_OWNER, need)

    def _remember(self, session: int, name: str, latest: _Latest) -> None:
        with self._lock:
            self._cache.pop((session, name), None)
            self._cache[session, name] = latest
        self._settle()

    def _settle(self) -> None:
        """Charge what the cache holds, letting the oldest go above its share."""
        with self._lock:
            wanted = sum(len(latest.raw) + 300 for latest in self._cache.values())
            while self._cache and (
                wanted > self._cache_bytes_max
                or wanted - self._cache_bytes > self._budget.free_bytes()
            ):
                _, latest = self._cache.popitem(last=False)
                wanted -= len(latest.raw) + 300
            if wanted < self._cache_bytes:
                self._budget.release(_OWNER, self._cache_bytes - wanted)
            elif not self._budget.try_reserve(_OWNER, wanted - self._cache_bytes):
                self._cache.clear()
                self._budget.release(_OWNER, self._cache_bytes)
                wanted = 0
            self._cache_bytes = wanted


def encode_state(
    compressor: Compressor, session: int, name: str, version: int, raw: bytes, base: bytes
) -> bytes:
    """A version as stored: alone, or as a delta of `base`."""
    key = state_key(session, name, version)
    return (
        compressor.encode_delta(raw, key=key, base=base)
        if base
        else compressor.encode(raw, key=key)
    )


def chain_of(tables: Tables, session: int, name: str, version: int) -> list[StateRow]:
    """What a version is decoded from, the one that stands alone first."""
    chain: list[StateRow] = []
    while version:
        row = tables.states.get(session, name, version)
        if row is None:
            raise CorruptionError(f"version {version} of state {name!r} is missing")
        chain.append(row)
        version = row.base
    chain.reverse()
    return chain


def decode_chain(compressor: Compressor, chain: list[StateRow]) -> bytes:
    raw = b""
    for row in chain:
        key = state_key(row.session, row.name, row.version)
        if row.base:
            raw = compressor.decode_delta(row.body, key=key, base=raw)
        else:
            raw = compressor.decode(row.body, key=key)
        if len(raw) != row.raw_bytes:
            raise CorruptionError(f"version {row.version} of state {row.name!r} has another length")
    return raw


def trim_states(
    tables: Tables, compressor: Compressor, session: int, name: str, oldest: int, keyframe: int
) -> int:
    """In a commit: delete versions below `oldest` and encode the others so that they need none of
    them; how many went."""
    rows = tables.states.versions(session, name)
    kept = [row.version for row in rows if row.version >= oldest]
    gone = len(rows) - len(kept)
    if not gone:
        return 0
    raws = {
        version: decode_chain(compressor, chain_of(tables, session, name, version))
        for version in kept
    }
    tables.states.delete(session, name, None)
    for row in rows[gone:]:
        base = base_of(row.version, keyframe, oldest)
        raw = raws[row.version]
        body = encode_state(
            compressor, session, name, row.version, raw, raws[base] if base else b""
        )
        tables.states.put(row._replace(base=base, body=body))
    return gone
