"""Puts the answer cache together: the half of wiring.py that is about answers."""

from collections.abc import Callable
from typing import Any, NamedTuple

from memopt.answers.engine import AnswerEngine
from memopt.answers.keeper import Keeper
from memopt.answers.parts import AnswerParts
from memopt.answers.residents import ResidentQuestions
from memopt.answers.rows import AnswerRows
from memopt.base.answer_records import Use
from memopt.base.budget import Budget
from memopt.base.config import Config
from memopt.base.errors import UsageError
from memopt.base.events import Events
from memopt.base.item_records import item_number
from memopt.base.protocols import Clock, CollectionOwners, Compressor
from memopt.base.recall_protocols import Embedder, Indexer, PieceEmbedder
from memopt.directory import Directory
from memopt.journal.commit import GroupCommitter
from memopt.recall.places import place_in
from memopt.upkeep import Upkeep


class Kept(NamedTuple):
    """What has to know of answers before there is anybody who could ask for one."""

    residents: ResidentQuestions
    rows: AnswerRows
    keeper: Keeper


def wire_kept(
    directory: Directory, committer: GroupCommitter, compressor: Compressor, upkeep: Upkeep,
    budget: Budget,
) -> Kept:  # fmt: skip
    residents = ResidentQuestions(directory.home, budget)
    rows = AnswerRows(residents)
    upkeep.ask_also(residents.make_free)
    upkeep.shrink_also(residents.limit, lambda: residents.freed_bytes)
    return Kept(residents, rows, Keeper(directory.home, committer, compressor, rows))


def wire_answers(
    directory: Directory, committer: GroupCommitter, owners: CollectionOwners,
    compressor: Compressor, config: Config, clock: Clock, budget: Budget, events: Events,
    admit: Callable[[int], None], embedder: Callable[[], Embedder | None], kept: Kept,
) -> AnswerEngine:  # fmt: skip
    def make_lexicon() -> PieceEmbedder:
        from memopt.embedding.static import StaticEmbedder

        return StaticEmbedder()

    parts = AnswerParts(
        home=directory.home, committer=committer, owners=owners, compressor=compressor,
        budget=budget, config=config, clock=clock, events=events, admit=admit,
        embedder=embedder, make_lexicon=make_lexicon, place_of=place_of,
        residents=kept.residents, rows=kept.rows,
    )  # fmt: skip
    return AnswerEngine(parts, kept.keeper)


def place_of(item_id: str) -> tuple[int, int, int]:
    """How an answer hangs on an item: (kind, source, seq). Raises UsageError for what is no id."""
    number = item_number(item_id)
    if number is not None:
        return Use.ITEM, number, 0
    place = place_in(item_id)
    if place is None:
        raise UsageError(f"expected the id of an item, got {item_id!r}", field="uses")
    return Use.LINE, place[1].line, place[1].seq


class TakenFromAnswersToo:
    """An Indexer: what is taken from the index of recall is taken from the answers that used it."""

    def __init__(self, indexer: Indexer, keeper: Keeper) -> None:
        self._indexer = indexer
        self._keeper = keeper
        self.prepare = indexer.prepare
        self.write = indexer.write
        self.appended = indexer.appended
        self.changed = indexer.changed

    def taken(self, transaction: Any, scope_number: int, line: int, seq: int | None) -> None:
        self._indexer.taken(transaction, scope_number, line, seq)
        self._keeper.taken(transaction, scope_number, line, seq)
