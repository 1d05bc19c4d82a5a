"""Products of matrices, in pieces that start no threads."""

from typing import Any

import numpy as np
import pytest

from memopt.embedding import vectors


@pytest.mark.parametrize(
    ("rows", "others", "width"),
    [(0, 3, 8), (1, 1, 1), (256, 12, 256), (28, 112, 256), (3, 5000, 256), (700, 32, 300)],
)
def test_products_are_those_of_the_whole(
    monkeypatch: pytest.MonkeyPatch, rows: int, others: int, width: int
) -> None:
    draw = np.random.default_rng(1)
    one = draw.standard_normal((rows, width)).astype(np.float32)
    other = draw.standard_normal((others, width)).astype(np.float32)
    sizes: list[int] = []
    multiply = np.matmul

    def counted(a: Any, b: Any, out: Any) -> Any:
        sizes.append(len(a) * b.size)
        return multiply(a, b, out=out)

    monkeypatch.setattr(vectors.np, "matmul", counted)
    found = vectors.products(one, other)
    assert np.allclose(found, one @ other.T, rtol=1e-4, atol=1e-3)
    assert found.shape == (rows, others)
    # One row can be no less.
    assert all(size <= max(1 << 18, other.size) for size in sizes)
