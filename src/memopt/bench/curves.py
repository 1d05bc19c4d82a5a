"""Draws a simulation: hit ratio against capacity, every policy, with Belady as the ceiling.

Needs matplotlib, which is optional: without it a UsageError says how to get it. Not here: figures.
"""

import importlib.util
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from memopt.base.errors import UsageError
from memopt.base.units import format_bytes
from memopt.bench.contest import BELADY, CEILING, LRU, Simulation

ADAPTIVE: Final = "adaptive"
"""The default of a store is drawn to be found."""
_ENDINGS: Final = (".png", ".svg", ".pdf")
_MARKERS: Final = "osD^vPX<>phd*"
_LINES: Final = ("-", "--", "-.", ":")
_COLOURS: Final = (
    "#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#e377c2",
    "#8c564b", "#bcbd22", "#003f8c", "#00694e", "#a30059", "#7a4900", "#5a5aff",
)  # fmt: skip
_GAP_MIN: Final = -50
_CEILING_COLOUR: Final = "#222222"


def has_matplotlib() -> bool:
    return importlib.util.find_spec("matplotlib") is not None


def check_matplotlib(file: Path) -> None:
    """Raises UsageError where `file` could not be drawn: before hours of work, and not after."""
    if not has_matplotlib():
        raise UsageError("curves need matplotlib: pip install matplotlib", field="plot")
    if file.suffix not in _ENDINGS:
        endings = ", ".join(_ENDINGS)
        raise UsageError(f"expected a name that ends in {endings}, got {file.name}", field="plot")


