"""Puts the parts of recall together: the half of wiring.py that is about memories."""

from collections.abc import Callable

from memopt.base.budget import Budget
from memopt.base.config import Config
from memopt.base.protocols import Clock, CollectionOwners, Compressor, Reader
from memopt.journal.commit import GroupCommitter
from memopt.parts import RecallParts
from memopt.recall.items import Items
from memopt.recall.listing import Listing


def wire_recall(
    home: Reader, committer: GroupCommitter, owners: CollectionOwners, compressor: Compressor,
    config: Config, clock: Clock, budget: Budget, admit: Callable[[int], None],
) -> RecallParts:  # fmt: skip
    items = Items(committer, owners, compressor, bytes_max=config.item_bytes_max, admit=admit)
    return RecallParts(items=items, listing=Listing(home, compressor, budget, clock))
