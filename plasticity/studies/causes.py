"""What diagnoses say: how much of the gap to an untrained network each intervention closes."""

from __future__ import annotations

import io
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from plasticity.figures.cures import Case, Point, cures_figure
from plasticity.interventions import INTERVENTIONS, REFERENCES, parse
from plasticity.interventions.intervention import LEAST_GROWTH, of_parts
from plasticity.protocol.experiment import Definition
from plasticity.results.disk import locked_folder
from plasticity.results.files import save_file
from plasticity.runs.diagnose import Diagnosis
from plasticity.statistics.estimates import Estimate, estimate
from plasticity.statistics.inference import Interval
from plasticity.statistics.tables import markdown_table
from plasticity.studies.cures import LEAST_GAP, MARGIN, SHARE, Cure, judge

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TEXT, FIGURE = "diagnosis.md", "diagnosis.png"


@dataclass(frozen=True)
class Cause:
    """What an intervention did to an arm at an age.

    All accuracies are in points, 0 to 100.

    Attributes:
        arm: Name of the arm, of its folder where two arms have the same name.
        age: How many tasks the learner had learned.
        intervention: What was done, by name with all options.
        seeds: Those that have this branch and both references.
        following: Accuracy of the next task, over seeds.
        level: Mean accuracy of all tasks that the branch learned, over seeds.
        gap: Mean of what an untrained network learns better than the aged one.
        gain: Mean of what this branch learns better than the aged one.
        share: Gain over gap, of means; None where the gap is not shown, of a single seed where it
            is below five points.
        cure: The tests over seeds; None of a reference or of fewer than two seeds.
        touched: What was changed, in words.
        applies: False where the layer has grown by less than 1.5, so that there is nothing to undo.
        diverged: How many seeds' losses became infinite.
        privileged: Whether the intervention sees samples of the next task.
    """

    arm: str
    age: int
    intervention: str
    seeds: tuple[int, ...]
    following: Estimate
    level: Estimate
    gap: float
    gain: float
    share: float | None
    cure: Cure | None
    touched: str
    applies: bool
    diverged: int
    privileged: bool

    @property
    def word(self) -> str:
        """Return the verdict in a word or a few; empty of a reference."""
        if self.intervention in REFERENCES:
            return ""
        if of_parts(parse(self.intervention)[1])[0].replaces:
            return "control"
        if not self.applies:
            return "does not apply"
        if self.cure is None:
            return "one seed"
        return f"{self.cure.word}, fragile" if self.cure.fragile else self.cure.word


def causes_of(diagnosis: Diagnosis) -> list[Cause]:
    """Return what each intervention did, by arm and age.

    A seed counts where it has the branch and both references.
    """
    found = []
    for arm, age in diagnosis.cases:
        level = {
            name: dict(
                zip(
                    _seeds(diagnosis, arm, age, name),
                    100 * diagnosis.column(arm, age, name),
                    strict=True,
                )
            )
            for name in diagnosis.interventions(arm, age)
        }
        if not all(name in level for name in REFERENCES):
            continue
        for name in sorted(level, key=_place):
            seeds = sorted({*level[name]} & {*level["none"]} & {*level["untrained"]})
            if seeds:
                found.append(_cause(diagnosis, arm, age, name, seeds, level))
    return found


def _place(name: str) -> tuple[int, str]:
    """Return where an intervention stands in tables: in the order of the registry, then by name."""
    kind = name.partition(":")[0].partition("+")[0]
    return [*INTERVENTIONS].index(kind), name


def _seeds(diagnosis: Diagnosis, arm: str, age: int, name: str) -> list[int]:
    return sorted(
        {
            row["seed"]
            for row in diagnosis.rows
            if (row["folder"], row["age"], row["intervention"]) == (arm, age, name)
        }
    )


def _cause(
    diagnosis: Diagnosis,
    arm: str,
    age: int,
    name: str,
    seeds: Sequence[int],
    level: dict[str, dict[int, np.ndarray]],
) -> Cause:
    of = {key: np.array([level[key][s].mean() for s in seeds]) for key in (*REFERENCES, name)}
    nothing, untrained = of["none"], of["untrained"]
    gap, gain = float((untrained - nothing).mean()), float((of[name] - nothing).mean())
    judged = name not in REFERENCES and len(seeds) > 1
    cure = judge(nothing, of[name], untrained) if judged else None
    share = cure.share if cure else (gain / gap if gap >= LEAST_GAP else None)
    rows = [
        row
        for row in diagnosis.rows
        if (row["folder"], row["age"], row["intervention"]) == (arm, age, name)
    ]
    _, intervention = parse(name)
    factor = float(np.mean([row.get("factor", np.nan) for row in rows]))
    return Cause(
        arm=arm,
        age=age,
        intervention=name,
        seeds=tuple(seeds),
        following=estimate([level[name][s][0] for s in seeds]),
        level=estimate(of[name]),
        gap=gap,
        gain=gain,
        share=share,
        cure=cure,
        touched=_touched(name, rows),
        applies=not (intervention.needs_growth and factor < LEAST_GROWTH),
        diverged=len({row["seed"] for row in rows if row.get("diverged")}),
        privileged=intervention.privileged,
    )


def _touched(name: str, rows: Sequence[dict[str, Any]]) -> str:
    """Return what an intervention has changed, means over seeds, in words."""

    def mean(column: str) -> float:
        return float(np.mean([row.get(column, np.nan) for row in rows]))

    parts = []
    for part in of_parts(parse(name)[1]):
        for column in part.declared:
            parts.append(f"{column.label} {_short(mean(column.name))}")
    numbers, outputs = mean("changed_parameters"), mean("changed_outputs")
    if numbers:
        parts.append(f"{numbers:,.0f} numbers")
    if outputs:
        parts.append(f"outputs by {outputs:.2g}")
    return ", ".join(dict.fromkeys(parts)) or "nothing"


