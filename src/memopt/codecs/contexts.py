"""zstd contexts and loaded dictionaries: pooled, bounded, and charged before they are made.

Owns the budget's owner "codecs". Invariant: what is reserved there is the sum of the charges of
the dictionaries and contexts that exist; a charge is never below what zstd itself reports; and a
context is with one thread at a time. Not here: values and frames, which are the caller's to charge.
"""

import functools
import threading
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final

import zstandard

from memopt.base.budget import Budget
from memopt.base.errors import BudgetError, CorruptionError, StoreClosedError
from memopt.base.units import KIB

OWNER: Final = "codecs"
LEVEL: Final = 3
DICTIONARIES_MAX: Final = 16
COMPRESSORS_MAX: Final = 2
"""Idle ones kept for each dictionary. Pages are encoded by the committer and by maintenance."""
DECOMPRESSORS_MAX: Final = 4
POOLED_RAW_BYTES: Final = 64 * KIB
"""A context that met a larger value keeps its larger tables, so such a one is not kept."""
DICTIONARY_RAW_BYTES_MAX: Final = 256 * KIB
"""Above this a dictionary's small tables cost more than its content saves."""

_POOLED_RAW_BYTES_MIN: Final = 16 * KIB
_BLOCK_BYTES: Final = 128 * KIB
_CDICT_BYTES: Final = 16 * KIB  # a ZSTD_CDict without its tables
_DDICT_BYTES: Final = 28 * KIB  # a ZSTD_DDict: entropy tables, 27,352 bytes in zstd 1.5.7


class Loaded:
    """A dictionary in memory with its idle contexts. Number 0 stands for none at all."""

    __slots__ = (
        "charged_bytes", "checksum", "compressors", "data", "decompressors", "detached",
        "hash_log", "number", "precomputed", "users",
    )  # fmt: skip

    def __init__(self, number: int, body: bytes | None, charged_bytes: int) -> None:
        self.number = number
        self.data = None if body is None else zstandard.ZstdCompressionDict(body)
        self.checksum = 0 if body is None else zlib.crc32(body)
        self.hash_log = 0 if body is None else min(max((len(body) - 1).bit_length(), 12), 17)
        """Of the shared tables: no larger than the content needs. That is less than half of what
        zstd takes by itself, at 0.1 % more output."""
        self.charged_bytes = charged_bytes
        self.precomputed = body is None
        self.compressors: list[Compression] = []
        self.decompressors: list[Decompression] = []
        self.users = 0
        """Contexts that are with a thread now."""
        self.detached = False
        """No longer to be found: it goes with its last user."""

    def parameters(self) -> zstandard.ZstdCompressionParameters:
        return level_parameters(hash_log=self.hash_log, window_log=18)

    def table_bytes(self) -> int:
        return table_bytes(self.parameters())


class Compression:
    """A compressor with what it is charged."""

    __slots__ = ("charged_bytes", "kept", "loaded", "zstd")

    def __init__(self, loaded: Loaded, charged_bytes: int, *, kept: bool) -> None:
        if not loaded.precomputed:
            # Once for all its compressors, which would each make tables of their own.
            assert loaded.data is not None
            loaded.data.precompute_compress(compression_params=loaded.parameters())
        self.loaded = loaded
        self.charged_bytes = charged_bytes
        self.kept = kept
        """Pooled once it is given back, else thrown away."""
        self.zstd: zstandard.ZstdCompressor | None = zstandard.ZstdCompressor(
            level=LEVEL, dict_data=loaded.data, write_dict_id=False, write_checksum=False
        )


class Decompression:
    """A decompressor with what it is charged."""

    __slots__ = ("charged_bytes", "loaded", "zstd")

    def __init__(self, loaded: Loaded) -> None:
        self.loaded = loaded
        self.charged_bytes = DECOMPRESSOR_BYTES
        self.zstd: zstandard.ZstdDecompressor | None = (
            zstandard.ZstdDecompressor()
            if loaded.data is None
            else zstandard.ZstdDecompressor(dict_data=loaded.data)
        )


