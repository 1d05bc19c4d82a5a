"""The shape of stored collections: what Python's own mappings and sequences do, and `put`.

Here for those who hand them out without knowing how they are stored (sessions) and for annotations.
"""

import abc
from collections.abc import MutableMapping, MutableSequence
from typing import Any

from memopt.base.records import Stored

Key = str | int | bytes


class StoredMapping(MutableMapping[Key, Any]):
    """A dict that lives in the store. Keys are str, int or bytes; values are JSON, bytes, numpy
    arrays or scipy sparse matrices. What is read is fresh: changing it changes nothing stored."""

    @abc.abstractmethod
    def put(self, key: Key, value: Any, *, encoding: str | None = None) -> Stored:
        """Set a key, saying how."""


class StoredSequence(MutableSequence[Any]):
    """A list that lives in the store, of the same values."""
