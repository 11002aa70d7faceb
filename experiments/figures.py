"""Recorded rows into figures; trains nothing.

``python -m experiments.figures RUN_FOLDER [FILE.png]`` draws a run again, finished or not.
"""

from __future__ import annotations

if __name__ == "__main__":
    from experiments.parts import interrupts

    interrupts.guard()  # before the other imports, so that Ctrl-C ends these too

import importlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.parts.cli import status_of
from experiments.parts.experiment import Failure, Panel, UsageError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

EXPERIMENTS = ("ant", "cifar", "qdata", "mnist")
"""Those with more columns first."""

Rows = Sequence[Mapping[str, Any]]


def learning_curves(
    rows: Mapping[str, Rows],
    labels: Mapping[str, str],
    panels: Sequence[Panel],
    title: str,
    unit: str = "task",
) -> Figure:
    """Draw columns of the rows over the tasks or steps, one curve a network.

    Args:
        rows: Of each network; a curve leaves out those without its column.
        labels: What each network is called.
        panels: The columns.
        title: Above all panels.
        unit: The column of the rows that is the abscissa, in the singular.
    """
    import numpy as np
    from matplotlib.figure import Figure
    from matplotlib.ticker import EngFormatter, LogLocator, NullFormatter

    from plasticity.results.plots import COLOURS, plot_curve

    longest = max(len(of_network) for of_network in rows.values())
    window = max(1, longest // 10)
    figure = Figure(figsize=(4 * len(panels), 3.6), dpi=150, layout="constrained")
    for axes, panel in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        for colour, (network, of_network) in zip(COLOURS, rows.items(), strict=False):
            drawn = [row for row in of_network if panel.column in row]
            if not drawn:  # no episode has ended yet
                continue
            x = np.array([row[panel.abscissa or unit] for row in drawn])
            y = np.array([row[panel.column] for row in drawn])
            smoothing = 1 if panel.samples else window
            plot_curve(axes, x, y, label=labels[network], colour=colour, window=smoothing)
            if panel.samples:
                halves = [half_interval(row[panel.samples]) for row in drawn]
                axes.fill_between(x, y - halves, y + halves, color=colour, alpha=0.2, linewidth=0)
        if panel.logarithmic:
            axes.set_yscale("log")
            axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
            axes.yaxis.set_major_formatter("{x:g}")
            axes.yaxis.set_minor_formatter(NullFormatter())
        if unit != "task":
            axes.xaxis.set_major_formatter(EngFormatter(sep=""))
        axes.set(xlabel="task" if unit == "task" else "environment step", ylabel=panel.label)
        axes.grid(alpha=0.25, linewidth=0.6)
        axes.spines[["top", "right"]].set_visible(False)
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=len(names), frameon=False)
    notes = ["n = 1 seed", f"points: one {'task' if unit == 'task' else 'update'} each"]
    if window > 1:
        notes.append(f"lines: running mean of {window} {'tasks' if unit == 'task' else 'updates'}")
    if any(panel.samples for panel in panels):
        notes.append("shaded: 95 % interval of an evaluation's mean")
    figure.suptitle(f"{title} ({'; '.join(notes)})", fontsize=9)
    return figure


def half_interval(samples: Sequence[float]) -> float:
    """Return half the width of the mean's 95 % interval by Student's t, 0 for a single sample."""
    import numpy as np
    from scipy.special import stdtrit

    n = len(samples)
    return float(stdtrit(n - 1, 0.975) * np.std(samples, ddof=1) / np.sqrt(n)) if n > 1 else 0.0


def draw(arguments: Sequence[str]) -> None:
    """Read the command line and draw one run folder.

    Raises:
        UsageError: There is no folder, or too much, on the command line.
        Failure: The folder cannot be drawn.
    """
    if "-h" in arguments or "--help" in arguments:
        print(__doc__)
        return
    if len(arguments) not in (1, 2):
        raise UsageError(f"{len(arguments)} arguments: say RUN_FOLDER [FILE.png]")
    from plasticity.results.record import RecordError, read_rows

    folder = Path(arguments[0])
    target = Path(arguments[1]) if len(arguments) == 2 else Path(f"{folder.resolve().name}.png")
    if not target.suffix:
        target = target.with_suffix(".png")
    experiments = [importlib.import_module(f"experiments.{n}").EXPERIMENT for n in EXPERIMENTS]
    try:
        networks = {n: label for e in experiments for n, label in e.networks.items()}
        rows = {n: read_rows(folder / n) for n in networks if (folder / n).is_dir()}
        rows = {network: of_network for network, of_network in rows.items() if of_network}
        if not rows:
            raise Failure(f"{folder} holds no rows: it is not a run folder, or has just begun.")
        # The columns tell whose rows these are; a folder may have been renamed.
        columns = {column for of_network in rows.values() for row in of_network for column in row}
        drawable = (e for e in experiments if all(p.column in columns for p in e.panels))
        drawn = next(drawable, experiments[-1])
        for panel in drawn.panels:
            if panel.column not in columns:
                raise KeyError(panel.column)
        title, unit = folder.resolve().name, drawn.progress.unit
        learning_curves(rows, networks, drawn.panels, title, unit).savefig(target)
    except KeyError as error:
        raise Failure(
            f"rows of {folder} have no {error}: the run has just begun, or they were edited"
        ) from error
    except (RecordError, OSError, ValueError) as error:  # ValueError: a format that is none
        raise Failure(str(error)) from error
    print(target)


def main(arguments: Sequence[str]) -> int:
    """Draw what the command line asks for and return the exit status."""
    return status_of(lambda: draw(arguments))


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
