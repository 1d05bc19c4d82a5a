"""Looking an answer up: an equal request first, then the nearest question, then a second look.

A lookup goes from what is cheap to what is sure. The key of the request finds an equal one. Else
the vectors of the scope find the nearest questions asked in the same context; the neighbourhood, or
a pair of questions, gives a score (matching.py); and what must agree is compared in the words of
both (verification.py). Only a score at the threshold of the answer's category (categories.py) with
every check passed is served, and it says so.

Owns: that order. Invariant: what is served was stored in the same scope, is whole, has not expired,
and was not taken away when the lookup began. Not here: what is stored (storing.py), single flight
(flights.py).
"""

from collections.abc import Collection
from typing import Any, Final, NamedTuple

from memopt.answers.bodies import Body, open_body
from memopt.answers.categories import Kinds, kinds_of
from memopt.answers.comparing import Comparer, LazyComparer
from memopt.answers.entry import number_of
from memopt.answers.features import Question
from memopt.answers.hits import id_of
from memopt.answers.matching import (
    SAME_ANSWERS_MIN,
    Chosen,
    chosen_of,
    hope_of,
    neighbour_features,
    neighbour_logit,
)
from memopt.answers.nearest import NEIGHBOURS, Neighbours
from memopt.answers.parts import AnswerParts
from memopt.answers.replay import joined, split
from memopt.answers.request import QUESTION_CHARACTERS_MAX, Asked, read_request
from memopt.answers.residents import Resident
from memopt.answers.verification import compared, same_times, same_words
from memopt.base.answer_records import (
    Answer,
    AnswerContext,
    AnswerRow,
    Check,
    Match,
    Miss,
    MissReason,
)
from memopt.base.errors import BudgetError, CorruptionError, MemoptError, StoreVersionError
from memopt.base.events import AnswerMissed, AnswerServed
from memopt.base.records import to_datetime

SERVED_MAX: Final = 4096
_SAME_COSINE: Final = 0.98
"""Below it, two questions are not of the same words."""
_ALIKE_COSINE: Final = 0.5
"""Below it, two questions are not looked at as a pair."""
_LOOKED_AT: Final = 2
"""Stored questions that are read at most: the one the neighbours speak for, and the nearest."""


class _Asking(NamedTuple):
    """A question that is being looked up."""

    asked: Asked
    question: str
    vector: Any
    """The embedder's."""
    now_us: int


class _Found(NamedTuple):
    """A stored answer that was looked at."""

    row: AnswerRow
    body: Body
    match: Match
    distance: float
    score: float
    threshold: float
    checks: tuple[Check, ...]

    @property
    def passes(self) -> bool:
        return all(check.passed for check in self.checks)

    @property
    def serves(self) -> bool:
        return self.passes and self.score >= self.threshold


