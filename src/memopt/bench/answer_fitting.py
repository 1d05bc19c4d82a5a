"""Fits what the answer cache ships: the models of answers/matching.py, and their tables of scores.

Owns: the fitting. Pairs are fitted on labelled questions, whole groups held out: what the trees are
told of the linear model comes from folds that did not see the pair. The neighbourhood is fitted on
streams of intents, each lookup as the cache would meet it. Invariant: the same data and seed give
the same models. Not here: what is measured (answers.py), and where they are written
(tools/fit_answers.py).

scipy is needed here, and nowhere at run time.
"""

from collections.abc import Callable, Sequence
from datetime import datetime
from typing import Any, Final, NamedTuple

import numpy as np

from memopt.answers.entry import NEVER_US, entry_of
from memopt.answers.features import BUCKETS, NAMES, Pair, Reader
from memopt.answers.matching import (
    NEIGHBOUR_NAMES,
    SAME_ANSWERS_MIN,
    Matcher,
    NeighbourModel,
    PairModel,
    Scores,
    chosen_of,
    grown,
    neighbour_features,
    neighbour_logit,
)
from memopt.answers.nearest import NEIGHBOURS, ScopeQuestions, planes_for, room_for
from memopt.answers.verification import UNKNOWN_TIME, agree
from memopt.base.recall_protocols import PieceEmbedder
from memopt.bench.answer_data import Asking, LabelledPair

_PENALTY: Final = 10.0
"""On squared weights, per pair as it were."""
_ROUNDS: Final = 200
_DEPTH: Final = 5
_RATE: Final = 0.06
_BINS: Final = 48
_LEAF_PENALTY: Final = 5.0
_ROWS_SHARE: Final = 0.8
_NUMBERS_SHARE: Final = 0.7
_INNER: Final = 5
_NEIGHBOUR_PENALTY: Final = 3.0
_KNOTS: Final = 64
_TABLE_ROWS_MIN: Final = 50
_Z: Final = 1.28
"""One side of 90 %: scores are lower bounds, so that thresholds hold elsewhere."""
_SCORE_MAX: Final = 0.9995
_SURE_VOTES: Final = 0.97

Progress = Callable[[int, int], None]


class PairTable(NamedTuple):
    """Pairs as numbers."""

    dense: Any
    """float32 (pairs, NAMES)."""
    rows: Any
    """Of the sparse part: which pair, which bucket, what value."""
    buckets: Any
    values: Any
    lexicon: str
    """The space of the vectors."""

    def __len__(self) -> int:
        return len(self.dense)

    def part(self, chosen: Any) -> "PairTable":
        """The pairs where `chosen` is true."""
        numbers = np.cumsum(chosen) - 1
        inside = chosen[self.rows]
        return PairTable(
            self.dense[chosen], numbers[self.rows[inside]], self.buckets[inside],
            self.values[inside], self.lexicon,
        )  # fmt: skip

    def sparse(self) -> Any:
        from scipy.sparse import csr_matrix

        return csr_matrix((self.values, (self.rows, self.buckets)), shape=(len(self), BUCKETS))

    @property
    def agrees(self) -> Any:
        """bool: whether every check passes."""
        first = NAMES.index("numbers")
        return self.dense[:, first:].all(axis=1)


def tabulate(
    pairs: Sequence[LabelledPair], embedder: PieceEmbedder, progress: Progress
) -> PairTable:
    """Read every pair."""
    reader = Reader(embedder)
    dense = np.empty((len(pairs), len(NAMES)), np.float32)
    rows: list[int] = []
    buckets: list[int] = []
    values: list[float] = []
    for number, pair in enumerate(pairs):
        vectors = embedder.embed([pair.one, pair.other])
        read = _read(reader, pair, vectors)
        dense[number] = read.dense
        rows += [number] * len(read.sparse)
        buckets += [bucket for bucket, _ in read.sparse]
        values += [value for _, value in read.sparse]
        if not number % 512:
            progress(number, len(pairs))
    return PairTable(
        dense, np.array(rows), np.array(buckets), np.array(values, np.float32), embedder.space
    )


