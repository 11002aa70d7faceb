"""The report of a study as a page that one can touch: ``report.html``, a single file.

It works without a network. It holds what ``summary.csv`` has, the curves of all seeds, the options
of the arms, and plotly, which draws. Plotly, because it is kept well, comes with its Python package
(nothing is downloaded, and no file of others lies in this repository), and has zoom, hover and
intervals. It has 4.8 MB, and 2.0 MB as it is packed here; ``DecompressionStream`` of the browser
unpacks it and the curves.
"""

from __future__ import annotations

import base64
import dataclasses
import functools
import gzip
import hashlib
import html
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from plasticity._version import __version__
from plasticity.protocol.arms import FRESH
from plasticity.protocol.choices import choose
from plasticity.protocol.names import find_experiment
from plasticity.statistics.summaries import SUMMARIES
from plasticity.studies.cells import words
from plasticity.studies.numbers import Numbers

PAGE = "report.html"
TEMPLATE = Path(__file__).parent / "template"
KEPT_BITS = 10
"""Of the 23 bits after a number's leading one; so a number is off by 1/2048 of itself at most."""
EXPLAINED = {
    "keeps": "The mean drop is shown to be below the margin (one-sided t test at 5 %, Holm over "
    "the arms), with at least ten seeds.",
    "loses": "The mean drop is shown to be above 0 (one-sided t test at 5 %, Holm over the arms).",
    "loses less than the margin": "The mean drop is shown to be above 0, and below the margin.",
    "undecided": "Neither is shown: that the arm loses, or that it keeps. It is no verdict that "
    "nothing was lost.",
}
"""Words of verdicts, for whoever points at them."""


def page_of(found: Numbers, summary: str, labels: Mapping[str, str]) -> str:
    """Return the page, as HTML.

    Args:
        found: The numbers of a study.
        summary: Its ``summary.csv``: all that the page's tables say stands there.
        labels: What columns are called, by name.
    """
    values, places = _packed(found)
    data = {
        "study": _declared(found),
        "arms": {arm: _arm(found, arm) for arm in found.study.arms},
        "options": _options(found),
        "columns": [{"name": name, "label": labels.get(name, name)} for name in found.names()],
        "places": places,
        "summary": summary,
        "quantiles": _quantiles(len(found.study.seeds)),
        "explained": EXPLAINED,
    }
    # As json.dumps writes them, "</" or "<!--" within a string could end or hide the script.
    content = json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")
    parts = {
        "TITLE": html.escape(found.study.name),
        "STYLE": (TEMPLATE / "page.css").read_text(),
        "DATA": content,
        "VALUES": _text(values),
        "PLOTLY": _plotly(),
        "PROGRAM": (TEMPLATE / "page.js").read_text(),
    }
    page = (TEMPLATE / "page.html").read_text()
    for name, part in parts.items():
        page = page.replace(f"<!--{name}-->", part, 1)
    return page


def _declared(found: Numbers) -> dict[str, Any]:
    """Return what the study declares, and with what the page was made."""
    study = found.study
    experiment = find_experiment(study.experiment)
    score, score_words = experiment.score
    options = [word for name, value in study.settings.items() for word in words(name, value)]
    seeds = f" --seeds {len(study.seeds)}"
    return {
        "name": study.name, "question": study.question, "digest": study.digest(),
        "protocol": f"{study.experiment}, preset {study.preset}, {found.tasks} tasks",
        "options": " ".join(options), "tasks": found.tasks, "seeds": [*study.seeds],
        "score": score, "score_words": score_words, "drop_margin": study.drop_margin,
        "slope_margin": study.slope_margin, "compared": [[*pair] for pair in study.compared],
        "missing": [[arm, seed, count] for arm, seed, count in found.missing()],
        "version": __version__, "numbers": _digest(found),
        "commands": [
            f"python -m experiments.study {study.name}{seeds}",
            f"python -m experiments.study {study.name}{seeds} --report --records records",
        ],
    }  # fmt: skip


