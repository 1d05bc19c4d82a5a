"""Fits the models of the answer cache and writes `src/memopt/answers/matcher.bin`.

    python tools/fit_answers.py [--out FILE] [--seed N]

It reads the labelled pairs and the intents of the data that MEMOPT_DATA names (see
memopt.bench.answer_data), takes some minutes on one core, and needs scipy. The same data and seed
give the same file, but for what another numpy or BLAS rounds differently.
"""

import argparse
import sys
import time
from pathlib import Path

import numpy as np

from memopt.answers.matching import SHIPPED, pack_matcher
from memopt.bench.answer_data import components, load_intents, load_pairs
from memopt.bench.answer_fitting import fit_matcher
from memopt.embedding.static import StaticEmbedder


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path, default=SHIPPED)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    started = time.monotonic()

    def say(line: str) -> None:
        sys.stderr.write(f"{time.monotonic() - started:6.0f} s  {line}\n")

    pairs = load_pairs()
    matcher = fit_matcher(
        pairs, np.array(components(pairs)), load_intents(), StaticEmbedder(), seed=given.seed,
        say=say,
    )  # fmt: skip
    packed = pack_matcher(matcher)
    given.out.write_bytes(packed)
    say(f"{given.out}: {len(packed):,} bytes")
    for name in ("pair_scores", "neighbour_scores"):
        table = getattr(matcher, name)
        shown = ", ".join(
            f"{score:.3f} from {logit:.2f}"
            for logit, score in list(zip(table.logits, table.scores, strict=True))[::6]
        )
        say(f"{name}: {shown}")


if __name__ == "__main__":
    main()
