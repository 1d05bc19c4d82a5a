"""Fits the weights of recall's ranking: python tools/fit_ranking.py DATA

Reads LoCoMo, LongMemEval and HotpotQA from the directory DATA, fits both weighted sums on all of
it, and writes src/memopt/recall/weights.json. The same is done once for each fold with that fold
held out, whole dialogues at a time, and written to src/memopt/bench/fold_weights.json, by which
`memopt bench recall` judges.

The loss is listwise: each piece of evidence against all entries of its question that are none, as
a softmax; questions weigh by their set, pieces of evidence by how many their question has; L2 on
standardised features; L-BFGS. The scan is fitted on every entry, the closer look on the candidates
that the scan of the same fold finds.
"""

import argparse
import random
import sys
import time
from pathlib import Path
from typing import Any, Final, NamedTuple

import msgspec
import numpy as np
from scipy.optimize import minimize

from memopt.bench.evidence import Asked, ask
from memopt.bench.questions import SETS, Material, Question, materials_of
from memopt.embedding.static import StaticEmbedder
from memopt.recall.features import examine
from memopt.recall.ranking import CANDIDATES, best_of
from memopt.recall.scan import SCANNED
from memopt.recall.weights import SHIPPED, VERSION, RankingWeights, Weights, sealed
from memopt.text.analysis import Analyser

ROOT: Final = Path(__file__).resolve().parents[1]
FOLDS: Final = ROOT / "src/memopt/bench/fold_weights.json"
SET_WEIGHTS: Final = {"locomo": 1.0, "longmemeval": 10.0, "hotpotqa": 1.0}
"""Of a question. LongMemEval has few."""
SCAN_L2: Final = 10.0
EXAMINE_L2: Final = 100.0
FOLD_COUNT: Final = 5
ROUNDS_MAX: Final = 300
KEYWORDS: Final = "keywords"
SEED: Final = 0
KEYWORDS_WEIGHT: Final = 0.5
KEYWORDS_SHARE: Final = 12
"""A question by rare words is made of one text in so many of LoCoMo and LongMemEval."""
KEYWORDS_MAX: Final = 3
GOOD: Final = frozenset(
    """words words_root has_all soft soft_count meaning met met_best score score_near near_time
    in_time in_narrow_time""".split()  # noqa: SIM905
)
_SCORE_LEAST: Final = -60.0

Array = np.ndarray[Any, Any]


class Lists(NamedTuple):
    """Candidates of many questions, one after the other."""

    features: Array
    """float32 (candidates, features), standardised."""
    means: Array
    scales: Array
    gold: Array
    """bool (candidates)."""
    owner: Array
    """The question of each."""
    starts: Array
    weight: Array
    """Of each candidate, were it evidence."""


def lists_of(tables: list[tuple[Array, Array, float]]) -> Lists:
    """Of (features, gold, weight of the question); those without evidence teach nothing."""
    tables = [one for one in tables if one[1].any()]
    sizes = [len(gold) for _, gold, _ in tables]
    features = np.concatenate([np.asarray(t, np.float32) for t, _, _ in tables])
    means = features.mean(axis=0, dtype=np.float64)
    scales = np.maximum(features.std(axis=0, dtype=np.float64), 1e-6)
    features -= means.astype(np.float32)
    features /= scales.astype(np.float32)
    gold = np.concatenate([g for _, g, _ in tables])
    owner = np.repeat(np.arange(len(sizes)), sizes)
    starts = np.cumsum(sizes) - sizes
    many = np.add.reduceat(gold.astype(np.float64), starts)
    weight = (np.array([w for _, _, w in tables]) / many)[owner]
    return Lists(features, means, scales, gold, owner, starts, weight)


def fitted(names: tuple[str, ...], lists: Lists, l2: float) -> Weights:
    """Features GOOD never count against an entry: with many that tell nearly the same, the fit
    plays them off against each other, which does not carry over to other memories."""
    features, _, _, gold, owner, starts, weight = lists

    def loss(w: Array) -> tuple[float, Array]:
        scores = (features @ w.astype(np.float32)).astype(np.float64)
        scores -= np.maximum.reduceat(scores, starts)[owner]
        powers = np.exp(np.maximum(scores, _SCORE_LEAST))
        rest = np.add.reduceat(np.where(gold, 0, powers), starts)[owner]
        odds = rest / powers
        total = float((np.log1p(odds) * weight)[gold].sum())
        each = np.where(gold, weight / (powers + rest), 0)
        slope = np.where(
            gold, -weight * odds / (1 + odds), powers * np.add.reduceat(each, starts)[owner]
        )
        back = (slope.astype(np.float32) @ features).astype(np.float64)
        return total + 0.5 * l2 * float(w @ w), back + l2 * w

    start = np.zeros(features.shape[1])
    found = minimize(
        loss,
        start,
        jac=True,
        method="L-BFGS-B",
        bounds=[(0 if n in GOOD else None, None) for n in names],
        options={"maxiter": ROUNDS_MAX, "maxfun": 400},
    )
    return Weights(
        names=names,
        means=_rounded(lists.means),
        scales=_rounded(lists.scales),
        weights=_rounded(found.x),
    )


