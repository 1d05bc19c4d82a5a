"""Damage to real files is what its description says, and is taken back."""

import os
import random
import re
from pathlib import Path

import pytest

from memopt.testing.flips import Pristine, single_bit_flips, truncations


@pytest.fixture
def content() -> bytes:
    return random.Random(1).randbytes(300)


@pytest.fixture
def path(tmp_path: Path, content: bytes) -> Path:
    file = tmp_path / "some.db"
    file.write_bytes(content)
    return file


def difference(left: bytes, right: bytes) -> int:
    return int.from_bytes(left, "little") ^ int.from_bytes(right, "little")


def test_each_flip_changes_the_one_bit_it_names_and_is_undone(path: Path, content: bytes) -> None:
    seen = set()
    for description, damage in single_bit_flips(path, random.Random(2), 200):
        with damage:
            changed = difference(path.read_bytes(), content)
            assert changed.bit_count() == 1
            bit = changed.bit_length() - 1
            assert description == f"bit {bit % 8} of byte {bit // 8} of some.db flipped"
            seen.add(bit)
        assert path.read_bytes() == content
    assert len(seen) == 200


def test_without_a_count_every_bit_is_flipped_once(path: Path, content: bytes) -> None:
    places = [name for name, _ in single_bit_flips(path, random.Random(0), start=10, stop=13)]
    assert places == [
        f"bit {b} of byte {o} of some.db flipped" for o in (10, 11, 12) for b in range(8)
    ]
    assert len(list(single_bit_flips(path, random.Random(0)))) == 8 * len(content)
    assert len(list(single_bit_flips(path, random.Random(0), 10**9, stop=10**9))) == 2400


def test_each_truncation_cuts_where_it_says_and_is_undone(path: Path, content: bytes) -> None:
    sizes = set()
    for description, damage in truncations(path, random.Random(3), 50):
        with damage:
            kept = path.read_bytes()
            assert content.startswith(kept)
            assert description == f"some.db cut from 300 to {len(kept)} bytes"
            sizes.add(len(kept))
        assert path.read_bytes() == content
    assert len(sizes) == 50
    assert sorted(
        int(re.findall(r"to (\d+)", name)[0]) for name, _ in truncations(path, random.Random(0))
    ) == list(range(300))


def test_damage_is_undone_when_the_test_fails_inside(path: Path, content: bytes) -> None:
    for cases in (single_bit_flips, truncations):
        [(_, damage)] = cases(path, random.Random(4), 1)
        with pytest.raises(ZeroDivisionError), damage:
            raise ZeroDivisionError
        assert path.read_bytes() == content


def test_the_same_seed_does_the_same_damage(path: Path) -> None:
    for cases in (single_bit_flips, truncations):
        runs = [[name for name, _ in cases(path, random.Random(seed), 20)] for seed in (5, 5, 6)]
        assert runs[0] == runs[1] != runs[2]


def test_an_undo_leaves_alone_what_someone_else_wrote_since(path: Path) -> None:
    [(_, flip)] = single_bit_flips(path, random.Random(0), 1)
    with flip:
        path.write_bytes(b"")
    assert path.read_bytes() == b""
    path.write_bytes(b"0123456789")
    [(_, cut)] = truncations(path, random.Random(0), 1)
    with cut:
        path.write_bytes(b"recovered and longer")
    assert path.read_bytes() == b"recovered and longer"
    [(_, cut)] = truncations(path, random.Random(0), 1)
    with cut:
        path.unlink()
    assert not path.exists()


def test_a_pristine_directory_is_put_back_whatever_was_done_to_it(
    path: Path, content: bytes
) -> None:
    (path.parent / "sub").mkdir()
    other = path.parent / "sub" / "other"
    other.write_bytes(b"other")
    pristine = Pristine(path.parent)
    assert pristine.restore() == 0
    [(_, damage)] = single_bit_flips(path, random.Random(6), 1)
    with pristine.restored(), damage:
        stamp = os.stat(path)
        path.write_bytes(content[::-1])
        os.utime(path, ns=(stamp.st_atime_ns, stamp.st_mtime_ns))
        other.unlink()
        (path.parent / "new").write_bytes(b"new")
    assert path.read_bytes() == content
    assert other.read_bytes() == b"other"
    assert not (path.parent / "new").exists()
    assert pristine.restore() == 0