def _read(reader: Reader, pair: LabelledPair, vectors: Any, at: datetime = UNKNOWN_TIME) -> Pair:
    return reader.pair(
        reader.read(pair.one, at, vectors[0]), reader.read(pair.other, at, vectors[1])
    )


# -- the model of pairs ---------------------------------------------------------------------------


class _Design(NamedTuple):
    """What a linear model is fitted to."""

    means: Any
    scales: Any
    matrix: Any
    """Sparse: buckets, then the standardised dense part."""


def _design(table: PairTable) -> _Design:
    from scipy.sparse import csr_matrix, hstack

    means, scales = table.dense.mean(axis=0), table.dense.std(axis=0) + 1e-6
    standard = csr_matrix((table.dense - means) / scales)
    return _Design(means, scales, hstack([table.sparse(), standard]).tocsr())


def logistic(matrix: Any, labels: Any, penalty: float) -> tuple[Any, float]:
    """Weights and bias of least logistic loss, with a penalty on squared weights."""
    from scipy.optimize import minimize

    signs, turned, count = 2.0 * labels - 1.0, matrix.T.tocsr(), matrix.shape[1]

    def loss(values: Any) -> tuple[float, Any]:
        weights = values[:count]
        margins = (matrix @ weights + values[count]) * signs
        slopes = -signs / (1 + np.exp(margins))
        total = np.logaddexp(0, -margins).sum() + penalty / 2 * (weights @ weights)
        return float(total), np.append(turned @ slopes + penalty * weights, slopes.sum())

    found = minimize(
        loss, np.zeros(count + 1), jac=True, method="L-BFGS-B",
        options={"maxiter": 150, "maxcor": 10},
    )  # fmt: skip
    return found.x[:count], float(found.x[count])


def fit_pairs(
    table: PairTable, labels: Any, groups: Any, *, seed: int = 0, progress: Progress | None = None
) -> PairModel:
    """The whole model. `groups`: those with one number are held out together."""
    report = progress or (lambda done, total: None)
    design = _design(table)
    folds = folds_of(groups, _INNER, seed)
    held_out = np.empty(len(table), np.float32)
    for fold in range(_INNER):
        mine = folds == fold
        weights, bias = logistic(design.matrix[~mine], labels[~mine], _PENALTY)
        held_out[mine] = design.matrix[mine] @ weights + bias
        report(fold + 1, _INNER + 2)
    weights, bias = logistic(design.matrix, labels, _PENALTY)
    report(_INNER + 1, _INNER + 2)
    numbers = np.column_stack([table.dense, held_out])
    asked, cuts, leaves, base = grow(numbers, labels, seed)
    largest = max(float(np.abs(weights[:BUCKETS]).max()), 1e-6)
    buckets = np.rint(weights[:BUCKETS] * (127 / largest)).astype(np.int8)
    return PairModel(
        design.means.astype(np.float32), design.scales.astype(np.float32),
        weights[BUCKETS:].astype(np.float32), bias, buckets, largest / 127, asked, cuts, leaves,
        base,
    )  # fmt: skip


