"""Questions of LoCoMo, asked at the end of each dialogue: is their evidence in the window?

A dialogue is one session, its turns are messages at their times. Each question is asked by
`session.context(max_tokens=4_000, query=question)`, and of the turns that hold its evidence the
share counts whose text is in what is sent. Beside it, over the same turns: as many of the best by
BM25 as fit into the same tokens, and the newest ones that fit. Counted by four characters a token.
Not measured: what a model makes of it.
"""

import time
from collections.abc import Sequence
from typing import Any, Final

from memopt.base.errors import UsageError
from memopt.base.records import to_datetime
from memopt.bench.command import BenchOptions, main, progress_bar, scratch
from memopt.bench.data import find
from memopt.bench.measure import LatencyHistogram
from memopt.bench.questions import SETS, Material, locomo
from memopt.bench.recall_memory import message_of
from memopt.recall.entries import Entries
from memopt.recall.index import ScopeIndex
from memopt.text.analysis import Analyser
from memopt.wiring import open_memory

WINDOW: Final = 4_000
_CHARS_A_TOKEN: Final = 4
_ADVERSARIAL: Final = "5"
"""The category of questions whose answer is that there is none."""


class FourthsTokenizer:
    """A token is four characters."""

    name: Final = "fourths"

    def encode(self, text: str) -> Sequence[int]:
        return range(-(-len(text) // _CHARS_A_TOKEN))


def run(options: BenchOptions) -> dict[str, Any]:
    path = options.files[0] if options.files else find(SETS["locomo"])
    if path is None:
        raise UsageError("LoCoMo is not here: name its file", field="files")
    materials = locomo(path)
    if options.quick:
        materials = [one._replace(questions=one.questions[:20]) for one in materials[:2]]
    counts: dict[str, list[float]] = {}
    took = LatencyHistogram()
    with (
        scratch(options) as directory,
        progress_bar("dialogues") as report,
        open_memory(
            directory / "store", budget="256MiB", durability="os", tokenizer=FourthsTokenizer()
        ) as memory,
    ):
        for number, material in enumerate(materials):
            session = memory.session(material.name, scope=f"locomo/{number}")
            for draft in material.drafts:
                session.append(message_of(draft), at=to_datetime(draft.at_us))
            _ask(session, material, counts, took)
            report(number + 1, len(materials))
    questions = sum(len(one.questions) for one in materials)
    return {
        "window": WINDOW,
        "questions": questions,
        "context": _share(counts["all"], 1),
        "bm25": _share(counts["all"], 2),
        "newest": _share(counts["all"], 3),
        "answerable": _share(counts["answerable"], 1),
        "answerable_bm25": _share(counts["answerable"], 2),
        "by_category": {
            name: _share(found, 1) for name, found in sorted(counts.items()) if name.isdigit()
        },
        "tokens_mean": counts["tokens"][0] / questions,
        "milliseconds_p50": took.quantile_us(0.5) / 1e3,
        "milliseconds_p99": took.quantile_us(0.99) / 1e3,
    }


def _ask(
    session: Any, material: Material, counts: dict[str, list[float]], took: LatencyHistogram
) -> None:
    texts = [draft.text for draft in material.drafts]
    entries = Entries.of(material.drafts, embedder=None, analyser=Analyser())
    index, analyser = ScopeIndex.of([entries]), Analyser()
    newest = set(_filled(range(len(texts) - 1, -1, -1), texts))
    for question in material.questions:
        begun_ns = time.perf_counter_ns()
        context = session.context(max_tokens=WINDOW, query=question.text)
        took.add(time.perf_counter_ns() - begun_ns)
        sent = "\n".join(str(message.get("content", "")) for message in context.messages)
        words = index.weigh(sorted({*analyser.analyse(question.text).terms})).parts.sum(0)[:-1]
        best = set(_filled((-words).argsort(kind="stable").tolist(), texts))
        gold = len(question.gold)
        tally = [
            1.0,
            sum(texts[place] in sent for place in question.gold) / gold,
            sum(place in best for place in question.gold) / gold,
            sum(place in newest for place in question.gold) / gold,
        ]
        names = ["all", question.category]
        if question.category != _ADVERSARIAL:
            names.append("answerable")
        for name in names:
            before = counts.setdefault(name, [0.0, 0.0, 0.0, 0.0])
            counts[name] = [a + b for a, b in zip(before, tally, strict=True)]
        counts.setdefault("tokens", [0])[0] += context.report.tokens


def _filled(order: Any, texts: list[str]) -> list[int]:
    """As many as fit, one after the other."""
    chosen, room = [], WINDOW
    for place in order:
        cost = -(-len(texts[place]) // _CHARS_A_TOKEN)
        if cost <= room:
            room -= cost
            chosen.append(place)
    return chosen


def _share(tally: list[float], which: int) -> float:
    return tally[which] / max(1, tally[0])


if __name__ == "__main__":
    raise SystemExit(main("context_questions", __doc__))
