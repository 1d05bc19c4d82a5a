"""Entries of system prompts, which thousands of sessions begin with: made once.

Of agents' transcripts, system prompts are nearly half the text and few are different. Invariant: an
entry from here is the one that would be made, whatever was remembered before. Not here: making one
(entries.py), and paying for what may be remembered (indexing.py).
"""

import collections
import dataclasses
import hashlib
import threading
from collections.abc import Callable, Sequence
from typing import Final

import numpy as np

from memopt.recall.entries import Draft, Entries, Role

SIZE_BYTES_MAX: Final = 128 * 1024
"""Of all that are remembered, however large the budget."""
_DIGEST_BYTES: Final = 16

Make = Callable[[Sequence[Draft]], Entries]


class Prompts:
    """Those met lately, by a digest of their text. Thread-safe."""

    def __init__(self, size_bytes_max: int = SIZE_BYTES_MAX) -> None:
        self._size_bytes_max = size_bytes_max
        self._lock = threading.Lock()
        self._known: collections.OrderedDict[bytes, Entries] = collections.OrderedDict()
        self._size_bytes = 0

    def entries(self, drafts: Sequence[Draft], make: Make, space: str) -> Entries:
        """What `make` gives for these drafts, whose vectors are of `space`."""
        prompts = [n for n, draft in enumerate(drafts) if draft.role == Role.SYSTEM]
        if not prompts:
            return make(drafts)
        others = [n for n, draft in enumerate(drafts) if draft.role != Role.SYSTEM]
        parts = [self._one(drafts[n], make, space) for n in prompts]
        if others:
            parts.append(make([drafts[n] for n in others]))
        if any(part.space != space for part in parts):
            # An embedder that fails now and then: all are made alike.
            return make(drafts)
        whole = Entries.concat(parts) if len(parts) > 1 else parts[0]
        places = prompts + others
        in_order = places == list(range(len(drafts)))
        return whole if in_order else whole.take(np.argsort(places))

    def _one(self, draft: Draft, make: Make, space: str) -> Entries:
        key = hashlib.blake2b(
            draft.text.encode("utf-8", "surrogatepass"), digest_size=_DIGEST_BYTES
        ).digest()
        with self._lock:
            found = self._known.get(key)
            if found is not None:
                self._known.move_to_end(key)
        if found is None or found.space != space:
            found = make([dataclasses.replace(draft, speaker=None)])
            self._remember(key, found)
        return found.placed(draft)

    def _remember(self, key: bytes, made: Entries) -> None:
        size = made.charged_bytes
        if size > self._size_bytes_max // 4:
            return
        with self._lock:
            old = self._known.pop(key, None)
            self._known[key] = made
            self._size_bytes += size - (old.charged_bytes if old is not None else 0)
            while self._size_bytes > self._size_bytes_max:
                _, oldest = self._known.popitem(last=False)
                self._size_bytes -= oldest.charged_bytes