def with_keywords(material: Material, seed: int) -> Material:
    """Also asked by one to three of the rarest words of some of its texts: what has all of them is
    meant. Nobody asks LoCoMo like that, and everybody does ask a memory so."""
    analyser = Analyser()
    stems = [analyser.stems(draft.text) for draft in material.drafts]
    holders: dict[str, set[int]] = {}
    for number, pairs in enumerate(stems):
        for _, stem in pairs:
            holders.setdefault(stem, set()).add(number)
    chance = random.Random(f"{seed} {material.name}")
    made = []
    for number in chance.sample(range(len(stems)), len(stems) // KEYWORDS_SHARE):
        words = {stem: word for word, stem in stems[number]}
        rarest = sorted(words, key=lambda stem: (len(holders[stem]), stem))
        chosen = rarest[: chance.randint(1, KEYWORDS_MAX)]
        if chosen:
            gold = tuple(sorted(set.intersection(*(holders[stem] for stem in chosen))))
            text = " ".join(words[stem] for stem in chosen)
            made.append(Question(text, gold, (), KEYWORDS, 0))
    return material._replace(questions=[*material.questions, *made])


def _rounded(values: Array) -> tuple[float, ...]:
    """To five digits: more say nothing, and the file is read by people."""
    return tuple(float(f"{value:.5g}") for value in values)


def calibrated(scores: Array, gold: Array) -> tuple[float, float]:
    """(slope, offset) of the logistic curve through evidence and the rest."""

    def loss(w: Array) -> tuple[float, Array]:
        sums = w[0] * scores + w[1]
        right = np.where(gold, -sums, sums)
        found = 1 / (1 + np.exp(-sums))
        wrong = found - gold
        return float(np.logaddexp(0, right).sum()), np.array([wrong @ scores, wrong.sum()])

    found = minimize(loss, np.array([1.0, -3.0]), jac=True, method="L-BFGS-B")
    return float(f"{found.x[0]:.5g}"), float(f"{found.x[1]:.5g}")


def fit(sets: dict[str, list[Asked]], held_out: int | None, fitted_on: str) -> RankingWeights:
    """Both sums on every fold but one."""
    chosen = [
        (one, KEYWORDS_WEIGHT if one.question.category == KEYWORDS else SET_WEIGHTS[name])
        for name, asked in sets.items()
        for one in asked
        if one.fold != held_out
    ]
    everything = [
        (one.scan.table[:, one.returnable].T, np.isin(one.returnable, one.gold), weight)
        for one, weight in chosen
    ]
    scan = fitted(SCANNED, lists_of(everything), SCAN_L2)
    slopes = (np.array(scan.weights) / np.array(scan.scales)).astype(np.float32)
    offset = -float(slopes @ np.array(scan.means))
    names: tuple[str, ...] = ()
    looked_at = []
    for one, weight in chosen:
        scores = slopes @ one.scan.table + np.float32(offset)
        candidates = best_of(scores, one.returnable, CANDIDATES)
        names, table = examine(one.scan, candidates, scores)
        # Half the bytes; a feature has no more digits than these.
        looked_at.append((table.T.astype(np.float16), np.isin(candidates, one.gold), weight))
    lists = lists_of(looked_at)
    closer = fitted(names, lists, EXAMINE_L2)
    scores = lists.features @ np.array(closer.weights, np.float32)
    slope, bend = calibrated(scores.astype(np.float64), lists.gold)
    return sealed(
        RankingWeights(
            version=VERSION,
            fitted_on=fitted_on,
            scan=scan,
            examine=closer,
            slope=slope,
            offset=bend,
        )
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data", type=Path, help="the directory of the three sets")
    parser.add_argument("--shipped", type=Path, default=SHIPPED)
    parser.add_argument("--folds", type=Path, default=FOLDS)
    given = parser.parse_args()
    sets: dict[str, list[Asked]] = {}
    embedder = StaticEmbedder()
    for name, file in SETS.items():
        begun = time.monotonic()
        materials = materials_of(name, given.data / file)
        if name != "hotpotqa":
            materials = [with_keywords(material, SEED) for material in materials]
        sets[name] = ask(materials, embedder)
        _say(f"{name}: {len(sets[name])} questions in {time.monotonic() - begun:.0f} s")
    held_out = []
    for fold in range(FOLD_COUNT):
        held_out.append(fit(sets, fold, f"{', '.join(sets)} without fold {fold}"))
        _say(f"fold {fold} is fitted")
    given.folds.write_bytes(msgspec.json.format(msgspec.json.encode(held_out)) + b"\n")
    shipped = fit(sets, None, ", ".join(sets))
    given.shipped.write_bytes(msgspec.json.format(msgspec.json.encode(shipped)) + b"\n")
    return 0


def _say(line: str) -> None:
    sys.stderr.write(line + "\n")


if __name__ == "__main__":
    raise SystemExit(main())
