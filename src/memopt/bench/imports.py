"""Question: what does `import memopt` cost?

Method: fresh interpreters, each importing one thing, rounds interleaved; wall seconds of the import
statement alone, and RSS before and after it. The first, unmeasured round warms the OS cache and
compiles bytecode.
Baseline: an import of nothing, and of numpy, which is the largest thing memopt brings along.
Not measured: a cold OS cache, and the start of the interpreter itself.
"""

import subprocess
import sys
from typing import Any, Final

import msgspec

from memopt.bench.command import BenchOptions, main, scratch
from memopt.bench.measure import machine, median

_MODULES: Final = ("sys", "numpy", "memopt")
# The program reads its RSS by itself: importing the instruments would be part of the figure.
_PROGRAM: Final = """
import sys, time
def rss():
    try:
        with open("/proc/self/statm", "rb") as statm:
            import os
            return int(statm.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")
    except OSError:
        import resource
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
before = rss()
begun = time.perf_counter()
import {module}
seconds = time.perf_counter() - begun
print('{{"seconds": %r, "rss_before_bytes": %d, "rss_bytes": %d}}' % (seconds, before, rss()))
"""


def run(options: BenchOptions) -> dict[str, Any]:
    """Seconds and RSS by module, medians."""
    rounds = 2 if options.quick else 11
    found: dict[str, list[dict[str, float]]] = {module: [] for module in _MODULES}
    for number in range(rounds + 1):
        for module in _MODULES:
            answer = _imported(module)
            if number:
                found[module].append(answer)
    with scratch(options) as home:
        where = machine(home)
    return {
        "rounds": rounds,
        "modules": {
            module: {field: median(answer[field] for answer in answers) for field in answers[0]}
            for module, answers in found.items()
        },
        "machine": where,
    }


def _imported(module: str) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-c", _PROGRAM.format(module=module)], check=True, stdout=subprocess.PIPE
    )
    return msgspec.json.decode(done.stdout, type=dict[str, float])


if __name__ == "__main__":
    sys.exit(main("imports", __doc__))