def _arm(found: Numbers, arm: str) -> dict[str, Any]:
    """Return an arm's complete seeds, and what each of them lost."""
    score = found.of(arm, find_experiment(found.study.experiment).score[0])
    of_seeds: dict[str, list[float]] = {}
    if score is not None and not arm.startswith(FRESH):
        try:
            of_seeds = {name: of(score).tolist() for name, of in SUMMARIES.items()}
        except ValueError:  # too few tasks: the report says so
            of_seeds = {}
    return {"seeds": found.seeds(arm), "of_seeds": of_seeds}


def _options(found: Numbers) -> dict[str, dict[str, str]]:
    """Return the options of each arm, as text, by the names that they have on the command line."""
    study = found.study
    experiment = find_experiment(study.experiment)
    arms = choose(experiment, study.preset, study.arms, study.settings, study.of_arm).arms
    options = {}
    for name, arm in arms.items():
        parts = {"": arm.network, "optimizer.": arm.optimizer, "inputs.": arm.inputs}
        parts |= {f"{remedy}.": of for remedy, of in arm.remedies.items()}
        options[name] = {"epochs": str(arm.epochs)} | {
            prefix + field.name.replace("_", "-"): str(getattr(part, field.name))
            for prefix, part in parts.items()
            for field in dataclasses.fields(part)
        }
    return options


def _packed(found: Numbers) -> tuple[bytes, dict[str, dict[str, Any]]]:
    """Return the curves of all complete seeds, and where each lies among them.

    A curve is float32, ``(seeds, tasks)``, of the tasks at which any seed has a number. The score
    is as it was recorded; other columns have ``KEPT_BITS``. All first bytes come first, then all
    second ones, and so on: so they are packed better.

    Returns:
        The bytes, and by arm and column: the first number's place, and the tasks (None: all).
    """
    score = find_experiment(found.study.experiment).score[0]
    curves: list[np.ndarray] = []
    places: dict[str, dict[str, Any]] = {}
    start = 0
    for arm in found.study.arms:
        places[arm] = {}
        for name in found.columns[arm]:
            values = found.of(arm, name)
            if values is None:
                continue
            (tasks,) = np.nonzero(np.isfinite(values).any(0))
            dense = len(tasks) == found.tasks
            curve = np.ascontiguousarray(values[:, tasks], dtype=np.float32)
            places[arm][name] = [start, None if dense else tasks.tolist()]
            curves.append((curve if name == score else _rounded(curve)).ravel())
            start += curve.size
    every = np.concatenate([*curves, np.empty(0, np.float32)]).astype("<f4")
    return every.view(np.uint8).reshape(-1, 4).T.tobytes(), places


def _rounded(values: np.ndarray) -> np.ndarray:
    """Return float32 numbers with fewer bits, each to its nearest; what is not finite stays."""
    dropped = 23 - KEPT_BITS
    bits = values.view(np.uint32)
    nearest = (bits + np.uint32(1 << (dropped - 1))) & np.uint32(0xFFFFFFFF << dropped & 0xFFFFFFFF)
    return np.where(np.isfinite(values), nearest, bits).view(np.float32)


def _digest(found: Numbers) -> str:
    """Return 16 hexadecimal digits of the SHA-256 of all recorded numbers."""
    total = hashlib.sha256()
    for arm in found.study.arms:
        for name, values in sorted(found.columns[arm].items()):
            total.update(f"{arm} {name} {values.shape}".encode())
            total.update(np.ascontiguousarray(values, dtype="<f4").tobytes())
    return total.hexdigest()[:16]


def _quantiles(seeds: int) -> list[float | None]:
    """Return by a number of seeds Student's 97.5 % quantile, None where there is no interval."""
    from scipy.special import stdtrit

    return [None, None, *(float(stdtrit(n - 1, 0.975)) for n in range(2, seeds + 1))]


def _text(content: bytes) -> str:
    # Without the time, for equal numbers give equal bytes.
    return base64.b64encode(gzip.compress(content, 6, mtime=0)).decode()


@functools.cache
def _plotly() -> str:
    from plotly.offline import get_plotlyjs

    return _text(get_plotlyjs().encode())