class Contexts:
    """Lends contexts; each is given back by the one who took it. Thread-safe."""

    def __init__(
        self,
        budget: Budget,
        *,
        dictionary: Callable[[int], bytes | None],
        dictionaries_max: int = DICTIONARIES_MAX,
    ) -> None:
        self._budget = budget
        self._dictionary = dictionary
        self._dictionaries_max = dictionaries_max
        self._lock = threading.Lock()
        self._none = Loaded(0, None, 0)
        self._loaded: OrderedDict[int, Loaded] = OrderedDict()  # least recently used first
        self._detached: set[Loaded] = set()
        self._lent: set[Compression | Decompression] = set()
        self._scratch_bytes = 0
        self._securing = 0  # threads between a reservation and what it is for
        self._closed = False

    def take_compressor(self, number: int, raw_bytes: int) -> Compression:
        """A compressor for a value of `raw_bytes`, with the dictionary where there is one and room
        for it; `.loaded` says which. Raises BudgetError when not even a bare one fits."""
        if raw_bytes > DICTIONARY_RAW_BYTES_MAX:
            number = 0
        try:
            loaded = self._pin(number)
            if loaded is not None:
                return self._compressor(loaded, raw_bytes)
        except BudgetError:
            pass
        return self._bare_compressor(raw_bytes)

    def take_decompressor(self, number: int) -> Decompression:
        """Raises CorruptionError when there is no such dictionary, BudgetError without room."""
        loaded = self._pin(number)
        if loaded is None:
            raise CorruptionError(f"dictionary {number} is missing")
        with self._lock:
            if loaded.decompressors:
                context = loaded.decompressors.pop()
                self._lent.add(context)
                return context
        with self._unpinned_on_error(loaded), self._secured(DECOMPRESSOR_BYTES):
            context = Decompression(loaded)
            self._lent.add(context)
            return context

    def give(self, context: Compression | Decompression) -> None:
        """Take a context back: keep it for the next caller, or free it."""
        loaded = context.loaded
        with self._lock:
            self._lent.discard(context)
            keep = not (self._closed or loaded.detached)
            if isinstance(context, Decompression):
                if keep and len(loaded.decompressors) < DECOMPRESSORS_MAX:
                    loaded.decompressors.append(context)
                else:
                    self._free(context)
            elif keep and context.kept and len(loaded.compressors) < COMPRESSORS_MAX:
                loaded.compressors.append(context)
            else:
                self._free(context)
            self._unpin(loaded)

    def reserve_scratch(self, size_bytes: int) -> None:
        """Charge bytes that live for one call, evicting idle contexts for them."""
        with self._secured(size_bytes):
            self._scratch_bytes += size_bytes

    def release_scratch(self, size_bytes: int) -> None:
        with self._lock:
            self._scratch_bytes -= size_bytes
            self._budget.release(OWNER, size_bytes)

    def drop(self, number: int) -> None:
        """Forget a dictionary; its memory goes with the last call that is using it."""
        with self._lock:
            loaded = self._loaded.pop(number, None)
            if loaded is not None:
                self._detach(loaded)

    def trim(self) -> int:
        """Free every idle context and every dictionary not in use: the bytes that came free."""
        with self._lock:
            before = self._charged_bytes()
            while self._evict_one():
                pass
            return before - self._charged_bytes()

    def idle_bytes(self) -> int:
        """What `trim` would free, to a dictionary in use."""
        with self._lock:
            lent = sum(context.charged_bytes for context in self._lent)
            return self._charged_bytes() - lent - self._scratch_bytes

    def close(self) -> None:
        """Free everything; what is lent is freed when it is given back."""
        with self._lock:
            self._closed = True
            while self._evict_one():
                pass
            while self._loaded:
                self._detach(self._loaded.popitem()[1])

    def check(self) -> None:
        """Assert the invariant."""
        with self._lock:
            held = self._budget.owners().get(OWNER, 0)
            assert held == self._charged_bytes() or self._securing > 0
            assert len(self._loaded) <= self._dictionaries_max
            assert all(loaded.users > 0 for loaded in self._detached)
            users = sum(loaded.users for loaded in (*self._all(), *self._detached))
            assert users >= len(self._lent)
            for loaded in self._all():
                assert len(loaded.compressors) <= COMPRESSORS_MAX
                assert len(loaded.decompressors) <= DECOMPRESSORS_MAX
                idle: list[Compression | Decompression] = [
                    *loaded.compressors,
                    *loaded.decompressors,
                ]
                for context in idle:
                    assert context.zstd is not None
                    assert context.zstd.memory_size() <= context.charged_bytes

    # -- the lock is taken where it is needed ------------------------------------------------------

    def _pin(self, number: int) -> Loaded | None:
        """The dictionary with one more user, loaded if need be; None when there is none."""
        with self._lock:
            self._alive()
            found = self._none if number == 0 else self._loaded.get(number)
            if found is not None:
                if number != 0:
                    self._loaded.move_to_end(number)
                found.users += 1
                return found
        # Without the lock: this reads the home, and the home may be reading through us.
        body = self._dictionary(number)
        if body is None:
            return None
        charge = len(body) + _DDICT_BYTES
        with self._secured(charge):
            found = self._loaded.get(number)
            if found is not None:  # another thread was faster
                self._budget.release(OWNER, charge)
            else:
                found = self._loaded[number] = Loaded(number, body, charge)
            found.users += 1
            while len(self._loaded) > self._dictionaries_max:
                self._detach(self._loaded.popitem(last=False)[1])
            return found

    def _compressor(self, loaded: Loaded, raw_bytes: int) -> Compression:
        """With a dictionary that is pinned: pooled, or for one use where the value is large."""
        pooled = raw_bytes <= POOLED_RAW_BYTES
        charge = compressor_bytes(
            _capacity(raw_bytes, _POOLED_RAW_BYTES_MIN if pooled else 1), loaded.hash_log
        )
        with self._lock:
            if pooled and loaded.compressors:
                context = loaded.compressors.pop()
                if context.charged_bytes >= charge:
                    self._lent.add(context)
                    return context
                self._free(context)  # a larger one takes its place
            tables = 0 if loaded.precomputed else _CDICT_BYTES + loaded.table_bytes()
        with self._unpinned_on_error(loaded), self._secured(charge + tables):
            context = Compression(loaded, charge, kept=pooled)
            if loaded.precomputed:
                self._budget.release(OWNER, tables)  # 0, or another thread was faster
            else:
                loaded.precomputed = True
                loaded.charged_bytes += tables
            self._lent.add(context)
            return context

    def _bare_compressor(self, raw_bytes: int) -> Compression:
        """Without a dictionary, no larger than this value needs, and for one use."""
        charge = compressor_bytes(_capacity(raw_bytes, 1), 0)
        with self._secured(charge):
            context = Compression(self._none, charge, kept=False)
            self._none.users += 1
            self._lent.add(context)
            return context

    @contextmanager
    def _secured(self, size_bytes: int) -> Iterator[None]:
        """Reserve, then hold the lock; what is made in it is charged for, or nothing is."""
        with self._lock:
            self._securing += 1
        try:
            self._reserve(size_bytes)
            try:
                with self._lock:
                    self._alive()
                    yield
            except BaseException:
                self._budget.release(OWNER, size_bytes)
                raise
        finally:
            with self._lock:
                self._securing -= 1

    def _reserve(self, size_bytes: int) -> None:
        """Reserve; if others can make no room for it, then by evicting what is idle here."""
        try:
            # Without the lock: the budget may ask others to make room, who may be encoding.
            self._budget.reserve(OWNER, size_bytes)
        except BudgetError:
            with self._lock:
                while not self._budget.try_reserve(OWNER, size_bytes):
                    if not self._evict_one():
                        raise

    @contextmanager
    def _unpinned_on_error(self, loaded: Loaded) -> Iterator[None]:
        try:
            yield
        except BaseException as error:
            with self._lock:
                self._unpin(loaded)
            if isinstance(error, zstandard.ZstdError):
                raise CorruptionError(f"dictionary {loaded.number} is damaged: {error}") from error
            raise

    # -- below, the lock is held -------------------------------------------------------------------

    def _unpin(self, loaded: Loaded) -> None:
        loaded.users -= 1
        if loaded.detached and loaded.users == 0:
            self._detached.discard(loaded)
            self._free_dictionary(loaded)

    def _evict_one(self) -> bool:
        """Free one idle context or unused dictionary, of the one used longest ago."""
        for loaded in self._all():
            if loaded.compressors:
                self._free(loaded.compressors.pop())
                return True
            if loaded.decompressors:
                self._free(loaded.decompressors.pop())
                return True
            if loaded.users == 0 and loaded is not self._none:
                del self._loaded[loaded.number]
                self._detach(loaded)
                return True
        return False

    def _detach(self, loaded: Loaded) -> None:
        loaded.detached = True
        while loaded.compressors:
            self._free(loaded.compressors.pop())
        while loaded.decompressors:
            self._free(loaded.decompressors.pop())
        if loaded.users:
            self._detached.add(loaded)
        else:
            self._free_dictionary(loaded)

    def _free(self, context: Compression | Decompression) -> None:
        context.zstd = None  # freed before its bytes are offered to others
        self._budget.release(OWNER, context.charged_bytes)

    def _free_dictionary(self, loaded: Loaded) -> None:
        loaded.data = None
        self._budget.release(OWNER, loaded.charged_bytes)

    def _all(self) -> tuple[Loaded, ...]:
        return (*self._loaded.values(), self._none)

    def _charged_bytes(self) -> int:
        idle = sum(
            sum(context.charged_bytes for context in loaded.compressors)
            + sum(context.charged_bytes for context in loaded.decompressors)
            for loaded in self._all()
        )
        dictionaries = sum(loaded.charged_bytes for loaded in (*self._all(), *self._detached))
        lent = sum(context.charged_bytes for context in self._lent)
        return idle + dictionaries + lent + self._scratch_bytes

    def _alive(self) -> None:
        if self._closed:
            raise StoreClosedError("the codecs were closed")


