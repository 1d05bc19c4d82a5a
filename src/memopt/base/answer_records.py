"""The values of the answer cache: what a home stores of it, and what callers get.

As in records.py: rows are NamedTuples, what a caller receives is a frozen msgspec Struct that also
travels over the owner's socket.
"""

import enum
from datetime import datetime
from typing import Any, NamedTuple

import msgspec

# -- rows: what a home stores ---------------------------------------------------------------------


class History(enum.IntEnum):
    """What a request says before its last question."""

    NONE = 0
    """Parameters alone."""
    SYSTEM = 1
    """Instructions, which others may share."""
    TURNS = 2
    """Turns of a conversation."""


class AnswerRow(NamedTuple):
    """An answer that was stored. Its number is the LSN of that."""

    answer: int
    scope_number: int
    category: int
    context: bytes
    """Digest of the request without its last question..."""
    question: bytes
    """... and of that; together they are the key."""
    model: str | None
    history: int
    made_us: int
    expires_us: int | None
    size_bytes: int
    """What counts against the quota."""
    body: bytes


class CategoryRow(NamedTuple):
    """A kind of questions in a scope, with what was learnt of it."""

    category: int
    """Never used again."""
    scope_number: int
    name: str
    lsn: int
    """Of the last change."""
    answers: int
    size_bytes: int
    """Of its answers together."""
    body: bytes
    """Its settings and the verdicts on its hits."""


class Use(enum.IntEnum):
    """What an answer hangs on."""

    ITEM = 1
    """A stated memory or a piece of a document: its number."""
    LINE = 2
    """A message: its line, and its place there."""
    TAG = 3
    """A digest of scope and tag."""


class UseRow(NamedTuple):
    kind: int
    source: int
    seq: int
    """Of a message; else 0."""
    answer: int


# -- values: what a caller gets -------------------------------------------------------------------


class Match(enum.StrEnum):
    """How an answer was found."""

    EXACT = "exact"
    """The same request, but for what cannot change the answer."""
    WORDS = "words"
    """The same words in the same order, but for case, marks and spaces."""
    QUESTION = "question"
    """A question that means the same."""
    NEIGHBOURS = "neighbours"
    """Several like questions, all with this answer, and no like one with another."""


class AnswerContext(enum.StrEnum):
    """What must be the same before the last question, for it to be compared."""

    EQUAL = "equal"
    """All of it."""
    ANY = "any"
    """Nothing: answers are taken not to depend on it."""


class MissReason(enum.StrEnum):
    """Why there is no answer."""

    TOOLS = "tools"
    """The request offers tools: what they would return is not known."""
    MANY = "many"
    """It asks for several answers."""
    IMAGES = "images"
    """It holds what is not text."""
    LOG_PROBABILITIES = "log_probabilities"
    TEMPERATURE = "temperature"
    """It asks for variety."""
    EMPTY = "empty"
    """Nothing is stored in the scope."""
    CONTEXT = "context"
    """There are answers, but none for a request that is the same before its last question."""
    QUESTION = "question"
    """It does not end in a question that can be compared: no text of a user, or too much."""
    FAR = "far"
    """The nearest question is below the threshold."""
    CHECK = "check"
    """The nearest question differs in what must agree."""
    EXPIRED = "expired"
    EMBEDDER = "embedder"
    """Questions cannot be compared now: only an equal request would be found."""
    FORM = "form"
    """It was stored as a stream and is wanted whole, or the other way round, in a form of which we
    do not know how to make one of the other."""
    ROOM = "room"
    """The budget has no room to compare questions now; only an equal request would be found."""
    USES = "uses"
    """What was to be stored was made of something that is gone, or that changed meanwhile."""
    DAMAGED = "damaged"
    """What is stored failed its checksum: nothing of it is served."""


class Verdict(enum.StrEnum):
    """What became of an answer that was served."""

    RIGHT = "right"
    WRONG = "wrong"
    """It answers another question."""
    STALE = "stale"
    """It was right once; it is taken away."""


class Check(msgspec.Struct, frozen=True, kw_only=True):
    """One thing in which two questions must agree."""

    name: str
    passed: bool
    detail: str = ""
    """What differs."""


class Answer(msgspec.Struct, frozen=True, kw_only=True):
    """An answer from the cache, and why it was served."""

    answer_id: str
    """For feedback about this hit."""
    response: Any
    """As it was stored; None where the request asks for a stream."""
    chunks: tuple[Any, ...]
    """The stream as it was stored, to be sent again; empty where the request asks for no stream."""
    match: Match
    question: str
    """The one it was stored for."""
    distance: float
    """1 minus the cosine of the two questions; 0 where they are equal."""
    score: float
    """The share of right answers among hits of this score or above, as far as it is known."""
    threshold: float
    checks: tuple[Check, ...]
    category: str
    at: datetime
    """When it was stored."""
    expires_at: datetime | None
    is_stale: bool
    """Old enough to be made anew, and not too old to be served."""
    model: str | None = None
    uses: tuple[str, ...] = ()
    tags: tuple[str, ...] = ()

    @property
    def why(self) -> str:
        """A sentence."""
        how = _HOW[self.match].format(question=self.question)
        passed = ", ".join(check.name for check in self.checks)
        agreed = f"; they agree in {passed}" if passed else ""
        return f"{how}: {self.score:.3f}, at least {self.threshold:.3f} was needed{agreed}"


_HOW = {
    Match.EXACT: "the same request was answered before",
    Match.WORDS: "{question!r} was asked before, in the same words",
    Match.QUESTION: "{question!r} was asked before, and means the same",
    Match.NEIGHBOURS: "like questions all had this answer, {question!r} among them",
}


class Miss(msgspec.Struct, frozen=True, kw_only=True):
    """There is no answer, and why. False where a truth value is asked for."""

    reason: MissReason
    detail: str = ""
    question: str | None = None
    """The nearest one that is stored."""
    distance: float | None = None
    score: float | None = None
    threshold: float | None = None
    checks: tuple[Check, ...] = ()

    def __bool__(self) -> bool:
        return False


class Made(msgspec.Struct, frozen=True, kw_only=True):
    """There was no answer, so one was made."""

    response: Any
    """What the call gave; for a stream, the list of its chunks."""
    miss: Miss
    """Why there was none."""
    is_shared: bool
    """An equal call at the same time made it."""
    is_stored: bool = True
    """False where the request is not cached, or a limit was reached."""


class Cached(msgspec.Struct, frozen=True, kw_only=True):
    """An answer was stored."""

    answer_id: str
    lsn: int
    category: str
    size_bytes: int
    evicted: int
    """Answers that had to go for it."""


class Category(msgspec.Struct, frozen=True, kw_only=True):
    """The settings of a kind of questions in a scope, and what was learnt of it."""

    name: str
    wrong_share: float | None = None
    """Of the answers served, at most this share may be wrong; None: as configured."""
    threshold: float | None = None
    """The least score of a hit; None: what `wrong_share` and feedback make of it. Never below."""
    ttl_seconds: float | None = None
    """Older answers are not served; None: as configured."""
    stale_seconds: float | None = None
    """Older answers are served and said to be stale."""
    answers_max: int | None = None
    answers: int = 0
    size_bytes: int = 0
    learnt_threshold: float = 0.0
    """What is asked of a score now."""
    right: int = 0
    wrong: int = 0
    """Verdicts that are remembered."""