def _short(number: float) -> str:
    return f"{number:,.0f}" if number >= 1000 else f"{number:.3g}"


def labels_of(causes: Sequence[Cause]) -> dict[str, str]:
    """Return what arms are called: by name, where only one has it, else by folder."""
    names = {cause.arm: cause.arm.rpartition("-")[0] for cause in causes}
    return {
        folder: name if [*names.values()].count(name) == 1 else folder
        for folder, name in names.items()
    }


NOTE = (
    "*Share* is the part of the gap between the aged network and an untrained one that an "
    "intervention closes: the mean gain over the mean gap, with Fieller's 95 % interval. It stands "
    f"where the gap is shown to be over {LEAST_GAP:.0f} points; of a single seed, where it is. "
    f"*cures*: the gain is over {SHARE:.0%} of the gap. *helps*, *harms*: it is over {MARGIN:.0f} "
    f"point, or below minus that. *no effect*: it is within {MARGIN:.0f} point, which takes ten "
    "seeds to say. *does not apply*: the layer has grown by less than "
    f"{LEAST_GROWTH} since the first task. Tests are one-sided paired t tests at 5 % each, of each "
    "line by itself: this is exploration. *control*: it begins with another network. A star marks "
    "what sees samples of the next task."
)


def causes_text(causes: Sequence[Cause], tasks: int) -> str:
    """Return the tables of all arms and ages in Markdown."""
    labels = labels_of(causes)
    parts = []
    for arm, age in dict.fromkeys((cause.arm, cause.age) for cause in causes):
        mine = [cause for cause in causes if (cause.arm, cause.age) == (arm, age)]
        seeds = len(mine[0].seeds)
        many = f"{seeds} seeds" if seeds > 1 else "one seed: no verdict"
        lines = [_line(cause) for cause in mine]
        titles = [
            "intervention", "next task", f"next {tasks}", "share of the gap", "over half",
            "what was touched", "verdict",
        ]  # fmt: skip
        parts += [
            f"## {labels[arm]} after {age} task{'s' * (age > 1)}\n",
            f"{many}; accuracies in %, with 95 % intervals over seeds. The gap to an untrained "
            f"network is {mine[0].gap:.1f} points.\n",
            markdown_table(titles, lines),
        ]
    return "\n".join([*parts, NOTE, ""])


def _line(cause: Cause) -> list[str]:
    over = "" if cause.cure is None else f"{cause.cure.over_half} of {cause.cure.n}"
    share = ""
    if cause.share is not None and cause.intervention not in REFERENCES:
        interval = cause.cure.share_95 if cause.cure else None
        ends = f" [{interval[0]:.2f}, {interval[1]:.2f}]" if interval else ""
        share = f"{cause.share:.2f}{ends}"
    diverged = f"; {cause.diverged} diverged" if cause.diverged else ""
    return [
        f"`{cause.intervention}`{'*' if cause.privileged else ''}",
        _percent(cause.following),
        _percent(cause.level),
        share,
        over,
        cause.touched,
        cause.word + diverged,
    ]


def _percent(of: Estimate) -> str:
    interval = _possible(of.interval_95)
    ends = f" [{interval[0]:.1f}, {interval[1]:.1f}]" if interval else ""
    return f"{of.estimate:.1f}{ends}"


def _possible(interval: Interval | None) -> Interval | None:
    """Return the part of an interval in which an accuracy can be."""
    return interval and (max(0.0, interval[0]), min(100.0, interval[1]))


def cases_of(causes: Sequence[Cause], prefix: str = "") -> list[Case]:
    """Return what is drawn of causes: a panel for each arm and age, its title after a prefix."""
    labels = labels_of(causes)
    cases = []
    for arm, age in dict.fromkeys((cause.arm, cause.age) for cause in causes):
        mine = [cause for cause in causes if (cause.arm, cause.age) == (arm, age)]
        points = [
            Point(
                cause.intervention, cause.level.estimate, _possible(cause.level.interval_95),
                cause.word if cause.intervention not in REFERENCES else "reference",
            )
            for cause in mine
        ]  # fmt: skip
        many = f"{len(mine[0].seeds)} seed{'s' * (len(mine[0].seeds) > 1)}"
        cases.append(
            Case(f"{prefix}{labels[arm]} after {age} task{'s' * (age > 1)}, {many}", points)
        )
    return cases


def causes_figure(experiment: Definition[Any], causes: Sequence[Cause], tasks: int) -> Figure:
    """Draw what each intervention did: accuracy of the next tasks, by arm and age."""
    title = f"{experiment.name}: what cures an aged network"
    words = experiment.score[1]
    return cures_figure(cases_of(causes), title, f"mean {words} of the next {tasks} tasks (%)")


def write_causes(experiment: Definition[Any], diagnosis: Diagnosis, folder: Path) -> str:
    """Write diagnosis.md and the figure into a folder, and return the text with their paths."""
    causes = causes_of(diagnosis)
    tasks = 1 + max(row["task"] - row["age"] for row in diagnosis.rows)
    text = causes_text(causes, tasks)
    with locked_folder(folder):
        file = save_file(folder, TEXT, ".md", io.BytesIO(text.encode()))
        buffer = io.BytesIO()
        causes_figure(experiment, causes, tasks).savefig(buffer, format="png")
        figure = save_file(folder, FIGURE, ".png", buffer)
    return f"{text}\nrows: {diagnosis.path}\ntable: {file}\nfigure: {figure}"