def draw(simulations: Sequence[Simulation], file: Path) -> None:
    """One row of panels a trace. The ending of `file` chooses the form: .png, .svg, .pdf."""
    check_matplotlib(file)
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    is_weighed = any(each.uniform_bytes is None for each in simulations)
    columns = 3 if is_weighed else 2
    figure, rows = pyplot.subplots(
        len(simulations), columns, figsize=(6.2 * columns + 1.8, 4.9 * len(simulations)),
        squeeze=False, layout="constrained",
    )  # fmt: skip
    styles = _styles(simulations)
    try:
        for panels, simulation in zip(rows, simulations, strict=True):
            _ratios(panels[0], simulation, styles, "hit_ratio", "hit ratio, %")
            if is_weighed:
                _ratios(panels[1], simulation, styles, "byte_hit_ratio", "byte hit ratio, %")
            _gaps(panels[-1], simulation, styles)
            panels[0].set_title(_title(simulation), loc="left", fontsize=11)
        handles, labels = rows[0][0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside right center", frameon=False)
        file.parent.mkdir(parents=True, exist_ok=True)
        figure.savefig(file, dpi=130)
    finally:
        pyplot.close(figure)


def _title(simulation: Simulation) -> str:
    return f"{simulation.trace}: {simulation.requests:,} requests of {simulation.keys:,} keys"


def _policies(simulation: Simulation) -> list[str]:
    """Best first, at the largest capacity; so the legend is in the order of the curves' ends."""
    largest = max(simulation.capacities_bytes)
    found = {
        run.policy: run.hit_ratio or 0.0
        for run in simulation.runs
        if run.kind == "policy" and run.capacity_bytes == largest
    }
    return sorted(found, key=lambda name: -found[name])


def _styles(simulations: Sequence[Simulation]) -> dict[str, dict[str, Any]]:
    """A colour, a marker and a line for each policy, the same in every panel."""
    names = _policies(simulations[0])
    styles: dict[str, dict[str, Any]] = {}
    # By name, so that a policy looks the same in two plots of the same choice.
    for index, name in enumerate(sorted(names)):
        styles[name] = {
            "color": _COLOURS[index % len(_COLOURS)],
            "marker": _MARKERS[index % len(_MARKERS)],
            "linestyle": _LINES[index % len(_LINES)],
            "markersize": 5.5,
            "linewidth": 1.5,
        }
    if LRU in styles:
        styles[LRU] |= {"color": "#777777", "linestyle": "-", "linewidth": 3.0, "zorder": 1.5}
    if ADAPTIVE in styles:
        styles[ADAPTIVE] |= {"linestyle": "-", "linewidth": 2.8, "zorder": 3}
    return {name: styles[name] for name in names}


def _line(
    simulation: Simulation, policy: str, kind: str, field: str
) -> tuple[list[float], list[float]]:
    runs = sorted(
        (run for run in simulation.runs if run.policy == policy and run.kind == kind),
        key=lambda run: run.capacity_bytes,
    )
    points = [(run.share, getattr(run, field)) for run in runs if getattr(run, field) is not None]
    return [100 * share for share, _ in points], [100 * value for _, value in points]


def _ratios(
    axes: Any, simulation: Simulation, styles: dict[str, dict[str, Any]], field: str, label: str
) -> None:
    shares, best = _line(simulation, BELADY, BELADY, field)
    if simulation.uniform_bytes is not None:
        axes.plot(shares, best, color=_CEILING_COLOUR, linewidth=2.4, marker="_", label="Belady")
        roof = best
    else:
        axes.plot(
            shares, best, color=_CEILING_COLOUR, linewidth=2.0, linestyle="--", marker="_",
            label="Belady by size (approximation)",
        )  # fmt: skip
        shares, roof = _line(simulation, CEILING, CEILING, field)
        axes.plot(shares, roof, color=_CEILING_COLOUR, linewidth=2.4, label="ceiling")
    # Whoever is in the shade would know the future better than is possible.
    axes.fill_between(shares, roof, 100, color="#000000", alpha=0.07, linewidth=0)
    for policy, style in styles.items():
        axes.plot(*_line(simulation, policy, "policy", field), label=policy, **style)
    _finish(axes, simulation, label)
    axes.set_ylim(_bottom(simulation, field), min(100.0, _above(max(roof, default=100.0))))


def _bottom(simulation: Simulation, field: str) -> float:
    values = [getattr(run, field) for run in simulation.runs if run.kind == "policy"]
    low = 100 * min((value for value in values if value is not None), default=0.0)
    return max(0.0, low - (100 - low) * 0.1)


def _above(value: float) -> float:
    return value + max(0.3, (100 - value) * 0.08)


def _gaps(axes: Any, simulation: Simulation, styles: dict[str, dict[str, Any]]) -> None:
    """As large as the policies are apart, so Belady, at 100, is usually beyond the frame."""
    axes.axhline(100, color=_CEILING_COLOUR, linewidth=2.4)
    axes.axhline(0, color="#777777", linewidth=3.0, zorder=1.5)
    drawn = [0.0]
    for policy, style in styles.items():
        if policy != LRU:
            shares, closed = _line(simulation, policy, "policy", "gap_closed")
            axes.plot(shares, closed, **style)
            drawn += closed
    _finish(axes, simulation, "of the gap from LRU (0) to Belady (100) closed, %")
    if min(drawn) < _GAP_MIN:
        axes.set_title(f"not drawn below {_GAP_MIN} %", loc="right", fontsize=9)
    margin = 0.08 * (max(drawn) - max(min(drawn), _GAP_MIN)) + 0.5
    axes.set_ylim(max(min(drawn) - margin, _GAP_MIN), min(max(drawn) + margin, 104))


def _finish(axes: Any, simulation: Simulation, label: str) -> None:
    shares = sorted({100 * run.share for run in simulation.runs})
    axes.set_xscale("log")
    axes.set_xticks(shares, [f"{share:.3g}" for share in shares], minor=False)
    axes.set_xticks([], minor=True)
    axes.set_xlabel(f"capacity, % of the footprint of {format_bytes(simulation.footprint_bytes)}")
    axes.set_ylabel(label)
    axes.grid(alpha=0.3)