def grow(numbers: Any, labels: Any, seed: int) -> tuple[Any, Any, Any, float]:
    """Boosted trees that ask one question on each level: (asked, cuts, leaves, base)."""
    random = np.random.Generator(np.random.PCG64(seed))
    count, width = numbers.shape
    quantiles = np.linspace(0, 1, _BINS + 1)[1:-1]
    edges = [np.unique(np.quantile(numbers[:, n], quantiles)) for n in range(width)]
    bins = np.column_stack(
        [np.searchsorted(edges[n], numbers[:, n], side="left") for n in range(width)]
    )
    share = float(labels.mean())
    base = float(np.log(share / (1 - share)))
    logits = np.full(count, base)
    asked = np.zeros((_ROUNDS, _DEPTH), np.intp)
    cuts = np.zeros((_ROUNDS, _DEPTH), np.float32)
    leaves = np.zeros((_ROUNDS, 1 << _DEPTH), np.float32)
    for tree in range(_ROUNDS):
        chances = 1 / (1 + np.exp(-logits))
        slopes, bends = labels - chances, chances * (1 - chances)
        rows = np.flatnonzero(random.random(count) < _ROWS_SHARE)
        some = random.permutation(width)[: max(1, int(width * _NUMBERS_SHARE))]
        leaf = np.zeros(len(rows), np.intp)
        for level in range(_DEPTH):
            number, edge = _best_cut(
                bins[rows], some, edges, leaf, 1 << level, slopes[rows], bends[rows]
            )
            asked[tree, level], cuts[tree, level] = number, edges[number][edge]
            leaf = leaf * 2 + (bins[rows, number] > edge)
        up = np.bincount(leaf, slopes[rows], 1 << _DEPTH)
        down = np.bincount(leaf, bends[rows], 1 << _DEPTH)
        leaves[tree] = _RATE * up / (down + _LEAF_PENALTY)
        whole = (numbers[:, asked[tree]] > cuts[tree]) @ (1 << np.arange(_DEPTH)[::-1])
        logits += leaves[tree][whole]
    return asked, cuts, leaves, base


def _best_cut(
    bins: Any, some: Any, edges: list[Any], leaf: Any, leaves: int, slopes: Any, bends: Any
) -> tuple[int, int]:
    """Which number to look at, and at which edge, in all leaves alike."""
    best, found = -1.0, (int(some[0]), 0)
    for number in some:
        where = leaf * _BINS + bins[:, number]
        up = np.bincount(where, slopes, leaves * _BINS).reshape(leaves, _BINS).cumsum(axis=1)
        down = np.bincount(where, bends, leaves * _BINS).reshape(leaves, _BINS).cumsum(axis=1)
        all_up, all_down = up[:, -1:], down[:, -1:]
        gains = (
            up**2 / (down + _LEAF_PENALTY) + (all_up - up) ** 2 / (all_down - down + _LEAF_PENALTY)
        ).sum(axis=0)[: len(edges[number])]
        if len(gains) and gains.max() > best:
            best, found = float(gains.max()), (int(number), int(gains.argmax()))
    return found


def logits_of(model: PairModel, table: PairTable) -> Any:
    """The log-odds of every pair of a table."""
    standard = (table.dense - model.means) / model.scales
    linear = standard @ model.weights + model.bias
    linear += table.sparse() @ (model.buckets.astype(np.float64) * model.bucket_scale)
    rows = np.column_stack([table.dense, linear.astype(np.float32)])
    parts = [grown(model, rows[at : at + 4096]) for at in range(0, len(rows), 4096)]
    return np.concatenate(parts) + model.base


def held_out_logits(
    table: PairTable, labels: Any, groups: Any, folds: int, *, seed: int = 0,
    progress: Progress | None = None,
) -> tuple[Any, Any]:  # fmt: skip
    """(log-odds, fold) of every pair, each from a model that did not see its group."""
    report = progress or (lambda done, total: None)
    fold_of = folds_of(groups, folds, seed + 1)
    logits = np.empty(len(table))
    for fold in range(folds):
        mine = fold_of == fold
        model = fit_pairs(table.part(~mine), labels[~mine], groups[~mine], seed=seed)
        logits[mine] = logits_of(model, table.part(mine))
        report(fold + 1, folds)
    return logits, fold_of


def folds_of(groups: Any, count: int, seed: int) -> Any:
    """The fold of each row; groups are spread evenly, and stay together."""
    random = np.random.Generator(np.random.PCG64(seed))
    return (random.permutation(int(groups.max()) + 1) % count)[groups]


# -- the model of the neighbourhood ---------------------------------------------------------------


