"""Terms and flags of texts in several languages, and of what is no text."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memopt.base.errors import UsageError
from memopt.text import analysis
from memopt.text.analysis import Analyser, Flag, name_of, term_of


def stems(text: str, language: str | None = None) -> list[str]:
    return [stem for _, stem in Analyser(language).stems(text)]


@pytest.mark.parametrize(
    ("text", "language", "expected"),
    [
        ("She adopted two dogs and was adopting more", "english", ["adopt", "two", "dog", "adopt"]),
        ("Wo ist meine neue Wohnung in Berlin?", "german", ["neu", "wohnung", "berlin"]),
        ("Où est la clé de la maison de ma mère ?", "french", ["clé", "maison", "mer"]),
        ("¿Dónde está la casa de mis hermanas?", "spanish", ["cas", "herman"]),
        ("Я купил две собаки вчера", "russian", ["куп", "две", "собак", "вчер"]),
        ("मेरी किताबें कहाँ हैं", "hindi", ["किताब"]),
        ("Πού είναι τα βιβλία μου;", "greek", ["βιβλ"]),
        ("Kediler nerede ve evler ne zaman", "turkish", ["kedi", "ev"]),
    ],
)
def test_words_are_stemmed_in_the_language_of_the_text(
    text: str, language: str, expected: list[str]
) -> None:
    assert Analyser().analyse(text).language == language
    assert stems(text) == expected


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("今日は東京へ", ["今日", "日は", "は東", "東京", "京へ"]),
        ("書", ["書"]),
        ("Pythonで書く", ["python", "で書", "書く"]),
        ("한국어", ["한국", "국어"]),
        ("สวัสดี", ["สว", "ว\u0e31", "\u0e31ส", "สด", "ด\u0e35"]),
    ],
)
def test_what_is_written_without_spaces_goes_by_pairs(text: str, expected: list[str]) -> None:
    assert stems(text) == expected
    assert Analyser().analyse(text).flags & Flag.PAIRS


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("parseHTTPHeader", ["parsehttpheader", "pars", "http", "header"]),
        ("user_name", ["user_name", "user", "name"]),
        ("os.path.join", ["os.path.join", "os", "path", "join"]),
        ("well-known", ["well", "known"]),
        ("2023-05-07", ["2023-05-07", "2023", "05", "07"]),
        ("1,234,567.50", ["1234567.50"]),
        ("Caroline's café", ["carolin", "cafe"]),
        ("don\u2019t", []),
    ],
)
def test_a_compound_is_found_whole_and_by_its_parts(text: str, expected: list[str]) -> None:
    assert stems(text) == expected


@pytest.mark.parametrize(
    ("text", "flags"),
    [
        ("Did you see it?", Flag.QUESTION | Flag.SECOND_PERSON),
        ("I never said three", Flag.FIRST_PERSON | Flag.NEGATION | Flag.NUMBER),
        ("Yesterday with Melanie", Flag.TIME | Flag.NAME),
        ("Melanie sang", Flag(0)),
        ("call user_name", Flag.CODE),
        ("", Flag(0)),
        ("\0\1\2\3\4", Flag.BINARY),
    ],
)
def test_a_text_bears_flags(text: str, flags: Flag) -> None:
    assert Flag(Analyser().analyse(text).flags) == flags


def test_a_long_text_is_read_up_to_its_limit() -> None:
    found = Analyser().analyse("word " * analysis.CHARS_MAX)
    assert len(found.terms) == analysis.TERMS_MAX
    assert found.flags & Flag.CUT


def test_what_is_too_long_for_a_word_is_none() -> None:
    assert stems("A" * 65) == []
    assert stems("A1" * 40) == []
    assert len(stems("/".join(["part"] * 100))) <= 16


def test_a_settled_language_is_used_for_every_latin_text() -> None:
    assert stems("Wohnungen", "german") == ["wohnung"]
    assert stems("running dogs", "german") == ["running", "dog"]
    with pytest.raises(UsageError, match="language"):
        Analyser("klingon")


def test_a_speaker_goes_by_the_first_word_of_the_name() -> None:
    assert name_of("Caroline Smith") == name_of("CAROLINE") == term_of("caroline")
    assert name_of(None) == name_of(" … ") == 0


@given(st.lists(st.text(max_size=60), max_size=20))
def test_terms_do_not_depend_on_what_was_analysed_before(texts: list[str]) -> None:
    used = Analyser()
    for text in texts:
        found = used.analyse(text)
        assert found == Analyser().analyse(text)
        assert found.terms == [term_of(stem) for _, stem in used.stems(text)]
        assert 0 <= found.flags < 1 << 16
        assert len(found.terms) <= analysis.TERMS_MAX


def test_the_words_that_are_remembered_are_bounded() -> None:
    used = Analyser(cached_words_max=10)
    for number in range(100):
        used.analyse(f"word{number} wort{number}")
        assert sum(map(len, used._cached.values())) <= 10
    assert used.analyse("word1 wort1") == Analyser().analyse("word1 wort1")


@given(st.text(st.characters(max_codepoint=127)))
def test_a_plain_text_is_cut_as_any_other(text: str) -> None:
    assert analysis._TOKEN_ASCII.findall(text) == analysis._TOKEN.findall(text)
