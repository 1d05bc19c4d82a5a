"""Questions with known evidence, and the memories they are asked of: LoCoMo, LongMemEval, HotpotQA.

Owns: the reading of the three sets into one form. Invariant: a question's evidence are drafts of
its own memory, and a question whose evidence cannot be found there is left out and counted. Not
here: any ranking, or any judgement of one.
"""

import datetime
import gzip
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np

from memopt.base.errors import UsageError
from memopt.recall.entries import Draft, Entries, Role
from memopt.recall.index import ScopeIndex
from memopt.recall.message_text import TEXT_CHARS_MAX
from memopt.text.analysis import Analyser

CHARS_PER_TOKEN: Final = 4
HOTPOT_TOKENS: Final = 30_000
"""Of a memory that is filled with the paragraphs nearest to the question."""

_EVIDENCE: Final = re.compile(r"D(\d+):(\d+)")
_EPOCH: Final = datetime.datetime(1970, 1, 1)
_FOLDS: Final = 5


class Question(NamedTuple):
    text: str
    gold: tuple[int, ...]
    """Numbers of the drafts that hold the evidence."""
    gold_sources: tuple[int, ...]
    """Sources, so sessions or paragraphs, with evidence."""
    category: str
    now_us: int


class Material(NamedTuple):
    """One memory and what is asked of it."""

    name: str
    fold: int
    """Materials of one fold are held out together."""
    drafts: list[Draft]
    questions: list[Question]


def locomo(path: Path) -> list[Material]:
    """A dialogue a material. A turn's text is what was said, and what the picture shows."""
    return [_dialogue(number, sample) for number, sample in enumerate(_read(path))]


def longmemeval(path: Path) -> list[Material]:
    """A question a material, in folds. A draft is a turn, a source is a session."""
    return [_haystack(number, sample) for number, sample in enumerate(_read(path))]


def hotpotqa(path: Path, *, tokens: int = HOTPOT_TOKENS) -> Iterator[Material]:
    """A question a material, with its paragraphs and those of all other questions that BM25 finds
    nearest, until the memory has so many tokens. A draft is a sentence; the title of a paragraph
    is a heading before its sentences, which is never evidence.

    Questions whose evidence is not among their paragraphs are left out.
    """
    samples = _read(path)
    paragraphs: dict[str, list[str]] = {}
    for sample in samples:
        for title, sentences in sample["context"]:
            paragraphs.setdefault(title, sentences)
    titles = list(paragraphs)
    number_of = {title: number for number, title in enumerate(titles)}
    analyser = Analyser()
    whole = [
        Draft(source=n, seq=0, at_us=0, text=f"{title} {''.join(paragraphs[title])}")
        for n, title in enumerate(titles)
    ]
    index = ScopeIndex.of([Entries.of(whole, embedder=None, analyser=analyser)])
    sizes = [len(draft.text) for draft in whole]
    kept = 0
    for sample in samples:
        own = dict(sample["context"])
        facts = [(title, line) for title, line in sample["supporting_facts"]]
        if not all(title in own and line < len(own[title]) for title, line in facts):
            continue
        weights = index.weigh(sorted({*analyser.analyse(sample["question"]).terms})).parts
        chosen = _filled(
            [number_of[title] for title in own],
            np.argsort(-weights.sum(0)[:-1], kind="stable").tolist(),
            sizes,
            tokens * CHARS_PER_TOKEN,
        )
        texts = {n: own.get(titles[n], paragraphs[titles[n]]) for n in chosen}
        yield _page_questions(kept, sample, facts, texts, titles, number_of)
        kept += 1


SETS: Final = {
    "locomo": "locomo/locomo_dev5.json.gz",
    "longmemeval": "longmemeval/longmemeval_s_dev.json.gz",
    "hotpotqa": "hotpotqa/hotpotqa_dev.json.gz",
}
"""Where they lie in the data directory."""


def materials_of(name: str, path: Path) -> Iterable[Material]:
    """The memories of one of SETS."""
    if name == "hotpotqa":
        return hotpotqa(path)
    return locomo(path) if name == "locomo" else longmemeval(path)


def _read(path: Path) -> Any:
    try:
        return msgspec.json.decode(gzip.decompress(path.read_bytes()))
    except (OSError, EOFError, ValueError) as error:
        raise UsageError(f"cannot be read: {error}", field=str(path)) from error