class Lookup(NamedTuple):
    """A lookup of a stream, as the cache would meet it."""

    features: list[float]
    """NEIGHBOUR_NAMES."""
    holders: int
    """Neighbours that have the answer."""
    agrees: bool
    """All checks pass."""
    is_right: bool


def stream(
    askings: Sequence[Asking], embedder: PieceEmbedder, alike: Callable[[Pair], float],
    serves: Callable[[Lookup], bool],
) -> list[Lookup]:  # fmt: skip
    """Ask one after the other; what is not served is stored. All but the first."""
    reader = Reader(embedder)
    vectors = embedder.embed([asking.question for asking in askings])
    read = [
        reader.read(asking.question, UNKNOWN_TIME, vector)
        for asking, vector in zip(askings, vectors, strict=True)
    ]
    intents = {name: n for n, name in enumerate(dict.fromkeys(a.intent for a in askings), 1)}
    responses = [intents[asking.intent] for asking in askings]
    questions = ScopeQuestions(planes_for(embedder.dimensions), room_for(len(askings)))
    found = []
    for number, vector in enumerate(vectors):
        if not np.any(vector):
            continue
        if len(questions):
            nearest = questions.nearest(vector, None, 0)
            chosen = chosen_of(nearest.cosines.tolist(), nearest.responses.tolist(), NEIGHBOURS)
            other = read[nearest.answers[chosen.place]]
            pair = reader.pair(read[number], other)
            lookup = Lookup(
                neighbour_features(chosen, alike(pair), pair), chosen.holders,
                agree(read[number].traits, other.traits),
                responses[nearest.answers[chosen.place]] == responses[number],
            )  # fmt: skip
            found.append(lookup)
            if serves(lookup):
                continue
        entry = entry_of(
            vector, context=bytes(16), response=responses[number], expires_us=NEVER_US, space=1
        )
        questions.add([number], [entry])
    return found


def fit_neighbours(lookups: Sequence[Lookup]) -> NeighbourModel:
    from scipy.sparse import csr_matrix

    rows = np.array([lookup.features for lookup in lookups])
    labels = np.array([lookup.is_right for lookup in lookups], np.float64)
    means, scales = rows.mean(axis=0), rows.std(axis=0) + 1e-6
    weights, bias = logistic(csr_matrix((rows - means) / scales), labels, _NEIGHBOUR_PENALTY)
    weights = weights / scales
    bias -= float(weights @ means)
    pair = NEIGHBOUR_NAMES.index("alike")
    pair_most = float((rows[:, pair:] @ weights[pair:]).max())
    return NeighbourModel(weights.astype(np.float32), bias, pair_most)


# -- scores ---------------------------------------------------------------------------------------


def score_table(logits: Any, labels: Any) -> Scores:
    """What share is right at or above some log-odds, at its lower bound (Wilson), made to rise."""
    order = np.argsort(-logits, kind="stable")
    falling, right = logits[order], np.cumsum(labels[order])
    counts = np.arange(1, len(falling) + 1)
    bounds = np.array([wilson(int(k), int(n), _Z)[0] for k, n in zip(right, counts, strict=True)])
    least = min(_TABLE_ROWS_MIN, len(falling)) - 1
    marks = np.unique(np.geomspace(least + 1, len(falling), _KNOTS).astype(int)) - 1
    # Nothing says that fewer and surer ones are worse.
    scores = np.minimum(np.maximum.accumulate(bounds[marks][::-1]), _SCORE_MAX)
    places = falling[marks][::-1]
    rising = np.concatenate([[True], np.diff(places) > 1e-9])
    return Scores(places[rising], scores[rising])


def wilson(right: int, count: int, z: float = 1.96) -> tuple[float, float]:
    """The bounds of a share (Wilson, JASA 1927)."""
    if not count:
        return 0.0, 1.0
    share, square = right / count, z * z
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = z / (1 + square / count) * (share * (1 - share) / count + square / (4 * count**2)) ** 0.5
    return max(0.0, middle - half), min(1.0, middle + half)


