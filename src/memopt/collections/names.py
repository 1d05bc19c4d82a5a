"""Names of entries in RAM: a collection's number with the key, or of a sequence with the place."""

from memopt.base.records import PLACE_BITS, Lifetime
from memopt.stores.entry_tables import FIRST_OF_SCRATCH

Name = bytes | int


def name_of_key(collection: int, key: bytes) -> bytes:
    return collection.to_bytes(8, "big") + key


def name_of_place(collection: int, place: int) -> int:
    return collection << PLACE_BITS | place


def collection_of(name: Name) -> int:
    return name >> PLACE_BITS if type(name) is int else int.from_bytes(name[:8], "big")  # type: ignore[index]


def lifetime_of(collection: int) -> Lifetime:
    """Of its entries: the collections of turns are in the scratch file."""
    ephemeral = collection >= FIRST_OF_SCRATCH
    return Lifetime.EPHEMERAL if ephemeral else Lifetime.PERSISTENT
