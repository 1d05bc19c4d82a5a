"""Question: of the cached answers that are served, how many are wrong, how much is served, and how
long does a lookup take?

Method: all of it through memory.answers, with models that were fitted without what is judged.
banking77: its questions in random order; what is not answered is stored, with one answer for each
    intent; every tenth hit is judged, as users would. Each question is looked up by models that
    were fitted to streams of other questions, and, a second time, of other intents. Default
    settings.
QQP: pairs in five folds, no question in two of them; one question of a pair is stored, in a context
    of its own, and the other one asked. A hit may be wrong by 15 %.
Lookup: 100,000 questions in a scope, and others that have no answer there. What is nearest is known
    from all vectors, not rounded.
Intervals hold 95 % of 1,000 bootstrap samples, of whole groups of questions.
Baseline: GPTCache with SQLite and faiss, where it is installed, with the same embedder and stream
in a process of its own: by its default threshold, and by the one that serves as much as we do.
Not measured: whether an answer is a good one, and questions in other languages.
"""

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np

from memopt.answers.entry import NEVER_US, entry_of
from memopt.answers.matching import Matcher, open_matcher
from memopt.answers.nearest import ScopeQuestions, planes_for, room_for
from memopt.base.answer_records import Answer
from memopt.bench.answer_data import (
    BANKING,
    QQP,
    Asking,
    LabelledPair,
    components,
    load_intents,
    load_pairs,
)
from memopt.bench.answer_fitting import fit_neighbourhood, fit_scored_pairs, folds_of, tabulate
from memopt.bench.answer_peers import peers
from memopt.bench.command import BenchOptions, main, progress_bar, say, scratch
from memopt.bench.data import find
from memopt.bench.measure import LatencyHistogram, machine
from memopt.embedding.static import StaticEmbedder
from memopt.memory import Memory
from memopt.wiring import open_memory

SCOPE: Final = "acme/answers"
_JUDGED_SHARE: Final = 0.1
_PAIR_WRONG_SHARE: Final = 0.15
_FOLDS: Final = 5
_QUESTION_FOLDS: Final = 3
_SAMPLES: Final = 1000
_STORED: Final = 100_000
_PROBES: Final = 2000

Progress = Callable[[int, int], None]


class Outcome(NamedTuple):
    """A lookup."""

    group: int
    """Those of one are drawn together."""
    was_due: bool
    """There was a right answer to be had."""
    is_served: bool
    is_wrong: bool


def run(options: BenchOptions) -> dict[str, Any]:
    """Figures by data set, of the lookup, and by system."""
    embedder = StaticEmbedder()
    chance = random.Random(options.seed)
    pairs = load_pairs() if _is_there(QQP) else []
    askings = load_intents() if all(map(_is_there, BANKING)) else []
    chance.shuffle(askings)
    if options.quick:
        pairs, askings = pairs[:1500], askings[:1500]
    result: dict[str, Any] = {}
    with scratch(options) as home, progress_bar("answers") as progress:
        if askings:
            result |= _banking(home, askings, embedder, options.seed)
        if pairs:
            result["qqp"] = _qqp(home, pairs, embedder, options, progress)
        if pairs or askings:
            questions = _questions(pairs, askings)
            result["lookup"] = _lookup(home, questions, embedder, options.quick)
        result["machine"] = machine(home)
    return result


def _is_there(name: str) -> bool:
    if find(name) is None:
        say(f"answers: {name} is not there")
        return False
    return True


@contextmanager
def _opened(path: Path, matcher: Matcher | None) -> Iterator[Memory]:
    with open_memory(
        path, budget="512MiB", durability="os", maintenance_seconds=0, probe_seconds=0
    ) as memory:
        if matcher is not None:
            memory._parts.answers.use_matcher(matcher)
        yield memory


# -- banking77 ------------------------------------------------------------------------------------


def _banking(
    home: Path, askings: Sequence[Asking], embedder: StaticEmbedder, seed: int
) -> dict[str, Any]:
    """By other questions, by other intents, and beside others."""
    folds = [number % _QUESTION_FOLDS for number in range(len(askings))]
    random.Random(seed + 1).shuffle(folds)
    matchers = [
        fit_neighbourhood(
            open_matcher(), [a for a, n in zip(askings, folds, strict=True) if n != fold],
            embedder,
        )
        for fold in range(_QUESTION_FOLDS)
    ]  # fmt: skip
    by_fold = [matchers[fold] for fold in folds]
    figures = _figures(_streamed(home / "questions", askings, by_fold, seed), seed)
    return {
        "banking77": figures,
        "banking77_other_intents": _by_intents(home, askings, embedder, seed),
        "systems": peers(home, askings, folds, matchers, figures["hit_ratio"], embedder),
    }


