"""Nothing that was acknowledged is lost to a SIGKILL, whatever it falls into."""

import json
import subprocess
import sys

import pytest

pytestmark = pytest.mark.slow

KILLS = 100


def test_a_hundred_kills_at_random_moments_lose_nothing_and_damage_nothing() -> None:
    done = subprocess.run(
        [
            sys.executable, "-m", "memopt.testing.crash", "--kills", str(KILLS), "--seed", "1",
            "--json",
        ],
        capture_output=True, text=True, check=False, timeout=300,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-4000:]
    summary = json.loads(done.stdout)
    assert summary["failure"] is None
    assert summary["kills"] == KILLS
    assert summary["acknowledged"] > KILLS
    # Were none of them cut short, the kills would have come when there was nothing to lose.
    assert summary["in_flight_done"] + summary["in_flight_undone"] > KILLS / 4