# -- LoCoMo ---------------------------------------------------------------------------------------


def _dialogue(number: int, sample: Any) -> Material:
    conversation = sample["conversation"]
    drafts: list[Draft] = []
    places: dict[str, int] = {}
    sessions = sorted(
        (int(key.split("_")[1]), turns)
        for key, turns in conversation.items()
        if re.fullmatch(r"session_\d+", key)
    )
    now_us = 0
    for session, turns in sessions:
        said = conversation[f"session_{session}_date_time"]
        now_us = _us(datetime.datetime.strptime(said, "%I:%M %p on %d %B, %Y"))
        for seq, turn in enumerate(turns):
            caption = turn.get("blip_caption")
            text = (f"{turn['text']} [{caption}]" if caption else turn["text"]).strip()
            places[turn["dia_id"]] = len(drafts)
            drafts.append(
                Draft(source=session, seq=seq, at_us=now_us, text=text, speaker=turn["speaker"])
            )
    questions = []
    for asked in sample["qa"]:
        named = {f"D{int(d)}:{int(n)}" for e in asked["evidence"] for d, n in _EVIDENCE.findall(e)}
        gold = tuple(sorted(places[name] for name in named if name in places))
        if gold:
            sources = tuple(sorted({drafts[place].source for place in gold}))
            category = str(asked["category"])
            questions.append(Question(asked["question"], gold, sources, category, now_us))
    return Material(str(sample["sample_id"]), number, drafts, questions)


# -- LongMemEval ----------------------------------------------------------------------------------


def _haystack(number: int, sample: Any) -> Material:
    drafts: list[Draft] = []
    gold: list[int] = []
    answers = set(sample["answer_session_ids"])
    sources: list[int] = []
    columns = ("haystack_session_ids", "haystack_dates", "haystack_sessions")
    for source, (name, date, turns) in enumerate(
        zip(*(sample[column] for column in columns), strict=True)
    ):
        at_us = _us(datetime.datetime.strptime(date, "%Y/%m/%d (%a) %H:%M"))
        if name in answers:
            sources.append(source)
        for seq, turn in enumerate(turns):
            if turn.get("has_answer"):
                gold.append(len(drafts))
            role, text = Role.of(turn["role"]), turn["content"][:TEXT_CHARS_MAX].strip()
            drafts.append(Draft(source=source, seq=seq, at_us=at_us, text=text, role=role))
    now_us = _us(datetime.datetime.strptime(sample["question_date"], "%Y/%m/%d (%a) %H:%M"))
    question = Question(
        sample["question"], tuple(gold), tuple(sources), sample["question_type"], now_us
    )
    return Material(sample["question_id"], number % _FOLDS, drafts, [question])


# -- HotpotQA -------------------------------------------------------------------------------------


def _filled(own: Sequence[int], ranked: Sequence[int], sizes: list[int], chars: int) -> list[int]:
    chosen = list(dict.fromkeys(own))
    used = sum(sizes[n] for n in chosen)
    held = set(chosen)
    for n in ranked:
        if n not in held and used + sizes[n] <= chars:
            chosen.append(n)
            used += sizes[n]
        if used > chars * 0.99:
            break
    return sorted(chosen)


def _page_questions(
    number: int,
    sample: Any,
    facts: list[tuple[str, int]],
    texts: dict[int, list[str]],
    titles: list[str],
    number_of: dict[str, int],
) -> Material:
    wanted = {(number_of[title], line) for title, line in facts}
    drafts: list[Draft] = []
    gold: list[int] = []
    for n, sentences in texts.items():
        drafts.append(Draft(source=n, seq=0, at_us=0, text=titles[n], role=Role.HEADING))
        for line, sentence in enumerate(sentences):
            if sentence.strip():
                if (n, line) in wanted:
                    gold.append(len(drafts))
                drafts.append(Draft(source=n, seq=line + 1, at_us=0, text=sentence.strip()))
    sources = tuple(sorted({n for n, _ in wanted}))
    question = Question(sample["question"], tuple(gold), sources, sample["type"], 0)
    return Material(str(sample["id"]), number % _FOLDS, drafts, [question])


def _us(when: datetime.datetime) -> int:
    return int((when - _EPOCH).total_seconds() * 1e6)
