"""Features that come from other entries: from the page an entry is on, and from the best entries.

A second step of finding: what answers a question often shares no word with it, and is led to by
what does. Owns: headings and what they name, likeness to the best candidates, and links: a
candidate on a page whose title a good candidate mentions, or the other way round. Not here: the
features of an entry itself (features).
"""

from typing import Any, Final

import numpy as np

from memopt.embedding.vectors import products
from memopt.recall.entries import Role
from memopt.recall.ragged import among, incidence, ragged
from memopt.recall.scan import TINY, Scan

Array = np.ndarray[Any, Any]
Features = dict[str, Array]

WINNERS: Final = 8
"""The best of the candidates, with which the others are compared."""
_WHOLE: Final = 0.95
_OF_PAGES: Final = ("meaning", "length", "words", "score", "soft", "pair_met", "window_met_best")
_PAGED: Final = (
    "page_first", "title_whole", "title_covered", "page_window", "page_covered", "page_meanings",
    *(f"page_{name}" for name in _OF_PAGES),
    "like_best", "shares_best", "shares_mean", "linked", "linked_whole", "linking",
)  # fmt: skip


def paged_features(f: Features, scan: Scan, chosen: Array, around: Array, scores: Array) -> None:
    """Of what has a heading, a page; in talks, what the best have in common led nowhere."""
    heads = scan.index.run_first[scan.index.run[chosen]]
    page = (scan.index.entries.role[heads] == Role.HEADING).astype(np.float32)
    if not page.any():
        f.update(dict.fromkeys(_PAGED, page))
        return
    _page_features(f, scan, chosen, around, heads, page)
    _winner_features(f, scan, chosen, scores, heads, page)


def _page_features(
    f: Features, scan: Scan, chosen: Array, around: Array, heads: Array, page: Array
) -> None:
    """Of sentences of a page, which is about what its title says."""
    entries = scan.index.entries
    has = (scan.parts[:, heads] > 0) | (scan.parts[:, chosen] > 0)
    owners, terms = ragged(entries.terms_start, entries.terms, heads)
    asked = among(terms, np.array(scan.query.terms, np.uint32))
    said = np.bincount(owners, asked, len(chosen))
    wanted = np.bincount(owners, minlength=len(chosen))
    f["page_first"] = page * (around[len(around) // 2 - 1] == heads)
    f["title_whole"] = page * (said == wanted) * (wanted > 0)
    f["title_covered"] = page * ((scan.idf / scan.full) @ has)
    f["page_window"] = page * f["soft_window"]
    index = scan.index
    run, runs = index.run, len(index.run_first)
    # Which terms are anywhere on the page, and what its best sentence means.
    there = np.zeros((len(scan.parts), runs), bool)
    for row, part in zip(there, scan.parts, strict=True):
        row[run[part[: len(index)] > 0]] = True
    f["page_covered"] = page * ((scan.idf / scan.full) @ there[:, run[chosen]])
    best = np.full(runs, -np.inf, np.float32)
    np.maximum.at(best, run, scan.meaning[: len(index)])
    f["page_meanings"] = page * best[run[chosen]]
    for name in _OF_PAGES:
        f[f"page_{name}"] = page * f[name]


def _winner_features(
    f: Features, scan: Scan, chosen: Array, scores: Array, heads: Array, page: Array
) -> None:
    """Beside the best few of `chosen`, each counting by how good it is itself."""
    index, entries = scan.index, scan.index.entries
    best = chosen[:WINNERS]
    weight = np.exp(scores[best] - scores[best[0]])[:, None]
    other = best[:, None] != chosen
    vectors = entries.vectors[chosen] * entries.scales[chosen].astype(np.float32)[:, None]
    alike = products(vectors[: len(best)], vectors) * other
    f["like_best"] = (alike * weight).sum(axis=0) / weight.sum()
    owners, terms = ragged(entries.terms_start, entries.terms, chosen)
    theirs = terms[owners < len(best)]
    new = np.unique(theirs[~among(theirs, np.array(scan.query.terms, np.uint32))])
    has = incidence(terms, owners, new, len(chosen))
    shared = products(has[: len(best)] * index.idf(new), has) * other * weight
    f["shares_best"] = np.log1p(shared.max(axis=0))
    f["shares_mean"] = np.log1p(shared.sum(axis=0) / weight.sum())
    few = len(weight)
    head_owners, head_terms = ragged(entries.terms_start, entries.terms, heads)
    known = np.unique(head_terms)
    idf = index.idf(known)
    titles = incidence(head_terms, head_owners, known, len(chosen)) * page[:, None]
    mentions = incidence(terms, owners, known, len(chosen))
    whole = np.maximum(titles @ idf, TINY)
    other_run = index.run[chosen[:few]][:, None] != index.run[chosen]
    # Of the title of each candidate's page, what share each of the best mentions; and back.
    mentioned = (mentions[:few] * idf) @ titles.T / whole * other_run
    mentioning = (titles[:few] * idf) @ mentions.T / whole[:few, None] * other_run
    f["linked"] = (mentioned * weight).max(axis=0)
    f["linked_whole"] = ((mentioned > _WHOLE) * weight).max(axis=0)
    f["linking"] = (mentioning * weight).max(axis=0)
