"""What a study declares: which arms learn which tasks with which seeds, and what is asked."""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Self

from plasticity.errors import PlasticityError, UsageError
from plasticity.protocol.choices import Choice, choose, with_options
from plasticity.protocol.names import find_experiment, import_modules
from plasticity.protocol.options import TaskSetting
from plasticity.protocol.serialization import to_json
from plasticity.results.names import AT_RATE_OF
from plasticity.studies.diagnosed import Diagnosed, Hypothesis, as_json, problems_of, restored
from plasticity.studies.rules import FIRST_UNSEEN, rules

OF_A_CELL = ("seed", "threads")
"""Settings that each cell has from the study itself."""


@dataclass(frozen=True)
class Declaration:
    """Say what is trained and what is claimed, before any of it is trained.

    Attributes:
        name: On the command line, and of the folder of its report.
        question: What it is to answer, in one or two sentences.
        experiment: ``mnist``, ``qdata``, ``cifar``, or one of your own: ``module:EXPERIMENT``.
        preset: Of the experiment.
        arms: Names of networks, each with remedies after a plus.
        seeds: Those that are evaluated.
        fewer_seeds: Arms that have only so many of the seeds, the first, since they cost more:
            ``{"qnn": 3}``.
        settings: Values for fields of the experiment's config, for all arms: ``{"num_tasks": 60}``.
        of_arm: Values for options of single arms, by the arm's name:
            ``{"mlp": {"optimizer.learning_rate": 0.01}}``.
        metrics: What is measured beside what always is; none: what the preset measures.
        drop_margin: Loss of accuracy over the run that is called none, a part of 1.
        slope_margin: The same for the trend, per 100 tasks.
        compared: Pairs of an arm and its reference, for claims on paired differences.
        tuning_seeds: Those that ``--tune`` takes; never among ``seeds``.
        rates: Learning rates that ``--tune`` tries for each arm whose remedies name no option.
        tuning_values: What it tries instead, by arm and option: ``{"mlp+redo": {"redo.every":
            (79, 790)}}``.
        modules: Modules that are imported before an arm is trained, because they register networks,
            remedies or metrics of your own.
        looks: Numbers of seeds at which the report is read, if it is not only read at the end, such
            as (10, 20). Each look has a lower level then.
        causal: Pairs among ``compared`` of which the difference is to have a cause: each is run at
            either partner's learning rate (``mlp-sphere@mlp`` and ``mlp@mlp-sphere`` are among
            ``arms``, where the rates differ), and the weaker claim counts.
        confirmatory: Whether it tests hypotheses; then its seeds are from 100 on, since those below
            were looked at to find them.
        chance: Score of a guess, a part of 1; None: the experiment's, where it knows it.
        declared_seeds: How many seeds are declared, where the study has another number of them
            (``with_seeds``): then its report gives no words. It is not in the digest.
        diagnosed: Arms whose aged networks are intervened in after training; then the report has a
            section *Causes*.
        hypotheses: Claims on what cures them.

    Raises:
        UsageError: Something of it cannot be trained or claimed; one line.
    """

    name: str
    question: str
    experiment: str
    preset: str
    arms: tuple[str, ...]
    seeds: tuple[int, ...]
    settings: Mapping[str, Any] = field(default_factory=dict, hash=False)
    of_arm: Mapping[str, Mapping[str, Any]] = field(default_factory=dict, hash=False)
    metrics: tuple[str, ...] = ()
    drop_margin: float = 0.01
    slope_margin: float = 0.001
    compared: tuple[tuple[str, str], ...] = ()
    tuning_seeds: tuple[int, ...] = ()
    rates: tuple[float, ...] = ()
    tuning_values: Mapping[str, Mapping[str, tuple[float, ...]]] = field(
        default_factory=dict, hash=False
    )
    modules: tuple[str, ...] = ()
    looks: tuple[int, ...] = ()
    causal: tuple[tuple[str, str], ...] = ()
    confirmatory: bool = False
    chance: float | None = None
    declared_seeds: int | None = None
    fewer_seeds: Mapping[str, int] = field(default_factory=dict, hash=False)
    diagnosed: tuple[Diagnosed, ...] = ()
    hypotheses: tuple[Hypothesis, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "diagnosed", restored(Diagnosed, self.diagnosed))
        object.__setattr__(self, "hypotheses", restored(Hypothesis, self.hypotheses))
        self._check_kinds()
        if not re.fullmatch(r"[A-Za-z0-9][\w.-]*", self.name):
            raise UsageError(f"study {self.name!r}: a name of letters, digits, - and _")
        for problem in self._problems():
            raise UsageError(f"study {self.name}: {problem}")

    def _check_kinds(self) -> None:
        """Refuse values of another kind, such as a word in place of a tuple of words.

        Raises:
            UsageError: Says which, and what it should be.
        """
        words, numbers = "words", "numbers"
        of_kind = {
            "arms": words, "metrics": words, "modules": words, "seeds": numbers,
            "tuning_seeds": numbers, "rates": numbers, "looks": numbers,
        }  # fmt: skip
        for name, kind in of_kind.items():
            values = getattr(self, name)
            is_right = isinstance(values, tuple | list) and all(
                isinstance(value, str) if kind is words else isinstance(value, int | float)
                for value in values
            )
            if not is_right:
                example = '("a", "b")' if kind is words else "(0, 1)"
                raise UsageError(f"{name} {values!r:.60}: must be a tuple of {kind}, as {example}")
        for name in ("compared", "causal"):
            pairs = getattr(self, name)
            for pair in pairs if isinstance(pairs, tuple | list) else [None]:
                if not isinstance(pair, tuple | list) or len(pair) != 2:
                    raise UsageError(f"{name} {pairs!r:.60}: must be a tuple of pairs of arms")
        for name in ("settings", "of_arm", "tuning_values", "fewer_seeds"):
            if not isinstance(getattr(self, name), Mapping):
                raise UsageError(f"{name} {getattr(self, name)!r:.60}: must be a dictionary")
        for name in ("of_arm", "tuning_values"):
            for arm, options in getattr(self, name).items():
                if not isinstance(options, Mapping):
                    raise UsageError(f"{name}[{arm!r}] {options!r:.60}: must be a dictionary")
        for name in ("drop_margin", "slope_margin"):
            if not isinstance(getattr(self, name), int | float):
                raise UsageError(f"{name} {getattr(self, name)!r:.60}: must be a number")
        if not isinstance(self.chance, int | float | None):
            raise UsageError(f"chance {self.chance!r:.60}: must be a number")

    def _problems(self) -> Iterable[str]:
        """Yield what is wrong; the first is asked for."""
        for what in ("arms", "seeds", "compared", "tuning_seeds", "rates", "metrics", "modules"):
            values = getattr(self, what)
            if twice := [v for k, v in enumerate(values) if v in values[:k]]:
                yield f"{what}: {twice[0]} is there twice"
        if not self.arms or not self.seeds:
            yield f"{'seeds' if self.arms else 'arms'}: at least one"
        for seed in (*self.seeds, *self.tuning_seeds):
            if type(seed) is not int or not 0 <= seed < 2**64:
                yield f"seed {seed}: must be 0 to 2**64 - 1"
        if both := {*self.seeds} & {*self.tuning_seeds}:
            yield f"tuning_seeds: {min(both)} is among the seeds that are evaluated"
        for what in ("drop_margin", "slope_margin"):
            if not 0 < getattr(self, what) < math.inf:
                yield f"{what} {getattr(self, what)}: must be above 0"
        if self.chance is not None and not 0 <= self.chance < 1:
            yield f"chance {self.chance}: must be from 0 to below 1"
        if self.declared_seeds is not None and type(self.declared_seeds) is not int:
            yield f"declared_seeds {self.declared_seeds!r:.60}: must be a number of seeds"
        for rate in self.rates:
            if not 0 < rate < math.inf:
                yield f"rates: {rate} must be above 0"
        named = (*self.of_arm, *self.tuning_values, *self.fewer_seeds)
        for arm in (*named, *itertools.chain(*self.compared)):
            if arm not in self.arms:
                yield f"{arm} is not among its arms"
        for name in self.settings:
            if name in OF_A_CELL:
                yield f"settings: {name} is not for a study to say"
        yield from self._problems_of_seeds()
        for arm, reference in self.causal:
            if (arm, reference) not in self.compared:
                yield f"causal: {arm} against {reference} is not among the pairs compared"
        yield from problems_of(self)
        try:
            import_modules(self.modules)
            choice = self.choice()
            for arm, options in self.tuning_values.items():
                for option, values in options.items():
                    if not values:
                        yield f"tuning_values: {arm} {option} has no values"
                    for value in values:
                        with_options(choice.arms[arm], {option: value}, arm)
        except PlasticityError as error:
            yield " ".join(str(error).splitlines())
        else:
            if not isinstance(choice.config, TaskSetting):
                yield f"experiment {self.experiment}: studies are of experiments with tasks"
            for pair in self.causal:
                rates = {choice.arms[arm].optimizer.learning_rate for arm in pair}
                for name in at_partners_rates(pair) if len(rates) > 1 else ():
                    if name not in self.arms:
                        yield f"causal: {' and '.join(pair)} differ in their rate: add {name}"

    def _problems_of_seeds(self) -> Iterable[str]:
        """Yield what is wrong with the seeds that are declared, the looks and the hypotheses."""
        if self.looks:
            if len(self.looks) != 2 or not 2 <= self.looks[0] < self.looks[1]:
                yield f"looks {self.looks}: must be two numbers of seeds, the second larger"
            elif self.declared_seeds is None and len(self.seeds) not in self.looks:
                yield f"looks {self.looks}: it has {len(self.seeds)} seeds"
        if self.looks and self.fewer_seeds:
            yield "looks, fewer_seeds: a study has one of them"
        for arm, number in self.fewer_seeds.items():
            if type(number) is not int or not 1 <= number < self.num_declared:
                yield f"fewer_seeds: {arm} {number!r:.40}: must be 1 to {self.num_declared - 1}"
        low = [seed for seed in self.seeds if seed < FIRST_UNSEEN]
        if self.confirmatory and low:
            yield (
                f"seed {low[0]}: seeds below {FIRST_UNSEEN} were looked at to find hypotheses, "
                "and do not test them"
            )

    def options_of(self, arm: str) -> dict[str, Any]:
        """Return the options of an arm that differ from the preset's.

        An arm at another's rate has its own options and that arm's learning rate.
        """
        own = dict(self.of_arm.get(arm, {}))
        if AT_RATE_OF not in arm:
            return own
        base, _, partner = arm.rpartition(AT_RATE_OF)
        of_base = {k: v for k, v in self.options_of(base).items() if not _is_rate(k)}
        rate = {k: v for k, v in self.options_of(partner).items() if _is_rate(k)}
        return of_base | rate | own

    def choice(self) -> Choice:
        """Return all arms with their options, and what they share.

        Raises:
            PlasticityError: There can be no such arms.
        """
        experiment = find_experiment(self.experiment)
        of_arm = {arm: self.options_of(arm) for arm in self.arms}
        return choose(experiment, self.preset, self.arms, self.settings, of_arm)

    def json(self) -> dict[str, Any]:
        """Return its fields as JSON holds them, without those that have their default."""
        content = {}
        for entry in dataclasses.fields(self):
            value = getattr(self, entry.name)
            if isinstance(value, Mapping):
                value = {k: dict(v) if isinstance(v, Mapping) else v for k, v in value.items()}
            content[entry.name] = value
        content["diagnosed"] = as_json(self.diagnosed)
        content["hypotheses"] = as_json(self.hypotheses)
        # Studies without them keep their digest.
        for later in (
            "tuning_values", "modules", "looks", "causal", "confirmatory", "chance",
            "declared_seeds", "fewer_seeds", "diagnosed", "hypotheses",
        ):  # fmt: skip
            if content[later] in (None, {}, (), [], False):
                del content[later]
        return content

    def digest(self) -> str:
        """Return 16 hexadecimal digits that stand for all that is declared.

        That is what it says itself, the numbers of its arms and what they share, which it may have
        from the preset, and the rules by which is decided.
        """
        choice = self.choice()
        fields = {name: of for name, of in self.json().items() if name != "declared_seeds"}
        numbers = {name: arm.json() for name, arm in choice.arms.items()}
        whole = [fields, numbers, to_json(choice.config), rules(self.looks)]
        content = json.dumps(whole, sort_keys=True, allow_nan=False)
        return hashlib.sha256(content.encode()).hexdigest()[:16]

    @property
    def num_declared(self) -> int:
        """How many seeds are declared."""
        return len(self.seeds) if self.declared_seeds is None else self.declared_seeds

    def seeds_of(self, arm: str) -> tuple[int, ...]:
        """Return those of the seeds that an arm has."""
        return self.seeds[: self.fewer_seeds.get(arm)]

    def declared_of(self, *arms: str) -> int:
        """Return how many seeds are declared for each of these arms.

        If the study has another number of seeds than declared, no arm is as it was declared.
        """
        if len(self.seeds) != self.num_declared:
            return self.num_declared
        return min(self.fewer_seeds.get(arm, self.num_declared) for arm in arms)

    def with_seeds(self, number: int) -> Self:
        """Return the study with so many seeds: its first ones, then those that follow its largest.

        Raises:
            UsageError: It is not positive.
        """
        if number < 1:
            raise UsageError(f"{number} seeds: at least 1")
        further = itertools.count(max(self.seeds) + 1)
        others = (seed for seed in further if seed not in self.tuning_seeds)
        seeds = itertools.islice(itertools.chain(self.seeds, others), number)
        declared = self.num_declared
        as_declared = number == declared or number in self.looks
        return dataclasses.replace(
            self, seeds=tuple(seeds), declared_seeds=None if as_declared else declared
        )


def at_partners_rates(pair: tuple[str, str]) -> tuple[str, str]:
    """Return the names of either arm of a pair with the other's learning rate."""
    arm, reference = pair
    return f"{arm}{AT_RATE_OF}{reference}", f"{reference}{AT_RATE_OF}{arm}"


def _is_rate(option: str) -> bool:
    return option.replace("-", "_") == "optimizer.learning_rate"
