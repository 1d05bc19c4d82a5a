"""Texts are cut into the word pieces that BERT's own tokenizer finds, whatever was cut before."""

import gc
import tracemalloc
import unicodedata
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memopt.base.errors import UsageError
from memopt.embedding import pieces
from memopt.embedding.pieces import UNKNOWN, WordPieces
from memopt.embedding.static import SHIPPED, open_table

tokenizers = pytest.importorskip("tokenizers", reason="tokenizers is the reference")

VOCABULARY = open_table(SHIPPED).vocabulary
WORDS = WordPieces(VOCABULARY)
# Letters that both know: the library's tables of characters are of another year than Python's.
LETTERS = st.characters(exclude_categories=("Cs", "Cn")).filter(
    lambda letter: unicodedata.ucd_3_2_0.category(letter) == unicodedata.category(letter)
    and letter not in "\u1734\u166d"
)
TEXTS = st.lists(
    st.one_of(
        st.text(LETTERS, max_size=12),
        st.sampled_from(
            [*VOCABULARY[2000:2100], "don't", "ΟΔΟΣ", "İstanbul", "naïve—café", "東京"]
        ),
        st.sampled_from([" ", "\t", "\n", "\x0b", "\x00", "\ufffd", "##", "_", "\u200d", "\u037e"]),
    ),
    max_size=12,
).map("".join)


@pytest.fixture(scope="module")
def reference() -> Any:
    numbers = {piece: number for number, piece in enumerate(VOCABULARY)}
    whole = tokenizers.Tokenizer(
        tokenizers.models.WordPiece(numbers, unk_token=UNKNOWN, max_input_chars_per_word=100)
    )
    whole.normalizer = tokenizers.normalizers.BertNormalizer(lowercase=True)
    whole.pre_tokenizer = tokenizers.pre_tokenizers.BertPreTokenizer()
    return whole


def cut(text: str, words: WordPieces = WORDS) -> list[int]:
    return list(words.cut([text])[0].tolist())


@given(text=TEXTS)
def test_a_text_is_cut_as_the_library_cuts_it(reference: Any, text: str) -> None:
    assert cut(text) == reference.encode(text, add_special_tokens=False).ids


def test_every_character_of_the_first_planes_is_taken_as_the_library_takes_it(
    reference: Any,
) -> None:
    for start in range(0, 0x3000, 64):
        letters = [
            chr(code)
            for code in range(start, start + 64)
            if unicodedata.ucd_3_2_0.category(chr(code)) == unicodedata.category(chr(code))
            and unicodedata.category(chr(code)) != "Cn"
            and code not in (0x166D, 0x1734)
        ]
        text = " ".join(f"a{letter}b" for letter in letters)
        assert cut(text) == reference.encode(text, add_special_tokens=False).ids


@given(st.lists(TEXTS, max_size=6), st.integers(1, 9))
def test_texts_are_cut_each_by_itself_and_limited(texts: list[str], limit: int) -> None:
    found, starts = WORDS.cut(texts)
    assert [found[a:b].tolist() for a, b in pairwise(starts)] == [cut(text) for text in texts]
    some, starts = WORDS.cut(texts, limit=limit)
    assert [some[a:b].tolist() for a, b in pairwise(starts)] == [
        cut(text)[:limit] for text in texts
    ]


def test_what_is_remembered_is_limited_and_changes_nothing(monkeypatch: Any) -> None:
    monkeypatch.setattr(pieces, "LEARNT_WORDS_MAX", 50)
    words = WordPieces(VOCABULARY)
    before = len(words._words)
    for number in range(500):
        text = f"quux{number} zyzzyva{number % 7}"
        assert cut(text, words) == cut(text)
        assert len(words._words) <= before + 50 + 2
    words.cut(["x" * 41 for _ in range(9)])
    assert "x" * 41 not in words._words


def test_a_long_word_is_unknown_and_a_long_text_known_by_its_beginning() -> None:
    assert cut("a" * 101) == [VOCABULARY.index(UNKNOWN)]
    head = "word " * (pieces.TEXT_CHARACTERS_MAX // 5)
    assert cut(head + "x" * 5 + "other " * 10_000) == cut((head + "x" * 5)[:16_384])


def test_a_vocabulary_without_the_unknown_is_refused() -> None:
    with pytest.raises(UsageError, match="vocabulary"):
        WordPieces(["a", "b"])
    with pytest.raises(UsageError, match="vocabulary"):
        WordPieces([UNKNOWN, *map(str, range(1 << 16))])


def test_what_it_occupies_is_said() -> None:
    gc.collect()
    tracemalloc.start()
    try:
        before_bytes = tracemalloc.get_traced_memory()[0]
        vocabulary = open_table(SHIPPED).vocabulary
        words = WordPieces(vocabulary)
        for number in range(pieces.LEARNT_WORDS_MAX):
            words.cut([f"zq{number}xyzzy"])
        used_bytes = tracemalloc.get_traced_memory()[0] - before_bytes
    finally:
        tracemalloc.stop()
    assert used_bytes <= WordPieces.bytes_of(len(vocabulary)) <= 1.3 * used_bytes
