"""The words of a study's report, in Markdown."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from plasticity.figures.titles import WORDS
from plasticity.learning.column import Column
from plasticity.statistics.estimates import SKEWED, Change, Estimate
from plasticity.statistics.inference import seeds_needed
from plasticity.statistics.tables import markdown_table
from plasticity.studies.cells import words
from plasticity.studies.declaration import Declaration
from plasticity.studies.findings import GROWN, Comparison, Finding
from plasticity.studies.numbers import Numbers
from plasticity.studies.verdicts import ALPHA, MIN_SEEDS, Verdict

READINGS = {
    ("held", "keeps"): "held and keeps",
    ("grow", "loses"): "grows and loses",
    ("held", "loses"): "**held and loses**",
    ("grow", "keeps"): "**grows and keeps**",
}
OF_PAIRS = {
    "keeps": "no more than the margin more",
    "loses": "loses more",
    "loses less than the margin": "loses more, by less than the margin",
    "undecided": "undecided",
}
OF_LEVELS = {
    "keeps": "not inferior",
    "loses": "inferior",
    "loses less than the margin": "inferior by less than the margin",
    "undecided": "undecided",
}


def title_of_study(study: Declaration) -> str:
    """Return what the figures of a study are of: its name, experiment, preset, changed options."""
    options = " ".join(w for name, value in study.settings.items() for w in words(name, value))
    changed = f" with {options}" * bool(options) + " and options of single arms" * bool(
        study.of_arm
    )
    name = WORDS.get(study.experiment, study.experiment)
    return f"Study {study.name}, {name} ({study.experiment}), preset {study.preset}{changed}"


def heading(found: Numbers) -> str:
    """Return what the study asks, what it declared, and how it is decided."""
    study = found.study
    all_arms = [word for name, value in study.settings.items() for word in words(name, value)]
    lines = [
        f"# {study.name}",
        "",
        study.question,
        "",
        markdown_table(
            ("declared", ""),
            [
                ("study", f"`{study.name}`, digest `{study.digest()}`"),
                ("protocol", f"`{study.experiment}`, preset `{study.preset}`, {found.tasks} tasks"),
                ("for all arms", f"`{' '.join(all_arms)}`" if all_arms else "as the preset says"),
                ("arms", ", ".join(f"`{arm}`" for arm in study.arms)),
                ("seeds", ", ".join(map(str, study.seeds))),
                ("margin of the drop (points of accuracy)", points(study.drop_margin)),
                ("margin of the slope (points per 100 tasks)", points(study.slope_margin)),
                ("pairs", ", ".join(f"`{a}` against `{r}`" for a, r in study.compared) or "none"),
            ],
        ),
        "## How it is decided",
        "",
        "*Early* is the mean accuracy of the first tenth of the tasks without the first task of "
        "all, *late* or *level* that of the last tenth. *Drop* is early less late. *Slope* is the "
        "Theil-Sen slope; it is *flat* if it is shown to be within the margin on both sides. Each "
        "seed gives one number. Student's t tests over seeds, one-sided at "
        f"{100 * ALPHA:g} %, decide two claims on each arm. It **loses** (against: the mean drop "
        "is at most 0). It **keeps** (against: the mean drop is at least the margin). If both are "
        "shown it **loses less than the margin**, if neither it is **undecided**. p values are "
        "adjusted by Holm's method over the arms, within a claim. With fewer than "
        f"{MIN_SEEDS} seeds nothing is said to be kept; *too few seeds* marks where it would be. "
        "A verdict is *fragile* if the skewness "
        f"over seeds exceeds {SKEWED:g}. Brackets hold 95 % intervals of means over seeds. They "
        "end where there is no further value, as an accuracy is never above 100 %; in "
        "`summary.csv` they do not. An arm that never learned has nothing to lose: read the level "
        "beside the drop.",
        "",
    ]
    return "\n".join(lines)


def verdicts(arms: Sequence[Finding], without_verdict: dict[str, str]) -> str:
    """Return the table of verdicts, and which arms have none."""
    gaps = any(one.gap is not None for one in arms)
    titles = ["arm", "n", "early (%)", "late = level (%)", "drop (points)"]
    titles += ["slope (points per 100 tasks)", *["gap to fresh (points)"] * gaps, "verdict"]
    rows = []
    for one in arms:
        row = [f"`{one.arm}`", str(one.drop.n), percent(one.early)]
        row.append(percent(one.level, interval=True, bounds=(0, 1)))
        row.append(percent(one.drop, interval=True))
        slope = percent(one.slope, interval=True, digits=3)
        row.append(slope + (", flat" if one.slope.flat else ""))
        if gaps:
            row.append("" if one.gap is None else percent(one.gap, interval=True))
        rows.append([*row, one.drop.verdict + _remarks(one.drop)])
    lines = [
        "## Verdicts",
        "",
        markdown_table(titles, rows) if rows else "No arm has a verdict yet.\n",
    ]
    lines += [f"No verdict on `{arm}`: {reason}.  " for arm, reason in without_verdict.items()]
    return "\n".join([*lines, ""])


def pairs(compared: Sequence[Comparison]) -> str:
    """Return the table of declared comparisons, seed by seed."""
    titles = (
        "arm", "reference", "n", "drop, arm less reference (points)", "loses more?",
        "level, arm less reference (points)", "level",
    )  # fmt: skip
    rows = [
        (
            f"`{one.arm}`", f"`{one.reference}`", str(one.drop.n),
            percent(one.drop, interval=True), _words(OF_PAIRS, one.drop),
            percent(one.level, interval=True, sign=-1), _words(OF_LEVELS, one.level),
        )
        for one in compared
    ]  # fmt: skip
    if not rows:
        return ""
    text = (
        "A seed fixes tasks, labels and order of batches for all arms, so arms are compared seed "
        "by seed. *Not inferior*: the level is less than the margin below that of the reference, "
        "or above it. p values are adjusted by Holm's method over the pairs, within a claim."
    )
    return "\n".join(["## Pairs", "", text, "", markdown_table(titles, rows)])


def power(arms: Sequence[Finding]) -> str:
    """Return how much drops differ between seeds, and how many seeds the margin needs for that."""
    rows = [
        (
            f"`{one.arm}`",
            str(one.drop.n),
            points(one.drop.sd),
            f"{one.drop.margin / one.drop.sd:.2f}" if one.drop.sd else "",
            str(needed(one)),
        )
        for one in arms
        if one.drop.sd is not None
    ]
    if not rows:
        return ""
    text = (
        "*Seeds needed*: as many as show `keeps` with a power of 80 %, at 5 %, if the arm loses "
        "nothing and drops differ between seeds as they do here, and no fewer than "
        f"{MIN_SEEDS}. Holm's method asks for more."
    )
    titles = ("arm", "n", "SD of the drop (points)", "margin / SD", "seeds needed")
    return "\n".join(["## Are there enough seeds?", "", text, "", markdown_table(titles, rows)])


def needed(one: Finding) -> int | str:
    """Return how many seeds an arm needs for the claim ``keeps``; "" where its SD is unknown."""
    if one.drop.sd is None:
        return ""
    return max(MIN_SEEDS, seeds_needed(one.drop.sd, one.drop.margin))


def skeptic(arms: Sequence[Finding]) -> str:
    """Return how the parameters of each arm grew, beside what it was found to lose."""
    rows = [
        (
            f"`{one.arm}`",
            factor(one.growth),
            factor(one.growth_in_all) if one.growth_in_all else "",
            one.parameters,
            one.drop.verdict,
            READINGS.get((one.parameters, one.drop.verdict), "open"),
        )
        for one in arms
        if one.growth is not None
    ]
    if not rows:
        return ""
    text = (
        "Hypothesis: plasticity is kept where the parameters cannot grow, and lost where they can. "
        "The growth is the norm of the parameters, last over first tenth of the tasks (geometric "
        f"mean over seeds). They *grow* if its 95 % interval lies above {GROWN:g}, and are *held* "
        "if it lies below. An arm that is **held and loses**, or **grows and keeps**, speaks "
        "against the hypothesis. Growth *in all* is that since the first task: look at it, too, "
        "since parameters may have stopped to grow before the first tenth is over."
    )
    titles = ("arm", "growth of the norm", "in all", "parameters", "verdict", "reading")
    return "\n".join(["## A skeptic's table", "", text, "", markdown_table(titles, rows)])


def missing(found: Numbers) -> str:
    """Return which cells are not complete."""
    lines = ["## What is missing", ""]
    cells = found.missing()
    if not cells:
        return "\n".join([*lines, "Nothing: all cells are complete.", ""])
    of_arms: dict[str, list[str]] = {}
    for arm, seed, count in cells:
        done = f"{count} of {found.tasks} tasks" if count else "not begun"
        done = "its record cannot be read" if count < 0 else done
        of_arms.setdefault(arm, []).append(f"{seed} ({done})")
    total = len(found.study.arms) * len(found.study.seeds)
    lines += [f"{len(cells)} of {total} cells are not complete. They count nowhere above.", ""]
    lines += [f"* `{arm}`: seeds {', '.join(seeds)}" for arm, seeds in of_arms.items()]
    return "\n".join([*lines, ""])


def metric(column: Column, changes: dict[str, Change], figure: str) -> str:
    """Return a column's table: its first and last tenth in each arm that has it."""
    rows = [
        (f"`{arm}`", str(of.first.n), *(number(end, column.bounds) for end in (of.first, of.last)))
        for arm, of in changes.items()
    ]
    titles = ("arm", "n", "first tenth", "last tenth")
    lines = [
        f"### {column.title} (`{column.name}`)",
        "",
        markdown_table(titles, rows),
        f"![{column.title}]({figure})",
        "",
    ]
    return "\n".join(lines)


