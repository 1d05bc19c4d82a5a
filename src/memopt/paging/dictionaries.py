"""Which compression dictionary a page is written with, and when a new one is learnt.

A tenant's dictionary is learnt only from substrings that occur in several of its leaf scopes, so
it is nobody's data and may serve them all. Where there are not enough leaf scopes, each may have
one of its own, from its own pages. Dictionaries are versioned and immutable; a page names the one
it needs; one is deleted once no page names it (compact).

Invariant: a dictionary that is handed out by `of` is at home. Not here: how one is learnt
(codecs/dictionaries.py), and in which process (codecs/training.py).
"""

import collections
import random
import threading
from collections.abc import Callable
from typing import Final, NamedTuple

from memopt.base.budget import Budget
from memopt.base.protocols import Reader, Tables
from memopt.base.records import DictionaryRow, PageRow
from memopt.base.units import MIB
from memopt.codecs.training import train_dictionary
from memopt.paging.page_writer import Owner

_CACHED_MAX: Final = 1024
_SAMPLED_TENANTS_MAX: Final = 8
_SAMPLES_MAX: Final = 256
_SAMPLE_BYTES: Final = 160
_CACHED_BYTES: Final = 200
_TRAIN_AGAIN_FACTOR: Final = 16
_TRAINING_BYTES_MAX: Final = 4 << 20
_TRAINING_FACTOR: Final = 8
"""Peak bytes of training over those of its input, and the input itself; measured."""
_TRAINING_LEAST: Final = 5 * MIB // 2
"""Of a training that has hardly any."""
_TRAINING_SHARE: Final = 1 / 4
"""Of the budget, for as long as a dictionary is learnt."""
_PROCESS_BYTES: Final = 40 * MIB
"""What the process that learns takes before it learns anything: it is in the same control group,
whose limit does not ask whose the bytes are. Measured: 41 MB, and 27 more for an input of 4."""
_LEFT_BYTES: Final = 16 * MIB
"""That there must still be beside it."""


class Trained(NamedTuple):
    scope: int
    """The tenant's number, or the leaf scope's where it is its own."""
    body: bytes
    samples: int


class _Reservoir:
    """A uniform sample of a tenant's new pages."""

    def __init__(self) -> None:
        self.seen = 0
        self.samples: list[tuple[int, PageRow]] = []

    def add(self, scope: int, row: PageRow, chance: random.Random) -> None:
        self.seen += 1
        if len(self.samples) < _SAMPLES_MAX:
            self.samples.append((scope, row))
        elif (at := chance.randrange(self.seen)) < _SAMPLES_MAX:
            self.samples[at] = (scope, row)


