"""Fit the table by which tokens are estimated (memopt/context/estimate.bin, estimating.py).

    python tools/fit_token_estimate.py tokenizer.json... -- texts.json.gz table.bin

Tokenizers are files of the `tokenizers` library, of the models to be near to. Texts are a JSON
object: by manner ("ordinary", "west", "other", "dense"; the first is what agents mostly read and
write, then languages in Latin letters, then everything that looks like chance), by kind, lists.
Every second text is fitted to, and the others say how far off that is; then the table is fitted to
all of them, and written.

A token is put down to the first character in it that is no space. The cost of a pair of characters
is how many tokens begin with its second one, on average over the tokenizers; where these differ
much it is raised, for a window that overflows is worse than one that is not full.
"""

import gzip
import json
import sys
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from tokenizers import Tokenizer

from memopt.context.estimating import (
    COST_UNIT,
    EVIDENCE_UNIT,
    KINDS,
    MANNERS,
    ROWS,
    Table,
    packed,
    rows_of,
)

RAISED_MAX, HEAVIEST_SHARE = 1.2, 0.85
"""The goal: so much of the heaviest tokenizer's count, and at most so many times the mean."""
MARKS_RAISED = 1.13
LIFT = 1.05
SHARPNESS = 0.5
"""Neighbouring pairs are no independent evidence."""
FOREIGN = 0.02
"""What texts of other manners weigh."""
PRIOR = 3.0
SHARES = {"ordinary": 3.0, "west": 1.0, "other": 1.0, "dense": 1.0}
KIND_SHARES = {
    "lang russian": 8.0, "lang chinese": 4.0, "lang kazakh": 2.0, "table": 1.5, "random lower": 5.0,
}  # fmt: skip


class Text(NamedTuple):
    manner: int
    kind: str
    rows: Any
    costs: Any
    """Tokens by characters."""
    counts: Any
    """By tokenizers."""


def read(path: str, tokenizers: list[Tokenizer]) -> list[Text]:
    found = []
    for manner, kinds in json.loads(gzip.decompress(Path(path).read_bytes())).items():
        for kind, texts in kinds.items():
            for text in texts:
                costs = np.array([begun(text, one) for one in tokenizers], float)
                counts = costs.sum(1)
                mean = counts.mean()
                goal = min(RAISED_MAX * mean, max(mean, HEAVIEST_SHARE * counts.max()))
                found.append(
                    Text(MANNERS.index(manner), kind, rows_of(text), costs.mean(0) * goal / mean,
                         counts)
                )  # fmt: skip
    return found


def begun(text: str, tokenizer: Tokenizer) -> Any:
    """How many tokens begin at each character."""
    costs = np.zeros(len(text))
    for start, stop in tokenizer.encode(text, add_special_tokens=False).offsets:
        said = text[start:stop]
        blank = len(said) - len(said.lstrip(" "))
        at = start + (blank if said.strip(" ") else min(1, len(said) - 1))
        costs[min(at, len(text) - 1)] += 1
    return costs


def groups() -> Any:
    """Rows that stand for each other where one was rarely seen."""
    kinds = np.arange(KINDS)
    letters = np.zeros(KINDS, int)
    for n, (first, last) in enumerate((("a", "z"), ("A", "Z"), ("0", "9"), (" ", " ")), 1):
        letters[(kinds >= ord(first)) & (kinds <= ord(last))] = n
    letters[[9, 10, 13]] = 5
    letters[128:] = np.arange(6, 6 + KINDS - 128)
    count = letters.max() + 1
    pairs = (letters[:, None] * count + letters[None, :]).ravel()
    return np.concatenate((pairs, count * count + letters)), np.tile(letters, KINDS + 1), count


def fit(texts: list[Text]) -> Table:
    of, second, count = groups()
    lengths: dict[str, int] = {}
    for text in texts:
        lengths[text.kind] = lengths.get(text.kind, 0) + len(text.costs)
    costs, evidence = [], []
    is_ascii = np.zeros(ROWS, bool)
    is_ascii[: KINDS * KINDS].reshape(KINDS, KINDS)[:128, :128] = True
    for manner in range(len(MANNERS)):
        sums, weights = np.zeros(ROWS), np.zeros(ROWS)
        for text in texts:
            share = 50_000 * SHARES[MANNERS[text.manner]] / lengths[text.kind]
            share *= KIND_SHARES.get(text.kind, 1.0)
            share *= 1 if text.manner == manner else FOREIGN
            rows = text.rows[: len(text.costs)]
            sums += share * np.bincount(rows, text.costs, ROWS)
            weights += share * np.bincount(rows, minlength=ROWS)
        group_sums, group_weights = (np.bincount(of, x) for x in (sums, weights))
        ends, end_weights = (np.bincount(second, x, count) for x in (sums, weights))
        base = (ends / np.maximum(end_weights, 1e-9))[np.arange(len(group_sums)) % count]
        back = (group_sums + 2 * base) / (group_weights + 2)
        costs.append((sums + PRIOR * back[of]) / (weights + PRIOR))
        seen = np.where(is_ascii, weights + 2 / np.bincount(of)[of], 0)
        evidence.append(np.log(np.where(is_ascii, seen / seen.sum(), 1)))
    marks = np.array([33 <= n < 127 and not chr(n).isalnum() for n in range(KINDS)])
    both = np.concatenate(((marks[:, None] & marks[None]).ravel(), marks))
    raised = np.array(costs) * np.where(both, MARKS_RAISED, 1) * LIFT
    relative = SHARPNESS * (np.array(evidence) - evidence[0])
    return Table(
        np.round(raised.T * COST_UNIT).clip(0, 255).astype(np.uint8),
        np.round(relative.T[:, 1:] * EVIDENCE_UNIT).clip(-127, 127).astype(np.int8),
    )


def report(table: Table, texts: list[Text]) -> None:
    print("kind                  estimate / mean: p10 and median; / each tokenizer, in sum")
    for kind in sorted({text.kind for text in texts}):
        some = [text for text in texts if text.kind == kind]
        counts = np.array([text.counts for text in some])
        guessed = np.array([table.tokens(text.rows) for text in some])
        ratios = guessed / counts.mean(1)
        low, middle = np.quantile(ratios, 0.1), np.median(ratios)
        note = (" LOW" if low < 0.95 else "") + (" HIGH" if middle > 1.35 else "")
        each = " ".join(f"{ratio:5.2f}" for ratio in guessed.sum() / counts.sum(0))
        print(f"{kind:22} {low:5.2f} {middle:5.2f}   {each}{note}")


def main(arguments: list[str]) -> None:
    split = arguments.index("--")
    path, out = arguments[split + 1 :]
    texts = read(path, [Tokenizer.from_file(one) for one in arguments[:split]])
    order = np.random.default_rng(1).permutation(len(texts))
    shuffled = [texts[at] for at in order]
    report(fit(shuffled[::2]), shuffled[1::2])
    Path(out).write_bytes(packed(fit(texts)))


if __name__ == "__main__":
    main(sys.argv[1:])