def _by_intents(
    home: Path, askings: Sequence[Asking], embedder: StaticEmbedder, seed: int
) -> dict[str, Any]:
    """Half of the intents by models of the other half, and the other way round."""
    intents = sorted({asking.intent for asking in askings})
    random.Random(seed).shuffle(intents)
    first = set(intents[: len(intents) // 2])
    outcomes = []
    for number in range(2):
        mine = [asking for asking in askings if (asking.intent in first) == bool(number)]
        others = [asking for asking in askings if (asking.intent in first) != bool(number)]
        matcher = fit_neighbourhood(open_matcher(), others, embedder)
        outcomes += _streamed(home / f"intents{number}", mine, [matcher] * len(mine), seed)
    return _figures(outcomes, seed)


def _streamed(
    path: Path, askings: Sequence[Asking], matchers: Sequence[Matcher], seed: int
) -> list[Outcome]:
    """`matchers`: that of each question."""
    chance = random.Random(seed)
    found, known = [], set()
    with _opened(path, None) as memory:
        answers = memory.answers
        for number, (question, intent) in enumerate(askings):
            memory._parts.answers.use_matcher(matchers[number])
            hit = answers.lookup(question, scope=SCOPE)
            is_served = isinstance(hit, Answer)
            is_wrong = isinstance(hit, Answer) and hit.response != _templated(intent)
            found.append(Outcome(number, intent in known, is_served, is_wrong))
            if isinstance(hit, Answer):
                if chance.random() < _JUDGED_SHARE:
                    answers.feedback(hit.answer_id, "wrong" if is_wrong else "right")
            else:
                answers.store(question, _templated(intent), scope=SCOPE)
                known.add(intent)
    return found


def _templated(intent: str) -> dict[str, str]:
    return {"text": f"This is how it is with {intent.replace('_', ' ')}."}


# -- pairs ----------------------------------------------------------------------------------------


def _qqp(
    home: Path, pairs: Sequence[LabelledPair], embedder: StaticEmbedder, options: BenchOptions,
    progress: Progress,
) -> dict[str, Any]:  # fmt: skip
    table = tabulate(pairs, embedder, lambda done, total: None)
    labels = np.array([pair.is_same for pair in pairs], np.float64)
    groups = np.array(components(pairs))
    fold_of = folds_of(groups, _FOLDS, options.seed)
    outcomes: list[Outcome] = []
    for fold in range(_FOLDS):
        progress(fold, _FOLDS)
        mine = fold_of == fold
        matcher = fit_scored_pairs(
            table.part(~mine), labels[~mine], groups[~mine], folds=3, seed=options.seed
        )
        judged = [(int(groups[number]), pairs[number]) for number in np.flatnonzero(mine).tolist()]
        outcomes += _paired(home / f"pairs{fold}", judged, matcher)
    return _figures(outcomes, options.seed)


def _paired(
    path: Path, pairs: Sequence[tuple[int, LabelledPair]], matcher: Matcher
) -> list[Outcome]:
    found = []
    with _opened(path, matcher) as memory:
        answers = memory.answers
        answers.set_category("general", scope=SCOPE, wrong_share=_PAIR_WRONG_SHARE)
        for number, (_, pair) in enumerate(pairs):
            answers.store(_alone(number, pair.one), {"text": str(number)}, scope=SCOPE)
        for number, (group, pair) in enumerate(pairs):
            is_served = bool(answers.lookup(_alone(number, pair.other), scope=SCOPE))
            found.append(Outcome(group, pair.is_same, is_served, is_served and not pair.is_same))
    return found


def _alone(number: int, question: str) -> dict[str, Any]:
    """A request that shares its context with no other."""
    return {"system": str(number), "messages": [{"role": "user", "content": question}]}


# -- figures --------------------------------------------------------------------------------------


def _figures(outcomes: Sequence[Outcome], seed: int) -> dict[str, Any]:
    groups = np.unique(np.array([one.group for one in outcomes]), return_inverse=True)[1]
    columns = {
        "asked": np.ones(len(outcomes)),
        "due": np.array([one.was_due for one in outcomes], np.float64),
        "served": np.array([one.is_served for one in outcomes], np.float64),
        "wrong": np.array([one.is_wrong for one in outcomes], np.float64),
        "right": np.array([one.is_served and not one.is_wrong for one in outcomes], np.float64),
    }
    sums = {name: np.bincount(groups, values) for name, values in columns.items()}
    chance = np.random.Generator(np.random.PCG64(seed))
    count = len(sums["asked"])
    draws = [chance.poisson(1.0, count) for _ in range(_SAMPLES)]
    figures: dict[str, Any] = {"asked": len(outcomes), "served": int(columns["served"].sum())}
    for name, above, below in (
        ("hit_ratio", "served", "asked"), ("wrong_per_hit", "wrong", "served"),
        ("duplicates_served", "right", "due"),
    ):  # fmt: skip
        figures[name] = _share(sums[above].sum(), sums[below].sum())
        sampled = [_share(float(d @ sums[above]), float(d @ sums[below])) for d in draws]
        low, high = np.quantile(sampled, [0.025, 0.975])
        figures[f"{name}_interval"] = [round(float(low), 4), round(float(high), 4)]
    return figures


def _share(above: float, below: float) -> float:
    return round(float(above / below), 4) if below else 0.0


# -- lookups --------------------------------------------------------------------------------------


def _questions(pairs: Sequence[LabelledPair], askings: Sequence[Asking]) -> list[str]:
    """Different questions."""
    found = dict.fromkeys(text for pair in pairs for text in (pair.one, pair.other))
    return list(found | dict.fromkeys(asking.question for asking in askings))


def _lookup(
    home: Path, questions: list[str], embedder: StaticEmbedder, is_quick: bool
) -> dict[str, Any]:
    chance = random.Random(1)
    chance.shuffle(questions)
    probes, texts = questions[:_PROBES], questions[_PROBES:]
    if is_quick:
        probes = probes[:200]
    elif len(texts) > _STORED:
        texts = texts[:_STORED]
    else:
        # There are not so many: the rest are two halves of different ones.
        texts += [
            f"{chance.choice(texts).rstrip('?.! ')}, and {chance.choice(texts)}"
            for _ in range(_STORED - len(texts))
        ]
    latencies, adds = LatencyHistogram(), LatencyHistogram()
    with _opened(home / "lookup", None) as memory:
        for number, text in enumerate(texts):
            started = time.perf_counter_ns()
            memory.answers.store(text, {"text": str(number)}, scope=SCOPE)
            adds.add(time.perf_counter_ns() - started)
        missed = 0
        memory.answers.lookup("What is the first one?", scope=SCOPE)
        for probe in probes:
            started = time.perf_counter_ns()
            found = memory.answers.lookup(probe, scope=SCOPE)
            latencies.add(time.perf_counter_ns() - started)
            missed += not found
        held = memory._parts.budget.held_bytes("answers")
    return {
        "stored": len(texts),
        "lookup_us": latencies.quantiles(),
        "store_us": adds.quantiles(),
        "missed_share": _share(missed, len(probes)),
        "best_found": _best_found(texts, probes, embedder),
        "resident_bytes_per_question": round(held / len(texts), 1),
    }


def _best_found(texts: Sequence[str], probes: Sequence[str], embedder: StaticEmbedder) -> float:
    """How often the nearest of all questions is found, or one as near."""
    exact = embedder.embed(texts)
    questions = ScopeQuestions(planes_for(embedder.dimensions), room_for(len(texts)))
    numbers = [number for number in range(len(texts)) if np.any(exact[number])]
    for at in range(0, len(numbers), 1024):
        some = numbers[at : at + 1024]
        entries = [
            entry_of(exact[n], context=bytes(16), response=1, expires_us=NEVER_US, space=1)
            for n in some
        ]
        questions.add(some, entries)
    found = 0
    for vector in embedder.embed(probes):
        best = questions.nearest(vector, None, 0).answers[0]
        found += bool((exact @ vector).max() <= exact[best] @ vector + 1e-3)
    return _share(found, len(probes))


if __name__ == "__main__":
    raise SystemExit(main("answers", __doc__))
