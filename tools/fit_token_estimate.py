"""Fit the weights by which tokens are estimated (memopt/context/estimating.py).

    python tools/fit_token_estimate.py tokenizer.json... -- texts.jsonl.gz...

Tokenizers are files of the `tokenizers` library, of the models to be near to; texts are
conversations, as the benchmarks read them. Half of the texts is fitted to, the other half says how
far off the estimate is.
"""

import sys

import numpy as np
from scipy.optimize import nnls
from tokenizers import Tokenizer

from memopt.bench.data import load
from memopt.context.estimating import features_of
from memopt.context.payload import payload_of

TEXT_CHARS_MAX = 20_000
SHORT_TOKENS = 20
"""An error of so many tokens weighs as much as the whole of a short text."""


def main(arguments: list[str]) -> None:
    split = arguments.index("--")
    tokenizers = [Tokenizer.from_file(path) for path in arguments[:split]]
    messages = [message for one in load(arguments[split + 1 :]) for message in one]
    texts = [payload_of(message, "openai").text[:TEXT_CHARS_MAX] for message in messages]
    texts = [text for text in texts if text.strip()]
    names = list(features_of(""))
    features = np.array([[features_of(text)[name] for name in names] for text in texts], float)
    counts = np.mean(
        [[len(one.encode(text, add_special_tokens=False).ids) for text in texts]
         for one in tokenizers], axis=0,
    )  # fmt: skip
    weigh = 1 / np.sqrt(counts * (counts + SHORT_TOKENS))
    fitted = np.arange(len(texts)) % 2 == 0
    weights, _ = nnls((features * weigh[:, None])[fitted], (counts * weigh)[fitted])
    print({name: round(float(weight), 3) for name, weight in zip(names, weights, strict=True)})
    held = ~fitted & (counts > 2 * SHORT_TOKENS)
    off = (features @ weights)[held] / counts[held] - 1
    mean, p95 = np.abs(off).mean(), np.quantile(np.abs(off), 0.95)
    print(f"held out: {mean:.3f} on average, {p95:.3f} p95")


if __name__ == "__main__":
    main(sys.argv[1:])