class Dictionaries:
    """Thread-safe. Charged for its tables; dictionaries in use are charged by the compressor."""

    def __init__(
        self,
        home: Reader,
        read_page: Callable[[Tables, PageRow], bytes],
        budget: Budget,
        *,
        size_bytes: int,
        scopes_min: int,
        training_pages: int,
    ) -> None:
        self._home = home
        self._read_page = read_page
        self._budget = budget
        self._size_bytes = size_bytes
        self._scopes_min = scopes_min
        self._training_pages = training_pages
        self._training_bytes_max = min(
            _TRAINING_BYTES_MAX, int(budget.limit_bytes * _TRAINING_SHARE / _TRAINING_FACTOR)
        )
        self._current: collections.OrderedDict[int, int] = collections.OrderedDict()
        self._refreshed = 0
        self._reservoirs: dict[int, _Reservoir] = {}
        self._due: set[int] = set()
        self._wanted: dict[int, int] = {}
        """New pages of a tenant at which it is due next: ever rarer, for old pages keep the
        dictionary they were written with and every version costs its bytes."""
        self._chance = random.Random(0)
        self._lock = threading.Lock()
        self.learning = threading.RLock()
        """Held from the first sample read to the install: compact(), which holds it too, must not
        take a dictionary for newer than what was forgotten while it was learnt."""
        self._is_closing = False
        self._has_room: Callable[[int], bool] = lambda size_bytes: True
        self._charge = _CACHED_MAX * _CACHED_BYTES + (
            _SAMPLED_TENANTS_MAX * _SAMPLES_MAX * _SAMPLE_BYTES
        )
        budget.reserve("dictionaries", self._charge)

    def of(self, owner: Owner) -> int:
        """The number of the dictionary a new page of `owner` is to use; 0 = none."""
        return self._of_scope(owner.tenant) or (self._of_scope(owner.scope) if owner.scope else 0)

    def body(self, dictionary: int) -> bytes | None:
        """For the compressor: the bytes of a dictionary."""
        with self._home.lookup() as tables:
            row = tables.dictionaries.get(dictionary)
        return None if row is None else row.body

    def note(self, owner: Owner, row: PageRow) -> None:
        """A page was written: it may be learnt from."""
        with self._lock:
            reservoir = self._reservoirs.get(owner.tenant)
            if reservoir is None:
                if len(self._reservoirs) >= _SAMPLED_TENANTS_MAX:
                    return
                reservoir = self._reservoirs[owner.tenant] = _Reservoir()
            reservoir.add(owner.scope, row, self._chance)
            if reservoir.seen >= self._wanted.get(owner.tenant, self._training_pages):
                self._due.add(owner.tenant)
                self._wanted[owner.tenant] = reservoir.seen * _TRAIN_AGAIN_FACTOR

    def due(self) -> list[int]:
        """Tenants with enough new pages to learn a dictionary from."""
        with self._lock:
            return list(self._due)

    def learn(self, tenant: int, samples: list[tuple[int, PageRow]] | None = None) -> list[Trained]:
        """New dictionaries of a tenant, from `samples` or from its sampled pages. Slow, and
        outside every lock; nothing is written."""
        if not self.may_learn():
            return []
        with self._lock:
            self._due.discard(tenant)
            reservoir = self._reservoirs.get(tenant)
            if samples is None:
                samples = list(reservoir.samples) if reservoir is not None else []
        size = min(sum(row.raw_bytes for _, row in samples), self._training_bytes_max)
        need = max(_TRAINING_FACTOR * size, _TRAINING_LEAST)
        self._budget.reserve("training", need)
        try:
            return self._train(tenant, self._read(samples))
        finally:
            self._budget.release("training", need)

    def install(self, tables: Tables, trained: Trained, lsn: int) -> DictionaryRow:
        """In a commit: the new version of a scope's dictionary. It is handed out once
        `refresh` is called after the commit."""
        old = tables.dictionaries.current(trained.scope)
        row = DictionaryRow(0, trained.scope, old.version + 1 if old else 1, lsn, 0, trained.body)
        if old is not None:
            tables.dictionaries.put(old._replace(retired=1))
        return row._replace(dictionary=tables.dictionaries.put(row))

    def refresh(self, *scopes: int) -> None:
        """Ask the home again for the dictionaries of `scopes`."""
        with self._lock:
            self._refreshed += 1
            for scope in scopes:
                self._current.pop(scope, None)

    def ask_before_learning(self, has_room: Callable[[int], bool]) -> None:
        """`has_room(size_bytes)` says whether the machine, or the control group this process is
        in, has so much for another process. Where it has not, nothing is learnt until it has."""
        self._has_room = has_room

    def stop_learning(self) -> None:
        """What is being learnt is not waited for."""
        self._is_closing = True

    def close(self) -> None:
        self._budget.release("dictionaries", self._charge)

    def _of_scope(self, scope: int) -> int:
        with self._lock:
            known = self._current.get(scope)
            if known is not None:
                return known
            refreshed = self._refreshed
        with self._home.snapshot() as tables:
            row = tables.dictionaries.current(scope)
        number = 0 if row is None else row.dictionary
        with self._lock:
            if refreshed != self._refreshed:
                # What was read may be what the refresh was about: not to be remembered.
                return number
            self._current[scope] = number
            while len(self._current) > _CACHED_MAX:
                self._current.popitem(last=False)
        return number

    def _read(self, samples: list[tuple[int, PageRow]]) -> list[tuple[int, bytes]]:
        """Raw pages of samples that are still there, up to a limit of bytes, under the budget."""
        raws: list[tuple[int, bytes]] = []
        total = 0
        for scope, row in samples:
            if total + row.raw_bytes > self._training_bytes_max:
                continue
            with self._home.snapshot() as tables:
                if row not in tables.pages.map(row.line, row.start, row.stop):
                    continue
                raws.append((scope, self._read_page(tables, row)))
            total += row.raw_bytes
        return raws

    def may_learn(self) -> bool:
        """Whether there is room for the process that learns."""
        size_bytes = _PROCESS_BYTES + _TRAINING_FACTOR * self._training_bytes_max
        return self._has_room(size_bytes + _LEFT_BYTES)

    def _is_wanted(self) -> bool:
        # It has its room by now; when others need it, it has to give it back.
        return not self._is_closing and self._has_room(_LEFT_BYTES // 2)

    def _train(self, tenant: int, raws: list[tuple[int, bytes]]) -> list[Trained]:
        scopes = sorted({scope for scope, _ in raws})
        if len(scopes) >= self._scopes_min:
            common = train_dictionary(
                raws, size_bytes=self._size_bytes, scopes_min=self._scopes_min,
                is_wanted=self._is_wanted,
            )  # fmt: skip
            return [] if common is None else [Trained(tenant, common, len(raws))]
        trained = []
        for scope in scopes:
            own = [sample for sample in raws if sample[0] == scope]
            if not self._is_wanted():
                break
            body = train_dictionary(
                own, size_bytes=self._size_bytes, scopes_min=1, is_wanted=self._is_wanted
            )
            if body is not None:
                trained.append(Trained(scope, body, len(own)))
        return trained
