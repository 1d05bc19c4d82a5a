"""Puts the answer cache together: the half of wiring.py that is about answers."""

from collections.abc import Callable
from typing import NamedTuple

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
from memopt.base.item_records import FOREVER, item_number
from memopt.base.moments import NOW
from memopt.base.protocols import Clock, CollectionOwners, Compressor, Reader, Tables
from memopt.base.recall_protocols import Embedder, PieceEmbedder
from memopt.directory import Directory
from memopt.journal.commit import GroupCommitter
from memopt.recall.places import ColdPages, PlaceReader, place_in
from memopt.recall.standing import standing, statement_of
from memopt.sessions.branches import is_redacted
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
    return Kept(residents, rows, Keeper(directory.home, committer, compressor, rows, budget))


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
        embedder=embedder, make_lexicon=make_lexicon,
        sources=UsedItems(directory.home, compressor, budget), takings=kept.keeper.takings,
        residents=kept.residents, rows=kept.rows,
    )  # fmt: skip
    return AnswerEngine(parts, kept.keeper)


class UsedItems:
    """What answers are made of: memories, pieces of documents, messages."""

    def __init__(self, home: Reader, compressor: Compressor, budget: Budget) -> None:
        self._places = PlaceReader(home, ColdPages(home, compressor, budget))

    def place_of(self, use: str) -> tuple[int, int, int]:
        number = item_number(use)
        if number is not None:
            return Use.ITEM, number, 0
        place = place_in(use)
        if place is None:
            raise UsageError(f"expected the id of an item, got {use!r}", field="uses")
        return Use.LINE, place[1].line, place[1].seq

    def is_said(self, use: str) -> bool:
        found = None if item_number(use) is not None else place_in(use)
        if found is None:
            return True
        scope, place = found
        read = list(self._places.read(scope, [place]))
        return bool(read) and not is_redacted(read[0].message)

    def until(self, tables: Tables, kind: int, source: int, at_us: int) -> int | None:
        if kind != Use.ITEM:
            return None if tables.lines.get(source) is None else FOREVER
        row = tables.items.get(source)
        if row is None:
            return None
        rows = [row]
        if row.topic and not row.document:
            rows = tables.item_topics.of_topic(row.scope_number, row.topic, source - 1)
        marks = tables.item_marks
        said = [statement_of(one, marks.of_item(one.item), NOW) for one in rows]
        span = standing(said)[0].span
        return None if span.is_empty or span.stop <= at_us else span.stop
