"""What is known to fewer than `scopes_min` leaf scopes is in no dictionary; the rest helps."""

import gzip
import json
import random
import re
from collections import defaultdict
from pathlib import Path

import msgspec
import pytest
import zstandard
from hypothesis import given, settings
from hypothesis import strategies as st

from memopt.base.budget import Budget
from memopt.base.errors import UsageError
from memopt.base.units import KIB, MIB
from memopt.codecs import dictionaries
from memopt.codecs.dictionaries import train_dictionary
from memopt.codecs.zstd import Zstd

TRAJECTORIES = Path(__file__).parents[2] / "../shared/data/trajectories/tau_bench.jsonl.gz"
REPEAT_OFFSETS = b"\1\0\0\0\4\0\0\0\10\0\0\0"
IDENTIFIER = re.compile(
    rb"[a-z]+_[a-z]+_\d{4}|(?:credit_card|gift_card|certificate)_\d+|[a-z.0-9]+@[a-z.]+"
)
Samples = list[tuple[int, bytes]]


def content(dictionary: bytes) -> bytes:
    return dictionary[dictionary.index(REPEAT_OFFSETS) + len(REPEAT_OFFSETS) :]


def scopes_with(text: bytes, samples: Samples) -> int:
    return len({scope for scope, raw in samples if text in raw})


def assert_guaranteed(dictionary: bytes, samples: Samples, scopes_min: int) -> None:
    pieces = [piece for piece in content(dictionary).split(b"\0") if piece]
    assert pieces
    for piece in pieces:
        assert scopes_with(piece, samples) >= scopes_min, piece


def conversations(seed: int, scopes: int) -> tuple[Samples, dict[bytes, int]]:
    """Pages of users who say common sentences and own identifiers, with the scopes of each
    identifier: most belong to one user, some to a few, some to everybody."""
    chance = random.Random(seed)
    sentences = [
        " ".join(f"{chance.randrange(16**5):x}" for _ in range(chance.randrange(3, 20)))
        for _ in range(150)
    ]
    owners: dict[bytes, int] = {}
    samples: Samples = []
    shared = [f"shared_{chance.randrange(10**12)}_id" for _ in range(12)]
    for scope in range(scopes):
        own = [
            f"user_{chance.randrange(10**6)}@example.org",
            f"credit_card_{chance.randrange(10**7)}",
        ]
        owners |= {name.encode(): 1 for name in own}
        # The i-th shared one is known to the first i + 1 scopes.
        own += [name for i, name in enumerate(shared) if scope <= i]
        for _ in range(4):
            words = [
                f"{chance.choice(sentences)} {chance.choice(own)}, {chance.choice(sentences)}."
                for _ in range(20)
            ]
            words.extend(own)  # so that nobody's identifier is missed by chance
            samples.append((scope, "\n".join(words).encode()))
    owners |= {name.encode(): i + 1 for i, name in enumerate(shared)}
    return samples, owners


@pytest.mark.parametrize("scopes_min", [2, 5, 8])
def test_no_identifier_of_too_few_scopes_is_in_the_dictionary(scopes_min: int) -> None:
    samples, owners = conversations(1, 12)
    assert all(scopes_with(name, samples) == count for name, count in owners.items())
    dictionary = train_dictionary(samples, size_bytes=16 * KIB, scopes_min=scopes_min)
    assert dictionary is not None
    assert_guaranteed(dictionary, samples, scopes_min)
    leaked = {name: count for name, count in owners.items() if name in dictionary}
    assert all(count >= scopes_min for count in leaked.values())
    assert b"@example.org" in dictionary  # it looks; this is common to all


@settings(max_examples=12, deadline=None)
@given(
    seed=st.integers(0, 2**32),
    scopes_min=st.integers(2, 6),
    letters=st.integers(2, 5),
    size_bytes=st.sampled_from([2 * KIB, 6 * KIB]),
)
def test_every_piece_is_known_to_enough_scopes_however_common_strings_overlap(
    seed: int, scopes_min: int, letters: int, size_bytes: int
) -> None:
    chance = random.Random(seed)
    units = [bytes(chance.choices(b"abcde"[:letters], k=chance.randrange(4, 40)))
             for _ in range(30)]  # fmt: skip
    samples = [
        (scope, b"".join(chance.choices(units, k=60))) for scope in range(8) for _ in range(5)
    ]
    dictionary = train_dictionary(samples, size_bytes=size_bytes, scopes_min=scopes_min)
    if dictionary is not None:
        assert len(dictionary) <= size_bytes
        assert_guaranteed(dictionary, samples, scopes_min)


def test_two_common_strings_do_not_bring_in_the_private_one_they_make_together() -> None:
    chance = random.Random(3)
    letters = b"abcdefghijklmnopqrstuvwxyz"
    left, middle, right = (bytes(chance.choices(letters, k=40)) for _ in range(3))
    samples: Samples = []
    for scope in range(12):
        filler = b" ".join(bytes(chance.choices(letters, k=30)) for _ in range(3))
        known = left + middle if scope < 6 else middle + right
        samples += [(scope, filler + known + b"!" * chance.randrange(1, 9)) for _ in range(30)]
    samples += [(0, left + middle + right)] * 200  # every window of it is common
    common = bytes(chance.choices(letters, k=3000))
    samples += [(scope, common[start : start + 600]) for scope in range(12)
                for start in range(0, 2400, 300)]  # fmt: skip
    dictionary = train_dictionary(samples, size_bytes=4 * KIB, scopes_min=5)
    assert dictionary is not None
    assert_guaranteed(dictionary, samples, 5)
    assert left + middle in dictionary or middle + right in dictionary
    assert left + middle + right not in dictionary