def may_be_served(lookup: Lookup) -> bool:
    return lookup.agrees and lookup.holders >= SAME_ANSWERS_MIN


def fit_matcher(
    pairs: Sequence[LabelledPair], groups: Any, askings: Sequence[Asking],
    embedder: PieceEmbedder, *, seed: int = 0, say: Callable[[str], None] = lambda line: None,
) -> Matcher:  # fmt: skip
    """All of it: pairs, then neighbours on streams that serve by themselves, then the tables."""
    table = tabulate(pairs, embedder, lambda done, total: None)
    say("pairs are read")
    labels = np.array([pair.is_same for pair in pairs], np.float64)
    matcher = fit_scored_pairs(table, labels, groups, seed=seed)
    say("pairs are fitted")
    return fit_neighbourhood(matcher, askings, embedder, seed=seed, say=say)


def fit_scored_pairs(
    table: PairTable, labels: Any, groups: Any, *, folds: int | None = None, seed: int = 0
) -> Matcher:
    """The first half: a model of pairs, and its scores, which are those of models that did not see
    the pair. Its neighbours say nothing yet."""
    model = fit_pairs(table, labels, groups, seed=seed)
    logits, _ = held_out_logits(table, labels, groups, folds or _INNER, seed=seed)
    checked = table.agrees
    scores = score_table(logits[checked], labels[checked])
    unsure = NeighbourModel(np.zeros(len(NEIGHBOUR_NAMES), np.float32), 0.0, 0.0)
    return Matcher(table.lexicon, model, unsure, scores, scores)


def fit_neighbourhood(
    matcher: Matcher, askings: Sequence[Asking], embedder: PieceEmbedder, *, seed: int = 0,
    say: Callable[[str], None] = lambda line: None,
) -> Matcher:  # fmt: skip
    """The second half. What is stored depends on what is served: the first stream serves by votes
    alone, each further one by what the one before taught; the last ones make the table."""
    random = np.random.Generator(np.random.PCG64(seed))
    orders = [[askings[n] for n in random.permutation(len(askings))] for _ in range(5)]

    def by_votes(lookup: Lookup) -> bool:
        return may_be_served(lookup) and lookup.features[2] > _SURE_VOTES

    lookups = stream(orders[0], embedder, matcher.alike, by_votes)
    seen: list[Lookup] = []
    for turn, order in enumerate(orders[1:]):
        neighbours = fit_neighbours(lookups)
        line = _line_of(neighbours, lookups)

        def by_model(lookup: Lookup, model: Any = neighbours, line: float = line) -> bool:
            return may_be_served(lookup) and neighbour_logit(model, lookup.features) >= line

        lookups = stream(order, embedder, matcher.alike, by_model)
        served = [lookup for lookup in lookups if by_model(lookup)]
        wrong = sum(not lookup.is_right for lookup in served)
        say(f"stream {turn + 2}: {len(served)} of {len(order)} served, {wrong} wrong")
        if turn:
            seen += lookups
    candidates = [lookup for lookup in seen if may_be_served(lookup)]
    table = score_table(
        np.array([neighbour_logit(neighbours, lookup.features) for lookup in candidates]),
        np.array([lookup.is_right for lookup in candidates], np.float64),
    )
    return matcher._replace(neighbours=neighbours, neighbour_scores=table)


def _line_of(model: NeighbourModel, lookups: Sequence[Lookup], share: float = 0.99) -> float:
    """The log-odds from which on so large a share is right."""
    served = [lookup for lookup in lookups if may_be_served(lookup)]
    logits = np.array([neighbour_logit(model, lookup.features) for lookup in served])
    labels = np.array([lookup.is_right for lookup in served], np.float64)
    table = score_table(logits, labels)
    above = table.scores >= share
    return float(table.logits[above][0]) if above.any() else float("inf")
