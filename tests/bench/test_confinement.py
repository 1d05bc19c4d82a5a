"""A limit that was set is one: what takes more does not live to tell."""

import os
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

from memopt.bench.child import Child, Report
from memopt.bench.confinement import Confinement, confinement
from memopt.bench.measure import rss_bytes

_MIB = 1 << 20

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits are the Linux kernel's")


@pytest.fixture(autouse=True)
def tests_are_importable_in_children(monkeypatch: pytest.MonkeyPatch) -> None:
    inherited = os.environ.get("PYTHONPATH")
    here = os.path.dirname(os.path.abspath(__file__))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([here, inherited] if inherited else [here]))


def takes(argument: Any, report: Report) -> Any:
    confined = msgspec.convert(argument["confinement"], Confinement)
    confined.limit(32 * _MIB, start_rss_bytes=rss_bytes())
    report({"started": True})
    taken = []
    try:
        for _ in range(argument["mib"]):
            taken.append(os.urandom(_MIB))
    except MemoryError:
        return "MemoryError"
    return "had it"


def outcome(confined: Confinement, mib: int) -> str:
    argument = {"confinement": msgspec.to_builtins(confined), "mib": mib}
    with Child(takes, argument, prefix=confined.prefix()) as child:
        for line in child.lines():
            if "result" in line:
                return str(line["result"])
        return f"signal {-child.wait()}"


def test_what_fits_is_given_and_what_does_not_is_not() -> None:
    with confinement() as confined:
        assert outcome(confined, 4) == "had it"
        assert outcome(confined, 128) in ("signal 9", "MemoryError")
        assert bool(confined.oom_kills()) == (confined.group is not None)
    if confined.group is not None:
        assert not Path(confined.group).exists()


def test_without_a_group_the_data_limit_holds() -> None:
    confined = Confinement(kind="RLIMIT_DATA")
    assert confined.prefix() == []
    assert outcome(confined, 4) == "had it"
    assert outcome(confined, 128) == "MemoryError"
