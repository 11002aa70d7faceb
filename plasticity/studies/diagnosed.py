"""What a study declares of causes: which arms are diagnosed, and hypotheses on what cures them.

Its records carry what was diagnosed, as float32.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from plasticity.errors import RecordError, UsageError
from plasticity.interventions import REFERENCES, parse
from plasticity.results.names import record_name

if TYPE_CHECKING:
    import numpy as np

    from plasticity.runs.diagnose import Diagnosis

RECORD = "diagnosis.npz"
KINDS = {
    "loses": 2, "cures": 2, "gains less": 3, "gains more": 3, "loses more": 3, "loses less": 2,
    "lowers": 3, "restores": 3,
}  # fmt: skip
"""Parts of hypotheses, and how many words follow each."""


@dataclass(frozen=True)
class Diagnosed:
    """An arm that is diagnosed.

    Attributes:
        arm: Its name.
        interventions: By name; ``none`` and ``untrained`` are among them in any case.
        tasks: How many each branch learns.
        at: After how many tasks the learner is branched, or ``"last"``.
    """

    arm: str
    interventions: tuple[str, ...]
    tasks: int = 10
    at: tuple[int | str, ...] = ("last",)

    def __post_init__(self) -> None:
        named = [*REFERENCES, *self.interventions]
        names = tuple(dict.fromkeys(parse(text)[0] for text in named))
        object.__setattr__(self, "interventions", names)
        object.__setattr__(self, "at", tuple(self.at))
        if not (type(self.tasks) is int and 1 <= self.tasks <= 10_000):
            raise UsageError(f"diagnosed: tasks {self.tasks!r}: must be 1 to 10000")
        for age in self.at:
            if age != "last" and not (type(age) is int and age > 0):
                raise UsageError(f"diagnosed: at {age!r}: must be a number of tasks, or 'last'")


@dataclass(frozen=True)
class Hypothesis:
    """A claim on causes, declared before a seed is run.

    Its p value is the largest of those of its parts. The parts, in points of accuracy:

    * ``("loses", ARM, X)``: the gap to an untrained network is over X;
    * ``("cures", ARM, I)``: I closes over half of a gap that is over five points;
    * ``("gains less", ARM, I, X)``: the gain of I is below X;
    * ``("gains more", ARM, I, J)``: I gains more than J;
    * ``("lowers", ARM, I, X)``: I lowers the accuracy by over X;
    * ``("restores", ARM, I, J)``: J closes over half of what I has lowered, over five points;
    * ``("loses more", ARM, OTHER, X)``: its gap is larger than the other arm's by over X;
    * ``("loses less", ARM, OTHER)``: its gap is less than half the other arm's.

    Attributes:
        name: Such as ``H1``.
        text: In words.
        parts: Words and numbers, as above.
    """

    name: str
    text: str
    parts: tuple[tuple[Any, ...], ...]

    def __post_init__(self) -> None:
        object.__setattr__(self, "parts", tuple(map(tuple, self.parts)))
        for kind, *words in self.parts:
            if kind not in KINDS or len(words) != KINDS[kind]:
                raise UsageError(f"hypothesis {self.name}: {kind!r} with {len(words)} words")


def restored(kind: type[Any], values: Sequence[Any]) -> tuple[Any, ...]:
    """Return values of a class, some of which may be mappings of its fields, as JSON has them."""
    try:
        return tuple(kind(**v) if isinstance(v, Mapping) else v for v in values)
    except TypeError as error:
        raise UsageError(f"{kind.__name__}: {error}") from error


def as_json(values: Sequence[Any]) -> list[dict[str, Any]]:
    """Return values as JSON holds them."""
    return [dataclasses.asdict(value) for value in values]


class Declares(Protocol):
    """What is asked here of a study."""

    @property
    def arms(self) -> tuple[str, ...]:
        """Return its arms."""

    @property
    def diagnosed(self) -> tuple[Diagnosed, ...]:
        """Return which of them are diagnosed."""

    @property
    def hypotheses(self) -> tuple[Hypothesis, ...]:
        """Return what is claimed of that."""


def problems_of(study: Declares) -> list[str]:
    """Return what is wrong with what a study declares of causes."""
    found = []
    for value in study.diagnosed:
        if not isinstance(value, Diagnosed):
            found.append(f"diagnosed: {value!r:.60} is no Diagnosed")
        elif value.arm not in study.arms:
            found.append(f"diagnosed: {value.arm} is not among its arms")
    if not found:
        arms = {value.arm for value in study.diagnosed}
        for hypothesis in study.hypotheses:
            for kind, arm, *words in hypothesis.parts:
                named = [arm, *words[:1]] if kind in ("loses more", "loses less") else [arm]
                found += [
                    f"hypothesis {hypothesis.name}: {name} is not diagnosed"
                    for name in named
                    if name not in arms
                ]
    return found


def save_diagnosis(diagnosis: Diagnosis, path: Path) -> None:
    """Write rows as arrays: by arm, age, intervention and column, ``(seeds, tasks)`` float32."""
    import numpy as np

    from plasticity.results.compact import write_arrays

    arrays: dict[str, np.ndarray] = {}
    words = ("run", "seed", "arm", "folder", "age", "intervention", "task")
    for arm, age in diagnosis.cases:
        for name in diagnosis.interventions(arm, age):
            rows = diagnosis.of(arm, age, name)
            place = f"{rows[0]['arm']}|{age}|{name}"
            seeds = list(dict.fromkeys(row["seed"] for row in rows))
            arrays[f"{place}|seeds"] = np.array(seeds, np.uint64)
            for column in dict.fromkeys(c for row in rows for c in row if c not in words):
                values = diagnosis.column(arm, age, name, column)
                arrays[f"{place}|column|{column}"] = values.astype(np.float32)
    write_arrays(path, arrays)


def load_diagnosis(path: Path) -> Diagnosis:
    """Read what ``save_diagnosis`` wrote.

    Raises:
        RecordError: It is damaged.
    """
    import numpy as np

    from plasticity.results.compact import read_arrays
    from plasticity.runs.diagnose import Diagnosis

    arrays = read_arrays(path)
    rows = []
    try:
        for key, seeds in arrays.items():
            arm, age, name, *rest = key.split("|")
            if rest != ["seeds"]:
                continue
            start = f"{arm}|{age}|{name}|column|"
            columns = {k.removeprefix(start): v for k, v in arrays.items() if k.startswith(start)}
            for place, seed in enumerate(seeds.tolist()):
                for task in range(columns["test_accuracy"].shape[1]):
                    row: dict[str, Any] = {
                        "run": "", "seed": seed, "arm": arm, "folder": f"{record_name(arm)}-study",
                        "age": int(age), "intervention": name, "task": int(age) + task,
                    }  # fmt: skip
                    told = {c: float(of[place, task]) for c, of in columns.items()}
                    rows.append(row | {c: v for c, v in told.items() if np.isfinite(v)})
    except (ValueError, KeyError, IndexError) as error:
        raise RecordError(f"{path} cannot be used: {error!r:.80}") from error
    return Diagnosis(tuple(rows), path)