DECOMPRESSOR_BYTES: Final = zstandard.estimate_decompression_context_size()
"""Also after a large value: a frame that says its length is decoded in one pass, windowless."""


def level_parameters(*, hash_log: int, window_log: int) -> zstandard.ZstdCompressionParameters:
    """Level 3 with its two tables at a chosen size."""
    return zstandard.ZstdCompressionParameters.from_level(
        LEVEL,
        window_log=window_log,
        hash_log=hash_log,
        chain_log=hash_log - 1,
        write_dict_id=False,
        write_checksum=False,
    )


def table_bytes(parameters: zstandard.ZstdCompressionParameters) -> int:
    return (4 << parameters.hash_log) + (4 << parameters.chain_log)


@functools.lru_cache(maxsize=256)
def compressor_bytes(capacity_bytes: int, hash_log: int) -> int:
    """What a level-3 compressor occupies at most for values up to `capacity_bytes`, with a
    dictionary whose tables have `hash_log` (0: without one)."""
    plain = zstandard.ZstdCompressionParameters.from_level(LEVEL, source_size=capacity_bytes)
    largest = zstandard.ZstdCompressionParameters.from_level(
        LEVEL,
        window_log=plain.window_log,
        hash_log=max(plain.hash_log, hash_log),
        chain_log=max(plain.chain_log, hash_log - 1),
    )
    return buffered_bytes(largest, capacity_bytes)


def buffered_bytes(parameters: zstandard.ZstdCompressionParameters, raw_bytes: int) -> int:
    """zstd's estimate plus the window and the blocks that the binding's calls buffer."""
    window = min(1 << parameters.window_log, max(raw_bytes, 1 << 10))
    blocks = 2 * min(1 << parameters.window_log, _BLOCK_BYTES)
    return parameters.estimated_compression_context_size() + window + blocks + 1024


def _capacity(raw_bytes: int, least: int) -> int:
    return 1 << max(raw_bytes - 1, least - 1, 1023).bit_length()