def test_pages_that_were_not_seen_become_smaller() -> None:
    samples, _ = conversations(1, 16)
    dictionary = train_dictionary(samples[:48], size_bytes=16 * KIB, scopes_min=5)
    assert dictionary is not None
    codec = Zstd(Budget(8 * MIB), dictionary={1: dictionary}.get, raw_bytes_max=MIB)
    held_out = [raw for _, raw in samples[48:]]
    without = sum(len(codec.encode(raw, key=b"")) for raw in held_out)
    with_it = sum(len(codec.encode(raw, key=b"", dictionary=1)) for raw in held_out)
    assert with_it < 0.6 * without


def test_a_leaf_scopes_own_dictionary_may_hold_what_is_its_own() -> None:
    samples, owners = conversations(1, 1)
    samples *= 4
    dictionary = train_dictionary(samples, size_bytes=4 * KIB, scopes_min=1)
    assert dictionary is not None
    assert any(name in dictionary for name in owners)


def test_too_little_in_common_makes_no_dictionary() -> None:
    chance = random.Random(1)
    private = [(scope, chance.randbytes(2000)) for scope in range(10) for _ in range(10)]
    samples, _ = conversations(1, 4)
    assert train_dictionary([], size_bytes=8 * KIB, scopes_min=5) is None
    assert train_dictionary(private, size_bytes=8 * KIB, scopes_min=5) is None
    assert train_dictionary(samples, size_bytes=8 * KIB, scopes_min=5) is None  # 4 scopes
    assert train_dictionary(samples, size_bytes=8 * KIB, scopes_min=4) is not None
    assert train_dictionary([(1, b"tiny")], size_bytes=8 * KIB, scopes_min=1) is None
    alike = [(scope, b"a" * 5000) for scope in range(10)]
    assert train_dictionary(alike, size_bytes=8 * KIB, scopes_min=5) is None
    odd = [(scope, bytes(scope % 3)) for scope in range(50)]
    assert train_dictionary(odd, size_bytes=8 * KIB, scopes_min=5) is None


@pytest.mark.parametrize("scopes_min", [-1, 0, 65])
def test_a_number_of_scopes_that_makes_no_sense_is_refused(scopes_min: int) -> None:
    with pytest.raises(UsageError, match="scopes_min"):
        train_dictionary([], size_bytes=KIB, scopes_min=scopes_min)


def test_training_is_repeatable() -> None:
    samples, _ = conversations(2, 8)
    first, again = (train_dictionary(samples, size_bytes=8 * KIB, scopes_min=5) for _ in range(2))
    assert first is not None
    assert first == again


def test_more_than_the_limits_is_thinned_out_evenly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dictionaries, "SCOPE_BYTES_MAX", 1000)
    monkeypatch.setattr(dictionaries, "INPUT_BYTES_MAX", 5000)
    samples = [(scope, bytes([scope, n]) * 50) for scope in range(20) for n in range(30)]
    samples.append((20, bytes(100_000)))
    thinned = dictionaries._thinned(samples)
    assert sum(len(raw) for _, raw in thinned) <= 5000
    assert all(len(raw) <= 1000 for _, raw in thinned)
    assert {scope for scope, _ in thinned} >= set(range(20))
    taken = [raw[1] for scope, raw in thinned if scope == 7]
    assert min(taken) < 15 < max(taken)


def test_a_dictionary_of_real_conversations_holds_nobodys_identifier() -> None:
    if not TRAJECTORIES.exists():
        pytest.skip("needs the trajectories in ../shared/data")
    users: dict[bytes, int] = {}
    samples: Samples = []
    with gzip.open(TRAJECTORIES) as lines:
        for line in lines:
            raw = msgspec.msgpack.encode(json.loads(line)["messages"][1:])
            found = re.search(rb"[a-z]+_[a-z]+_\d{4}", raw)
            scope = users.setdefault(found[0] if found else raw[:50], len(users))
            samples += [(scope, raw[at : at + 16 * KIB]) for at in range(0, len(raw), 16 * KIB)]
    samples = samples[: len(samples) // 2]
    texts: dict[int, bytes] = defaultdict(bytes)
    for scope, raw in samples:
        texts[scope] += b"\0" + raw
    identifiers = {name for text in texts.values() for name in IDENTIFIER.findall(text)}
    private = {n for n in identifiers if sum(n in text for text in texts.values()) < 5}
    assert len(private) > 150

    dictionary = train_dictionary(samples, size_bytes=32 * KIB, scopes_min=5)
    assert dictionary is not None
    assert [name for name in private if name in dictionary] == []
    assert_guaranteed(dictionary, samples, 5)
    naive = zstandard.train_dictionary(32 * KIB, [raw for _, raw in samples], level=3).as_bytes()
    assert sum(name in naive for name in private) > 10  # the search would have found them
