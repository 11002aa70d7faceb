"""The words of a study's report, in Markdown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from plasticity.figures.titles import WORDS
from plasticity.learning.column import Column
from plasticity.protocol.serialization import named_json
from plasticity.statistics.estimates import SKEWED, Change
from plasticity.statistics.inference import seeds_needed
from plasticity.statistics.summaries import last_tasks
from plasticity.statistics.tables import markdown_table
from plasticity.studies.cells import words
from plasticity.studies.declaration import Declaration
from plasticity.studies.findings import Comparison, Finding
from plasticity.studies.numbers import Numbers, chance_of
from plasticity.studies.numerals import factor, number, p_value, percent, points
from plasticity.studies.rules import (
    ALPHA,
    COLLAPSE,
    FLOOR,
    GROWN,
    LARGER_SD,
    MIN_SEEDS,
    alpha_of,
)
from plasticity.studies.verdicts import NOTHING_TO_LOSE, TOO_FEW_FOR_LESS, Verdict

READINGS = {
    ("held", "keeps"): "held and keeps",
    ("grow", "loses"): "grows and loses",
    ("held", "loses"): "**held and loses**",
    ("grow", "keeps"): "**grows and keeps**",
}
MOST_SOURCES = 12
"""Of run folders, machines and so on: more are counted."""
OF_PAIRS = {
    "keeps": "no more than the margin more",
    "loses": "loses more",
    "loses less than the margin": "loses more, by less than the margin",
    TOO_FEW_FOR_LESS: "loses more, by less than the margin (too few seeds)",
    "undecided": "undecided",
}
OF_LEVELS = {
    "keeps": "not inferior",
    "loses": "inferior",
    "loses less than the margin": "inferior by less than the margin",
    TOO_FEW_FOR_LESS: "inferior by less than the margin (too few seeds)",
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
    """Return what the study asks, what it declared, and what its numbers were read of."""
    study = found.study
    all_arms = [word for name, value in study.settings.items() for word in words(name, value)]
    seeds = ", ".join(map(str, study.seeds))
    looks = " and ".join(map(str, study.looks))
    fewer = ", ".join(f"`{arm}`: {number}" for arm, number in study.fewer_seeds.items())
    pairs_of = ", ".join(
        f"`{a}` against `{r}`" + " (causal: at the rate of either)" * ((a, r) in study.causal)
        for a, r in study.compared
    )
    kind = (
        "confirmatory: its seeds were not looked at to find its hypotheses" if study.confirmatory
        else "exploratory: its claims are hypotheses for seeds that nobody has looked at"
    )  # fmt: skip
    lines = [
        f"# {study.name}",
        "",
        *_exploratory(study),
        study.question,
        "",
        markdown_table(
            ("declared", ""),
            [
                ("study", f"`{study.name}`, digest `{study.digest()}`, {kind}"),
                ("protocol", f"`{study.experiment}`, preset `{study.preset}`, {found.tasks} tasks"),
                ("for all arms", f"`{' '.join(all_arms)}`" if all_arms else "as the preset says"),
                ("arms", f"{len(study.arms)}, see below"),
                ("metrics", ", ".join(f"`{m}`" for m in study.metrics) or "as the preset says"),
                ("number of seeds", f"{study.num_declared}" + f", looks at {looks}" * bool(looks)),
                ("seeds here", f"{len(study.seeds)}: {seeds}"),
                *([("the first of them only", fewer)] if fewer else []),
                ("margin of the loss (points of accuracy)", points(study.drop_margin)),
                ("margin of the slope (points per 100 tasks)", points(study.slope_margin)),
                ("pairs", pairs_of or "none"),
            ],
        ),
        markdown_table(("source", ""), _sources(found)),
    ]
    return "\n".join(lines)


def _sources(found: Numbers) -> list[tuple[str, str]]:
    """Return what the numbers were read of, as it was noted when the runs were trained."""
    complete = sum(len(found.seeds(arm)) for arm in found.study.arms)
    lines = [("complete cells", f"{complete} of {_cells(found.study)}")]
    for name in ("run folders", "commits", "versions", "machines", "dates", "data"):
        values = found.sources.get(name, ())
        text = ("; " if name != "dates" else " to ").join(values[:MOST_SOURCES])
        more = f" and {len(values) - MOST_SOURCES} more" if len(values) > MOST_SOURCES else ""
        lines.append((name, text + more or "not recorded"))
    return lines


def _cells(study: Declaration) -> int:
    return sum(len(study.seeds_of(arm)) for arm in study.arms)


def arms_of(found: Numbers) -> str:
    """Return the table of arms: what each is, and how it is trained."""
    study = found.study
    titles = (
        "arm", "network", "parameters", "optimizer", "rate", "epochs", "remedies",
        "the study's own",
    )  # fmt: skip
    rows = []
    for name, arm in study.choice().arms.items():
        parameters = found.sources.get(f"parameters {name}", ())
        own = study.options_of(name)
        rows.append(
            (
                f"`{name}`", _value(arm.network), ", ".join(parameters) or "not recorded",
                type(arm.optimizer).__name__, f"{arm.optimizer.learning_rate:g}", str(arm.epochs),
                ", ".join(_value(remedy) for remedy in arm.remedies.values()) or "none",
                ", ".join(f"{option}={value}" for option, value in own.items()),
            )
        )  # fmt: skip
    return "\n".join(["## Arms", "", markdown_table(titles, rows)])


def _value(of: Any) -> str:
    """Return a network or remedy with its options: units of a layer, gates, strengths."""
    content = named_json(of)
    options = ", ".join(f"{name} {value}" for name, value in content.items() if name != "class")
    return str(content["class"]) + (f" ({options})" if options else "")


def rules_in_words(found: Numbers) -> str:
    """Return how it is decided."""
    alpha = 100 * alpha_of(found.study.looks)
    looks = found.study.looks
    at = f" at each of the looks at {looks[0]} and {looks[1]} seeds" if looks else ""
    text = (
        "*Early* is the mean accuracy of the first tenth of the tasks without the first task of "
        "all, *late* or *level* that of the last tenth. *Drop* is early less late. *Deficit* is "
        "the accuracy of an untrained network that learns the last "
        f"{last_tasks(found.tasks)} tasks, one after another, from the same batches, less that of "
        "the network itself. Verdicts are on the deficit where all arms have it, else on the drop: "
        "this is the *loss*. *Slope* is the slope by least squares; it is *flat* if it is shown to "
        "be within the margin on both sides. Each seed gives one number. Student's t tests over "
        f"seeds, one-sided at {alpha:g} %{at}, decide two claims on each arm. It **loses** "
        "(against: the mean loss is at most 0). It **keeps** (against: the mean loss is at least "
        "the margin). If both are shown it **loses less than the margin**, if neither it is "
        "**undecided**. p values are adjusted by Holm's method over all arms that are declared, "
        f"within a claim; so the table has them. With fewer than {MIN_SEEDS} seeds nothing is "
        "said to be kept; *too few seeds* marks where it would be. A verdict is *fragile* if the "
        f"skewness over seeds exceeds {SKEWED:g}. Brackets hold 95 % intervals of means over "
        "seeds. They end where there is no further value, as an accuracy is never above 100 %; in "
        f"`summary.csv` they do not. Beside it stands how many runs lost {COLLAPSE} margins or "
        "more, and the share of all runs that may do so (upper end of the exact one-sided 95 % "
        "interval): a test of means does not see rare collapses. A run that diverges counts, with "
        "the score of a guess from then on. An arm whose early accuracy is not shown to be "
        f"{FLOOR} margins above chance has **nothing to lose**{_chance(found)}. An arm with fewer "
        "seeds than declared is **incomplete**, one with more **exploratory**: it has estimates "
        "and no word. In each of five families of claims (loses; keeps; flat; of pairs: loses "
        f"more; inferior) any is false with a probability of up to {100 * ALPHA:g} %, so that any "
        f"claim in this report is with up to {500 * ALPHA:g} %."
    )
    return "\n".join(["## How it is decided", "", text, ""])


def _exploratory(study: Declaration) -> list[str]:
    """Return the lines that stand first in the report of another number of seeds than declared."""
    if len(study.seeds) == study.num_declared:
        return []
    return [
        f"**Declared {study.num_declared} seeds, here {len(study.seeds)}: exploratory.** This "
        "report gives estimates without words.",
        "",
    ]


def _chance(found: Numbers) -> str:
    chance = chance_of(found.study)
    if chance is None:
        return " (chance is not declared here, so no arm has)"
    return f" (chance is {100 * chance:g} %)"


def verdicts(arms: Sequence[Finding], without_verdict: dict[str, str]) -> str:
    """Return the table of verdicts, and which arms have none."""
    some_have_it = any(one.deficit is not None for one in arms)
    titles = ["arm", "n", "early (%)", "late = level (%)", *["deficit (points)"] * some_have_it]
    titles += ["drop (points)", "slope (points per 100 tasks)"]
    titles += ["runs that collapse", "p loses", "p keeps", "verdict"]
    rows = []
    for one in arms:
        row = [f"`{one.arm}`", str(one.drop.n), percent(one.early)]
        row.append(percent(one.level, interval=True, bounds=(0, 1)))
        if some_have_it:
            row.append("" if one.deficit is None else percent(one.deficit, interval=True))
        row.append(percent(one.drop, interval=True))
        slope = percent(one.slope, interval=True, digits=3)
        row.append(slope + (", flat" if one.slope.flat else ""))
        most = 100 * one.loss.collapsed_at_most
        row.append(f"{one.loss.collapsed} of {one.loss.n}, at most {most:.0f} %")
        row += [p_value(one.loss.p_loses_adjusted), p_value(one.loss.p_keeps_adjusted)]
        rows.append([*row, one.loss.verdict + remarks(one.loss)])
    lines = [
        "## Verdicts",
        "",
        markdown_table(titles, rows) if rows else "No arm has a verdict yet.\n",
    ]
    if some_have_it:
        lines += [f"Verdicts are on the {arms[0].headline}.", ""]
    lines += [f"No verdict on `{arm}`: {reason}.  " for arm, reason in without_verdict.items()]
    return "\n".join([*lines, ""])


def pairs(compared: Sequence[Comparison]) -> str:
    """Return the table of declared comparisons, seed by seed."""
    headline = compared[0].headline if compared else "drop"
    there = any(one.drop_there is not None for one in compared)
    titles = [
        "arm", "reference", "n", f"{headline}, arm less reference (points)",
        *["the same at the reference's rate"] * there, "loses more?",
        "level, arm less reference (points)", *["the same at the reference's rate"] * there,
        "level", "differs also in",
    ]  # fmt: skip
    rows = []
    for one in compared:
        row = [f"`{one.arm}`", f"`{one.reference}`", str(one.loss.n)]
        row.append(percent(one.loss, interval=True))
        if there:
            row.append(percent(one.loss_there, interval=True) if one.loss_there else "")
        row += [_words(OF_PAIRS, one.loss), percent(one.level, interval=True, sign=-1)]
        if there:
            level = one.level_there
            row.append(percent(level, interval=True, sign=-1) if level else "")
        row.append(_words(OF_LEVELS, one.level))
        row.append("; ".join(f"{name}: {a}, {b}" for name, (a, b) in one.differences.items()))
        rows.append(row)
    if not rows:
        return ""
    text = (
        "A seed fixes tasks, labels and order of batches for all arms, so arms are compared seed "
        "by seed. *Not inferior*: the level is less than the margin below that of the reference, "
        "or above it. p values are adjusted by Holm's method over the pairs, within a claim. "
        "*Differs also in*: options that both have, with the values of the arm and the reference. "
        "A pair that differs in its rate, too, does not say what the difference comes from."
    )
    if there:
        text += (
            " A *causal* pair is run at the learning rate of either arm, and its words are the "
            "weaker ones: each p value is the larger one of both."
        )
    return "\n".join(["## Pairs", "", text, "", markdown_table(titles, rows)])


def power(arms: Sequence[Finding], declared: int) -> str:
    """Return how much losses differ between seeds, and how many seeds the margin needs for that.

    Args:
        arms: What is said of each.
        declared: How many arms the study has.
    """
    rows = [
        (
            f"`{one.arm}`",
            str(one.loss.n),
            points(one.loss.sd),
            f"{one.loss.margin / one.loss.sd:.2f}" if one.loss.sd else "",
            str(needed(one)),
            str(needed(one, arms=declared)),
            str(needed(one, times=LARGER_SD)),
        )
        for one in arms
        if one.loss.sd is not None
    ]
    if not rows:
        return ""
    text = (
        "*Seeds needed*: as many as show `keeps` with a power of 80 %, at 5 %, if the arm loses "
        "nothing and losses differ between seeds as they do here, and no fewer than "
        f"{MIN_SEEDS}. *With Holm*: the same at 5 % divided by the {declared} arms, which is what "
        f"the hardest of them needs. *If the SD is {LARGER_SD:g} times as large*: an SD of three "
        "seeds may be so much too small (80 % bound)."
    )
    titles = (
        "arm", "n", f"SD of the {arms[0].headline} (points)", "margin / SD", "seeds needed",
        "with Holm",
        f"if the SD is {LARGER_SD:g} times as large",
    )  # fmt: skip
    return "\n".join(["## Are there enough seeds?", "", text, "", markdown_table(titles, rows)])


def needed(one: Finding, *, arms: int = 1, times: float = 1.0) -> int | str:
    """Return how many seeds an arm needs for the claim ``keeps``; "" where its SD is unknown.

    Args:
        one: What is said of the arm.
        arms: Over so many Holm's method divides the level.
        times: By so much the SD is larger than it was found.
    """
    if one.loss.sd is None:
        return ""
    return max(MIN_SEEDS, seeds_needed(times * one.loss.sd, one.loss.margin, alpha=ALPHA / arms))


def skeptic(arms: Sequence[Finding]) -> str:
    """Return how the parameters of each arm grew, beside what it was found to lose."""
    rows = [
        (
            f"`{one.arm}`",
            factor(one.growth),
            factor(one.growth_in_all) if one.growth_in_all else "",
            one.parameters,
            one.loss.verdict,
            READINGS.get((one.parameters, one.loss.claim), "open"),
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
    for arm in found.study.arms:
        if after := found.diverged_after(arm):
            of_seeds = ", ".join(f"{seed} (after {n} tasks)" for seed, n in after.items())
            lines += [f"Diverged, and at chance from there: `{arm}`, seeds {of_seeds}.", ""]
    cells = found.missing()
    if not cells:
        return "\n".join([*lines, "Nothing: all cells are complete.", ""])
    of_arms: dict[str, list[str]] = {}
    for arm, seed, count in cells:
        done = f"{count} of {found.tasks} tasks" if count else "not begun"
        done = "its record cannot be read" if count < 0 else done
        of_arms.setdefault(arm, []).append(f"{seed} ({done})")
    total = _cells(found.study)
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


def _words(of: dict[str, str], verdict: Verdict) -> str:
    return of.get(verdict.verdict, verdict.verdict) + remarks(verdict)


def remarks(of: Verdict) -> str:
    """Return what to beware of in a verdict."""
    shown = of.p_keeps_adjusted is not None and of.p_keeps_adjusted <= ALPHA
    few = of.verdict == "undecided" and shown and of.n < MIN_SEEDS
    low = of.verdict == NOTHING_TO_LOSE and (of.p_loses_adjusted or 1) <= ALPHA
    few_or_low = ", too few seeds" if few else ", although a loss is shown" if low else ""
    return few_or_low + (", fragile" if of.fragile else "")
