"""The section *Causes* of a study's report: tables of what was diagnosed, and the hypotheses."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from plasticity.protocol.names import find_experiment
from plasticity.statistics.inference import holm, p_above
from plasticity.statistics.tables import markdown_table
from plasticity.studies.causes import causes_figure, causes_of, causes_text
from plasticity.studies.cures import judge

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from plasticity.runs.diagnose import Diagnosis
    from plasticity.studies.declaration import Declaration

FAMILY = 6
"""Hypotheses on causes in all studies together; Holm's adjustment is over them."""
ALPHA = 0.05


@dataclass(frozen=True)
class Outcome:
    """What came out of a hypothesis.

    Attributes:
        name: Of the hypothesis.
        text: In words.
        n: Number of seeds, the fewest of its parts.
        p: The largest p value of its parts; None where a part has no seeds yet.
        adjusted: The same, adjusted by Holm over the family; those of other studies count as 1.
        parts: The p value of each part.
    """

    name: str
    text: str
    n: int
    p: float | None
    adjusted: float | None
    parts: tuple[float | None, ...]


def outcomes(study: Declaration, diagnosis: Diagnosis) -> list[Outcome]:
    """Test the hypotheses of a study by what was diagnosed, at the greatest age of each arm."""
    found = []
    for hypothesis in study.hypotheses:
        parts = [_p_of(part, diagnosis) for part in hypothesis.parts]
        ps = [p for p, _ in parts]
        largest = None if None in ps else max(p for p in ps if p is not None)
        found.append((hypothesis, min(n for _, n in parts), largest, tuple(ps)))
    known = [1.0 if p is None else p for _, _, p, _ in found]
    adjusted = holm([*known, *[1.0] * max(0, FAMILY - len(known))])
    return [
        Outcome(h.name, h.text, n, p, None if p is None else float(a), ps)
        for (h, n, p, ps), a in zip(found, adjusted, strict=False)
    ]


def _p_of(part: Sequence[Any], diagnosis: Diagnosis) -> tuple[float | None, int]:
    """Return the p value of a part of a hypothesis, and of how many seeds."""
    kind, arm, *words = part
    names = ["none", "untrained", *(w for w in words if isinstance(w, str))]
    if kind in ("loses more", "loses less"):
        mine, others = (_levels(diagnosis, a, ["none", "untrained"]) for a in (arm, words[0]))
        seeds = sorted({*mine} & {*others})
        gap, other = (
            np.array([of[s]["untrained"] - of[s]["none"] for s in seeds]) for of in (mine, others)
        )
        values = gap - other if kind == "loses more" else other / 2 - gap
        bound = float(words[1]) if kind == "loses more" else 0.0
        return _p(values, bound)
    of_seeds = _levels(diagnosis, arm, names)
    of = {n: np.array([of_seeds[s][n] for s in sorted(of_seeds)]) for n in names}
    count = len(of_seeds)
    if count < 2:
        return None, count
    if kind == "loses":
        return _p(of["untrained"] - of["none"], float(words[0]))
    if kind == "cures":
        return _cured(of["none"], of[words[0]], of["untrained"])
    if kind == "restores":
        return _cured(of[words[0]], of[words[1]], of["none"])
    if kind == "gains less":
        return _p(of["none"] - of[words[0]], -float(words[1]))
    if kind == "gains more":
        return _p(of[words[0]] - of[words[1]], 0.0)
    return _p(of["none"] - of[words[0]], float(words[1]))  # lowers


def _cured(nothing: np.ndarray, changed: np.ndarray, whole: np.ndarray) -> tuple[float, int]:
    found = judge(nothing, changed, whole)
    return max(found.p["gap"], found.p["cures"]), found.n


def _p(values: np.ndarray, bound: float) -> tuple[float | None, int]:
    n = len(values)
    return (float(p_above(np.round(values, 9), bound)) if n > 1 else None), n


def _levels(
    diagnosis: Diagnosis, arm: str, names: Sequence[str]
) -> Mapping[int, Mapping[str, float]]:
    """Return mean accuracies in points by seed and intervention, of seeds that have all of them."""
    ages = [age for folder, age in diagnosis.cases if diagnosis.arm_of(folder) == arm]
    if not ages:
        return {}
    found: dict[int, dict[str, float]] = {}
    for name in names:
        rows = [
            row
            for row in diagnosis.rows
            if (row["arm"], row["age"], row["intervention"]) == (arm, max(ages), name)
        ]
        for seed in {row["seed"] for row in rows}:
            mine = [100 * row["test_accuracy"] for row in rows if row["seed"] == seed]
            found.setdefault(seed, {})[name] = float(np.mean(mine))
    return {seed: of for seed, of in found.items() if len(of) == len({*names})}


def causes_section(study: Declaration, diagnosis: Diagnosis) -> str:
    """Return the section in Markdown; hypotheses get no word before all seeds are complete."""
    parts = ["## Causes\n"]
    if study.hypotheses:
        declared = getattr(study, "declared_seeds", None) or len(study.seeds)
        lines = [_line(one, words=one.n == declared) for one in outcomes(study, diagnosis)]
        titles = ["", "hypothesis", "n", "p", "p, adjusted", ""]
        parts += [
            markdown_table(titles, lines),
            "The p value of a hypothesis is the largest of those of its parts, one-sided paired t "
            f"tests over seeds. The adjustment is Holm's over {FAMILY} hypotheses in all studies "
            "of causes; those of other studies count as 1 here. *Shown*: it is at most "
            f"{ALPHA:.0%}. A word takes as many seeds as are declared.\n",
        ]
    causes = causes_of(diagnosis)
    if not causes:
        return "\n".join([*parts, "No branch of a complete cell has all references yet.\n"])
    tasks = 1 + max(row["task"] - row["age"] for row in diagnosis.rows)
    return "\n".join([*parts, causes_text(causes, tasks).replace("## ", "### ")])


def _line(one: Outcome, *, words: bool) -> list[str]:
    def number(p: float | None) -> str:
        return "" if p is None else f"{p:.3g}"

    word = "not tested yet"
    if one.adjusted is not None:
        word = "shown" if one.adjusted <= ALPHA else "not shown"
        word = word if words else "no word: not the seeds that are declared"
    return [one.name, one.text, str(one.n), number(one.p), number(one.adjusted), word]


def figure_of_causes(study: Declaration, diagnosis: Diagnosis) -> Figure | None:
    """Return the figure of what was diagnosed, if there is something to draw."""
    causes = causes_of(diagnosis)
    if not causes:
        return None
    tasks = 1 + max(row["task"] - row["age"] for row in diagnosis.rows)
    return causes_figure(find_experiment(study.experiment), causes, tasks)


def add_causes(
    study: Declaration, diagnosis: Diagnosis | None, save: Callable[[str, Figure], str]
) -> list[str]:
    """Return the parts of a report's text, with its figure; none where nothing is diagnosed.

    Args:
        study: What is declared.
        diagnosis: What was diagnosed.
        save: Writes a figure under a name, and returns the name of its file.
    """
    if diagnosis is None:
        return []
    text = causes_section(study, diagnosis)
    figure = figure_of_causes(study, diagnosis)
    return [text, *([] if figure is None else [f"![causes]({save('causes', figure)})\n"])]
