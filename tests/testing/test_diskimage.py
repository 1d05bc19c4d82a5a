"""The contents of a simulated disk against lists and bytes that are too dull to be wrong."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memopt.testing.diskimage import DiskImage, Inode, PowerLoss

WRITES = st.tuples(st.integers(0, 40), st.binary(max_size=20))
TRUNCATIONS = st.tuples(st.integers(0, 60), st.none())
STEPS = st.lists(st.one_of(WRITES, TRUNCATIONS, st.sampled_from(["sync", "forget", "copy"])))


def applied(content: bytes, offset: int, data: bytes | None) -> bytes:
    if data is None:
        return content[:offset].ljust(offset, b"\0")
    if not data:
        return content.ljust(offset, b"\0")
    return content[:offset].ljust(offset, b"\0") + data + content[offset + len(data) :]


@given(STEPS)
def test_an_inode_is_its_operations_in_order_and_durable_up_to_the_last_sync(
    steps: list[tuple[int, bytes | None] | str],
) -> None:
    inode, seen, durable = Inode(), b"", b""
    pending: list[tuple[int, bytes | None]] = []
    copies: list[tuple[Inode, bytes]] = []
    for step in steps:
        if step == "sync":
            inode.sync()
            for offset, data in pending:
                durable = applied(durable, offset, data)
            pending = []
        elif step == "forget":
            inode.forget_pending()
            pending = []
        elif step == "copy":
            copies.append((inode, seen))
            inode = inode.copy()
        else:
            assert isinstance(step, tuple)
            offset, data = step
            inode.truncate(offset) if data is None else inode.write(data, offset)
            seen = applied(seen, offset, data)
            pending.append(step)
        assert inode.data == seen
    crashed = inode.after_power_loss(random.Random(0), PowerLoss.DROP_ALL)
    assert crashed.data == durable
    assert all(original.data == then for original, then in copies)


def crash_contents(mode: PowerLoss) -> set[bytes]:
    """What becomes of three unsynced writes to three places of a synced file."""
    inode = Inode()
    inode.write(b"...", 0)
    inode.sync()
    for offset, data in enumerate((b"A", b"B", b"C")):
        inode.write(data, offset)
    rng = random.Random(1)
    return {bytes(inode.after_power_loss(rng, mode).data) for _ in range(500)}


def test_each_mode_keeps_what_it_says() -> None:
    assert crash_contents(PowerLoss.DROP_ALL) == {b"..."}
    assert crash_contents(PowerLoss.KEEP_PREFIX) == {b"...", b"A..", b"AB.", b"ABC"}
    subsets = {bytes((a, b, c)) for a in b".A" for b in b".B" for c in b".C"}
    assert crash_contents(PowerLoss.REORDER) == subsets


@pytest.mark.parametrize("cut_at_sectors", [True, False])
def test_a_torn_write_keeps_one_side_of_a_cut(cut_at_sectors: bool) -> None:
    inode = Inode(b"." * 2000)
    inode.write(b"X" * 1600, 200)
    rng = random.Random(2)
    cuts = set()
    sides = set()
    for _ in range(500):
        data = bytes(inode.after_power_loss(rng, PowerLoss.TORN).data)
        written = data.strip(b".")
        assert written == b"X" * len(written), "torn in more than one place"
        assert len(data) == 2000
        assert set(data[:200] + data[1800:]) == set(b"."), "bytes beside the write were touched"
        if written:
            sides.add((data[200:201] == b"X", data[1799:1800] == b"X"))
            cuts |= {data.index(b"X"), data.rindex(b"X") + 1} - {200, 1800}
    assert sides == {(True, True), (True, False), (False, True)}
    if cut_at_sectors:
        assert {512, 1024, 1536} <= cuts
    else:
        assert len({cut % 512 for cut in cuts}) > 20


def test_any_surviving_write_may_be_the_torn_one() -> None:
    inode = Inode(b"......")
    inode.write(b"AAA", 0)
    inode.write(b"BBB", 3)
    rng = random.Random(4)
    seen = {bytes(inode.after_power_loss(rng, PowerLoss.TORN).data) for _ in range(500)}
    assert {b"AA.BBB", b"AAAB..", b"AA....", b"...BB."} <= seen


def test_a_file_made_again_is_the_old_one_nothing_or_the_new_one() -> None:
    image = DiskImage()
    image.sync("a", image.create("a"))
    image.names["a"].write(b"old", 0)
    image.names["a"].sync()
    image.delete("a")
    image.create("a").write(b"new", 0)
    rng = random.Random(3)

    def content(mode: PowerLoss) -> bytes | None:
        inode = image.after_power_loss(rng, mode).names.get("a")
        return None if inode is None else bytes(inode.data)

    assert {content(PowerLoss.REORDER) for _ in range(200)} == {b"old", None, b"", b"new"}
    assert content(PowerLoss.DROP_ALL) == b"old"
    image.sync("a", image.names["a"])
    assert {content(mode) for mode in PowerLoss for _ in range(20)} == {b"new"}


def test_syncing_a_deleted_file_does_not_bring_its_name_back() -> None:
    image = DiskImage()
    inode = image.create("a")
    image.delete("a")
    image.sync("a", inode)
    assert image.after_power_loss(random.Random(0), PowerLoss.DROP_ALL).names == {}
    image.sync_directory()
    for mode in PowerLoss:
        assert image.after_power_loss(random.Random(0), mode).names == {}


def test_a_copy_keeps_what_is_pending_and_goes_its_own_way() -> None:
    image = DiskImage()
    image.create("a").write(b"1", 0)
    twin = image.copy()
    image.names["a"].write(b"2", 0)
    twin.names["a"].write(b"3", 1)
    assert bytes(image.names["a"].data) == b"2"
    assert bytes(twin.names["a"].data) == b"13"
    assert twin.after_power_loss(random.Random(0), PowerLoss.DROP_ALL).names == {}
    twin.sync("a", twin.names["a"])
    [survivor] = twin.after_power_loss(random.Random(0), PowerLoss.DROP_ALL).names.values()
    assert survivor.data == b"13"