class AnswerCache:
    """Thread-safe."""

    def __init__(self, parts: AnswerParts, comparer: LazyComparer, served: set[int]) -> None:
        """`served`: takes up the answers that are served, as many as SERVED_MAX."""
        self._parts = parts
        self._comparer = comparer
        self._served = served

    # -- looking ----------------------------------------------------------------------------------

    def asked(self, request: Any) -> Asked:
        """Raises UsageError."""
        config = self._parts.config
        return read_request(
            request, bytes_max=config.message_bytes_max, depth_max=config.message_depth_max
        )

    def lookup(self, asked: Asked, scope: str, allowed: Collection[MissReason]) -> Answer | Miss:
        started = self._parts.clock.monotonic()
        try:
            found = self._lookup(asked, scope, allowed)
        except (CorruptionError, StoreVersionError) as error:
            found = Miss(reason=MissReason.DAMAGED, detail=str(error))
        seconds = self._parts.clock.monotonic() - started
        if isinstance(found, Answer):
            self._parts.events.emit(AnswerServed(found.match, seconds))
        else:
            self._parts.events.emit(AnswerMissed(found.reason, seconds))
        return found

    def _lookup(self, asked: Asked, scope: str, allowed: Collection[MissReason]) -> Answer | Miss:
        for refusal in asked.refusals:
            if refusal not in allowed:
                return Miss(reason=refusal)
        now_us = self._parts.clock.now_us()
        with self._parts.home.snapshot() as tables:
            number = tables.scopes.number(scope)
            if number is None:
                return Miss(reason=MissReason.EMPTY, detail="there is no such scope")
            row = tables.answers.find(number, asked.context, asked.key)
            category = tables.answer_categories.get(row.category) if row is not None else None
        if row is not None and category is not None:
            kinds = Kinds([category], self._parts.config.answer_wrong_share)
            is_then = same_times(
                asked.question or "", to_datetime(row.made_us), to_datetime(now_us)
            )
            if is_then and not self._has_expired(row, kinds, now_us):
                body = open_body(self._parts.compressor, row)
                exact = _Found(row, body, Match.EXACT, 0.0, 1.0, 0.0, ())
                return self._answer(exact, asked, kinds, now_us)
        found = self._near(asked, number, now_us)
        if row is not None and isinstance(found, Miss):
            detail = "the same request was answered before, and its answer was of that time"
            return Miss(reason=MissReason.EXPIRED, detail=detail)
        return found

    def _near(self, asked: Asked, number: int, now_us: int) -> Answer | Miss:
        question = asked.question
        if question is None:
            return Miss(reason=MissReason.QUESTION, detail="the last message is no text of a user")
        if len(question) > QUESTION_CHARACTERS_MAX:
            detail = f"{len(question)} characters, up to {QUESTION_CHARACTERS_MAX} are compared"
            return Miss(reason=MissReason.QUESTION, detail=detail)
        try:
            comparer = self._comparer.get()
            if comparer is None:
                detail = "the store has none, or its budget is too small for it"
                return Miss(reason=MissReason.EMBEDDER, detail=detail)
            try:
                vector = comparer.vector(question)
            except MemoptError as error:
                return Miss(reason=MissReason.EMBEDDER, detail=str(error))
            if vector is None:
                detail = "it has no words that could be compared"
                return Miss(reason=MissReason.QUESTION, detail=detail)
            resident, kinds = self._resident(number, comparer)
        except BudgetError as error:
            return Miss(reason=MissReason.ROOM, detail=error.reason)
        if resident is None:
            return Miss(reason=MissReason.EMPTY)
        any_context = self._parts.config.answer_context is AnswerContext.ANY
        context = None if any_context else number_of(asked.context)
        near = resident.questions.nearest(vector, context, now_us)
        if near.answers and not comparer.is_lexicon:
            near = self._by_lexicon(near, question, comparer)
        if not near.answers:
            return Miss(reason=MissReason.CONTEXT if len(resident.questions) else MissReason.EMPTY)
        return self._judge(_Asking(asked, question, vector, now_us), near, kinds, comparer)

    def _resident(self, number: int, comparer: Comparer) -> tuple[Resident | None, Kinds]:
        """A scope's questions and categories; None where it has no answers. Raises BudgetError."""
        parts = self._parts
        resident = parts.residents.get(number, comparer.space)
        if resident is not None and (known := resident.kinds) is not None:
            return resident, known
        version = None if resident is None else resident.version
        with parts.home.snapshot() as tables:
            kinds = kinds_of(tables, number, parts.config.answer_wrong_share)
        if not kinds.answers:
            return None, kinds
        resident = parts.residents.find(
            number, kinds.answers, comparer.space, lambda: comparer.planes
        )
        if resident.version == version:
            resident.kinds = kinds
        return resident, kinds

    def _by_lexicon(self, near: Neighbours, question: str, comparer: Comparer) -> Neighbours:
        """The same questions by the cosines that the models know."""
        texts, kept = [], []
        for place, answer in enumerate(near.answers):
            with self._parts.home.snapshot() as tables:
                row = tables.answers.get(answer)
            if row is not None:
                texts.append(open_body(self._parts.compressor, row).question or "")
                kept.append(place)
        vectors = comparer.lexicon_vectors([question, *texts])
        return near.reordered(kept, vectors[1:] @ vectors[0])

    def _judge(
        self, asking: "_Asking", neighbours: Neighbours, kinds: Kinds, comparer: Comparer
    ) -> Answer | Miss:
        """The first of those worth reading that may be served; else why the best one may not."""
        matcher, asked, now_us = comparer.matcher, asking.asked, asking.now_us
        cosines = neighbours.cosines.tolist()
        chosen = chosen_of(cosines, neighbours.responses.tolist(), NEIGHBOURS)
        hope = 0.0
        if chosen.holders >= SAME_ANSWERS_MIN:
            hope = matcher.neighbour_scores.of(hope_of(matcher.neighbours, chosen))
        places = [chosen.place] if hope >= kinds.least else []
        # A pair alone has to be of the same words, unless its best score would do.
        alone = _ALIKE_COSINE if matcher.pair_scores.most >= kinds.least else _SAME_COSINE
        places += [place for place in (0, chosen.place) if cosines[place] >= alone]
        best: _Found | None = None
        mine = None
        for place in list(dict.fromkeys(places))[:_LOOKED_AT]:
            if mine is None:
                mine = comparer.read(asking.question, asking.vector, now_us)
            found = self._look(neighbours, place, chosen, mine, kinds, comparer, now_us)
            if found is not None and found.serves:
                return self._answer(found, asked, kinds, now_us)
            if found is not None and (best is None or found.score > best.score):
                best = found
        if best is None:
            return Miss(
                reason=MissReason.FAR, distance=1.0 - cosines[0], score=min(hope, kinds.least),
                threshold=kinds.least,
            )  # fmt: skip
        return Miss(
            reason=MissReason.FAR if best.passes else MissReason.CHECK,
            detail="; ".join(f"{c.name}: {c.detail}" for c in best.checks if not c.passed),
            question=best.body.question, distance=best.distance, score=best.score,
            threshold=best.threshold, checks=best.checks,
        )  # fmt: skip

    def _look(
        self, neighbours: Neighbours, place: int, chosen: Chosen, mine: Question, kinds: Kinds,
        comparer: Comparer, now_us: int,
    ) -> _Found | None:  # fmt: skip
        """A neighbour, read and compared; None where it is gone, or its category is new."""
        with self._parts.home.snapshot() as tables:
            row = tables.answers.get(neighbours.answers[place])
        if row is None or row.category not in kinds.rows:
            return None
        if self._has_expired(row, kinds, now_us):
            return None
        body = open_body(self._parts.compressor, row)
        theirs = comparer.stored(body.question or "", row.made_us)
        cosine = float(neighbours.cosines[place])
        checks = compared(mine.traits, theirs.traits)
        threshold = kinds.thresholds[row.category]
        if same_words(mine.traits, theirs.traits):
            score, match = 1.0, Match.WORDS
        else:
            matcher = comparer.matcher
            pair = comparer.pair(mine, theirs)
            alike = matcher.alike(pair)
            score, match = matcher.pair_scores.of(alike), Match.QUESTION
            if place == chosen.place and chosen.holders >= SAME_ANSWERS_MIN:
                features = neighbour_features(chosen, alike, pair)
                logit = neighbour_logit(matcher.neighbours, features)
                if (shared := matcher.neighbour_scores.of(logit)) > score:
                    score, match = shared, Match.NEIGHBOURS
        distance = max(0.0, 1.0 - cosine)
        return _Found(row, body, match, distance, score, threshold, checks)

    def _has_expired(self, row: AnswerRow, kinds: Kinds, now_us: int) -> bool:
        if row.expires_us is not None and row.expires_us <= now_us:
            return True
        # A shorter life may have been set since.
        ttl = kinds.settings(row.category).ttl_seconds
        return ttl is not None and row.made_us + int(ttl * 1e6) <= now_us

    def _answer(self, found: _Found, asked: Asked, kinds: Kinds, now_us: int) -> Answer | Miss:
        row, body = found.row, found.body
        response, chunks = None, None
        if asked.wants_stream:
            chunks = body.response if body.is_stream else split(body.response)
        else:
            response = joined(body.response) if body.is_stream else body.response
        if (chunks if asked.wants_stream else response) is None:
            was, wanted = ("a stream", "whole") if body.is_stream else ("whole", "as a stream")
            return Miss(
                reason=MissReason.FORM, detail=f"it was stored {was} and is wanted {wanted}",
                question=body.question, distance=found.distance, score=found.score,
                threshold=found.threshold, checks=found.checks,
            )  # fmt: skip
        if len(self._served) >= SERVED_MAX:
            self._served.clear()
        self._served.add(row.answer)
        stale = kinds.settings(row.category).stale_seconds
        return Answer(
            answer_id=id_of(row.answer, row.category, found.match, found.score),
            response=response, chunks=tuple(chunks or ()), match=found.match,
            question=body.question or "", distance=found.distance, score=found.score,
            threshold=found.threshold, checks=found.checks, category=kinds.rows[row.category].name,
            at=to_datetime(row.made_us),
            expires_at=None if row.expires_us is None else to_datetime(row.expires_us),
            is_stale=stale is not None and row.made_us + int(stale * 1e6) <= now_us,
            model=row.model, uses=body.uses, tags=body.tags,
        )  # fmt: skip