# --- pieces


def points(value: float | None) -> str:
    """Return a difference of accuracies in points."""
    return "" if value is None else f"{100 * value:.3g}"


def percent(
    of: Estimate,
    *,
    interval: bool = False,
    digits: int = 2,
    sign: int = 1,
    bounds: tuple[float, float] = (-1, 1),
) -> str:
    """Return a mean over seeds in per cent or points, with its 95 % interval.

    The interval ends at the bounds, beyond which there is no such value: Student's does not.
    """
    text = f"{100 * sign * of.estimate:.{digits}f}"
    if not interval or of.interval_95 is None:
        return text
    low, high = sorted(100 * sign * min(max(end, bounds[0]), bounds[1]) for end in of.interval_95)
    return f"{text} [{low:.{digits}f}, {high:.{digits}f}]"


def number(of: Estimate, bounds: tuple[float, float] = (-np.inf, np.inf)) -> str:
    """Return a mean over seeds with its 95 % interval, which ends at the bounds."""
    if of.interval_95 is None:
        return f"{of.estimate:.3g}"
    low, high = np.clip(of.interval_95, *bounds)
    return f"{of.estimate:.3g} [{low:.3g}, {high:.3g}]"


def factor(of: Estimate) -> str:
    """Return a mean logarithm over seeds as a factor, with its 95 % interval."""
    text = f"{np.exp(of.estimate):.3g}"
    if of.interval_95 is None:
        return text
    low, high = np.exp(of.interval_95)
    return f"{text} [{low:.3g}, {high:.3g}]"


def _words(of: dict[str, str], verdict: Verdict) -> str:
    return of[verdict.verdict] + _remarks(verdict)


def _remarks(of: Verdict) -> str:
    """Return what to beware of in a verdict."""
    shown = of.p_keeps_adjusted is not None and of.p_keeps_adjusted <= ALPHA
    few = of.verdict == "undecided" and shown  # but for the number of seeds
    return (", too few seeds" if few else "") + (", fragile" if of.fragile else "")
