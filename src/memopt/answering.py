"""The verbs of the answer cache: `memory.answers`.

Not here: how an answer is found, stored or taken away (answers/).
"""

from collections.abc import Callable, Iterable
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from memopt.answers.engine import AnswerEngine
from memopt.base.answer_records import Answer, Cached, Category, Made, Miss, MissReason, Verdict
from memopt.parts import Parts

T = TypeVar("T")


class Answers:
    """Answers of models, stored to be given again. Thread-safe.

    A request is a dict as a model is asked with (Chat Completions, Responses, Messages), or the
    text of a question. Nothing crosses a scope. What asks for tools, several answers, images,
    log-probabilities or a temperature above 0 is not cached, unless `allow` names it.
    """

    def __init__(self, memory: "Answering") -> None:
        self._memory = memory

    def _asked(self) -> AnswerEngine:
        self._memory._ready()
        return self._memory._parts.answers

    def _told(self) -> AnswerEngine:
        self._memory._writable()
        return self._memory._parts.answers

    def lookup(
        self, request: Any, *, scope: str, allow: Iterable[MissReason | str] = ()
    ) -> Answer | Miss:
        """The answer to an equal request, or to a question that means the same after the same
        context; or why there is none. A Miss is false where a truth value is asked for."""
        return self._asked().lookup(request, scope, allow)

    def store(
        self, request: Any, response: Any, *, scope: str, category: str | None = None,
        uses: Iterable[str] = (), tags: Iterable[str] = (),
        allow: Iterable[MissReason | str] = (),
    ) -> Cached | Miss:  # fmt: skip
        """Keep a response; of a stream, the list of its chunks. An answer to an equal request is
        replaced. `uses` names the items it was made of, by their ids: it goes when one of them is
        changed or forgotten. A Miss says why it was not kept."""
        return self._told().store(request, response, scope, category, uses, tags, allow)

    def through(
        self, request: Any, make: Callable[[], Any], *, scope: str, category: str | None = None,
        uses: Iterable[str] = (), tags: Iterable[str] = (),
        allow: Iterable[MissReason | str] = (), wait_seconds: float | None = None,
    ) -> Answer | Made:  # fmt: skip
        """The answer, or what `make()` returns, which is stored. Of equal calls at the same time
        one calls `make`, and the others wait for it, up to `wait_seconds`."""
        return self._told().through(request, make, scope, category, uses, tags, allow, wait_seconds)

    def feedback(self, answer_id: str, verdict: Verdict | str) -> Category:
        """What became of a hit: right, wrong or stale. Verdicts raise the threshold of the answer's
        category; a wrong answer is not given to that question's like again, a stale one is taken
        away. The category, as it is then."""
        return self._told().feedback(answer_id, verdict)

    def set_category(
        self, name: str, *, scope: str, wrong_share: float | None = None,
        threshold: float | None = None, ttl_seconds: float | None = None,
        stale_seconds: float | None = None, answers_max: int | None = None,
    ) -> Category:  # fmt: skip
        """Settings of a kind of questions; None is as the store is configured. Of the answers
        served, at most `wrong_share` may be wrong, and none has a score below `threshold`. Answers
        are served for `ttl_seconds`, and said to be stale after `stale_seconds`."""
        return self._told().set_category(
            name, scope, wrong_share=wrong_share, threshold=threshold, ttl_seconds=ttl_seconds,
            stale_seconds=stale_seconds, answers_max=answers_max,
        )  # fmt: skip

    def categories(self, *, scope: str) -> list[Category]:
        """The kinds of questions of a scope, by name."""
        return self._asked().categories(scope)

    def invalidate(
        self, *, scope: str, uses: Iterable[str] = (), tags: Iterable[str] = (),
        model: str | None = None, category: str | None = None, before: datetime | None = None,
    ) -> int:  # fmt: skip
        """Take away the answers that use any of these items or have any of these tags, and are of
        that model and category, and from before that time; how many. Something must be said."""
        answers = self._told()
        return self._memory._with_room(
            lambda: answers.invalidate(scope, uses, tags, model, category, before)
        )


class Answering:
    """What a Memory has of it."""

    _parts: Parts

    if TYPE_CHECKING:

        def _ready(self) -> None: ...
        def _writable(self) -> None: ...
        def _with_room(self, action: Callable[[], T]) -> T: ...

    @property
    def answers(self) -> Answers:
        """The answer cache."""
        return Answers(self)
