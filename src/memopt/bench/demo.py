"""Question: what is left of a replay whose process is killed half-way?

Method: a child plays a schedule of conversations on a memopt directory and, after each
acknowledgement, writes the session's count into a mapped file. Half-way it gets SIGKILL. A second
child opens the directory, checks that every acknowledged message is there and equal, plays the
rest, reads everything back and compares it by hash.
Baseline: a dict of lists of dicts over the same schedule, in its own process; of that a kill leaves
nothing. Not measured: a power cut (SIGKILL leaves the system's cache alone; `memopt.testing` does
not).
"""

import sys
import tempfile
from pathlib import Path
from typing import Any

import msgspec
from rich.console import Console, Group, RenderableType
from rich.text import Text

from memopt.base.errors import MemoptError
from memopt.base.units import MIB, format_seconds
from memopt.bench.child import Child, ChildFailedError, run_in_child
from memopt.bench.command import print_json, progress_bar
from memopt.bench.measure import machine
from memopt.bench.player import (
    Figures,
    Script,
    play_naive,
    play_until_killed,
    prepared,
    recover_memopt,
)
from memopt.bench.replay import (
    Progress,
    ReplayOptions,
    ReplayResult,
    as_json,
    home_of,
    options_parser,
    played,
    render,
    replay_options,
    result_of,
    script_of,
)


class DemoResult(msgspec.Struct, frozen=True, kw_only=True):
    acknowledged_messages: int
    """When the process was killed."""
    recovered_messages: int
    """Found again, and equal to what was written."""
    unacknowledged_messages: int
    """Found, but killed before anybody was told: at most the one that was on its way."""
    lost_messages: int
    wrong_messages: int
    open_seconds: float
    """Opening the directory that the killed process left."""
    replay: ReplayResult
    """Of both processes together; latencies and rates are the second one's."""

    @property
    def ok(self) -> bool:
        return not (self.lost_messages or self.wrong_messages or self.replay.mismatches)


def demo(options: ReplayOptions, progress: Progress | None = None) -> DemoResult:
    """Play half, be killed, recover, play the rest, verify, and play the baseline."""
    with home_of(options.home) as home, tempfile.TemporaryDirectory() as beside:
        acked_file = Path(beside) / "acked.counts"
        acked_file.write_bytes(bytes(4 * options.sessions))
        script = script_of(options, home=home, acked_file=acked_file)
        _, plan = prepared(script)
        total = plan.message_count * (3 if options.baseline else 2)
        growth = _play_and_kill(script, plan.message_count // 2, progress, total=total)
        acknowledged = sum(memoryview(acked_file.read_bytes()).cast("I"))
        answer = _recovered(script, progress, total=total)
        figures = msgspec.convert(answer["figures"], Figures)
        figures = msgspec.structs.replace(
            figures, rss_growth_bytes_max=max(growth, figures.rss_growth_bytes_max)
        )
        naive = None
        if options.baseline:
            begun = 2 * plan.message_count
            naive = played(play_naive, script, progress, done=begun, total=total)
        count = plan.message_count
        result = result_of(options, figures, naive, machine(home), messages=count)
    return DemoResult(
        acknowledged_messages=acknowledged,
        recovered_messages=answer["recovered_messages"],
        unacknowledged_messages=answer["unacknowledged_messages"],
        lost_messages=answer["lost_messages"],
        wrong_messages=answer["recovered_mismatches"],
        open_seconds=answer["open_seconds"],
        replay=result,
    )


def render_demo(result: DemoResult) -> RenderableType:
    """What the kill took, then the table beside the baseline."""
    story = (
        f"Killed with SIGKILL after {result.acknowledged_messages:,} acknowledged messages. "
        f"Opened again in {format_seconds(result.open_seconds)}: "
        f"{result.recovered_messages:,} found and equal, {result.lost_messages:,} lost, "
        f"{result.wrong_messages:,} wrong, "
        f"{result.unacknowledged_messages:,} more that nobody had been told of.\n"
        f"Then the rest: {result.replay.verified_messages:,} of {result.replay.messages:,} "
        f"messages verified by hash, {result.replay.mismatches:,} mismatches.\n"
    )
    verdict = "Nothing was lost." if result.ok else "MESSAGES WERE LOST OR ARE WRONG."
    return Group(Text(story), render(result.replay), Text(f"\n{verdict}"))


def _play_and_kill(script: Script, kill_at: int, progress: Progress | None, *, total: int) -> int:
    """Play until `kill_at` messages are reported, then kill. Returns the RSS growth seen."""
    growth = 0
    killed = False
    with Child(play_until_killed, script) as child:
        for line in child.lines():
            if "done" not in line:
                raise ChildFailedError(line.get("usage") or line.get("error") or "it went on")
            growth = max(growth, line["rss_growth_bytes"])
            if progress is not None:
                progress(line["done"], total)
            if line["done"] >= kill_at:
                child.kill()
                killed = True
    if not killed:  # a crash of its own is not the one this is about
        raise ChildFailedError("the process ended before it could be killed")
    return growth


def _recovered(script: Script, progress: Progress | None, *, total: int) -> dict[str, Any]:
    def report(line: dict[str, Any]) -> None:
        if progress is not None:
            progress(line["done"], total)

    answer: dict[str, Any] = run_in_child(recover_memopt, script, report)
    return answer


def main(arguments: list[str] | None = None) -> int:
    """`python -m memopt.bench.demo`: a replay's options, smaller by default."""
    defaults = ReplayOptions(sessions=5_000, budget_bytes=16 * MIB)
    given = options_parser("demo", __doc__, defaults).parse_args(arguments)
    try:
        with progress_bar("demo") as progress:
            result = demo(replay_options(given), progress)
    except MemoptError as error:
        sys.stderr.write(f"demo: {error}\n")
        return 1
    if given.json:
        value = msgspec.to_builtins(result)
        print_json({**value, "replay": as_json(result.replay)})
    else:
        Console().print(render_demo(result))
    return 0 if result.ok else 1


if __name__ == "__main__":
    sys.exit(main())
