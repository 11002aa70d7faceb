"""Columns are declared by what makes them: labels, units, axes, and which are shown unasked."""

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from experiments.mnist import EXPERIMENT
from experiments.qdata import EXPERIMENT as QDATA
from plasticity.learning.column import Column, find_column
from plasticity.learning.metric import Metric
from plasticity.metrics import METRICS
from plasticity.protocol.columns import added_columns, column_of, compared_columns, panels_of
from plasticity.remedies import REMEDIES
from plasticity.rl.protocol import REMEDIES as OF_POLICIES
from plasticity.studies.numbers import load_records

RECORDS = Path(__file__).parents[2] / "docs/records"
ROW: dict[str, Any] = {
    "task": 0, "train_loss": 1.0, "weight_norm": 1.0, "gradient_norm": 1.0, "test_accuracy": 0.5,
}  # fmt: skip


def declared() -> Iterator[Column]:
    for maker in (*METRICS.values(), *REMEDIES.values(), *OF_POLICIES.values()):
        yield from maker.declared


def test_every_column_that_the_pilot_recorded_is_declared_by_what_made_it() -> None:
    recorded = set(load_records(RECORDS / "pilot/mnist-why").names()) - {"train_loss"}
    columns = [*declared()]
    assert [name for name in sorted(recorded) if find_column(columns, name) is None] == []
    # Each by one: two that say otherwise of a column would depend on their order.
    names = [column.name for column in {*columns}]
    assert sorted(names) == sorted({*names})


def test_title_has_the_unit_and_an_undeclared_column_has_its_name_in_words() -> None:
    assert column_of(EXPERIMENT, "train_loss").title == "training loss (nats)"
    assert column_of(EXPERIMENT, "largest_weight") == Column("largest_weight")
    assert Column("largest_weight").title == "largest weight"


def test_columns_of_layers_have_the_layer_in_their_label() -> None:
    column = column_of(EXPERIMENT, "spectrum_largest_2")
    assert (column.name, column.label) == (
        "spectrum_largest_2", "largest singular value of layer 2",
    )  # fmt: skip


def test_an_experiment_calls_a_metrics_column_otherwise() -> None:
    assert panels_of(EXPERIMENT)[0].title == "test accuracy after the task"
    assert panels_of(QDATA)[0].title == "validation accuracy after the task"
    assert panels_of(QDATA)[0].bounds == (0, 1)


def test_metric_declares_columns_of_its_own_only() -> None:
    with pytest.raises(ValueError, match="metric a: the column b is not one of its own"):
        Metric("a", lambda learner, task: 1.0, declared=(Column("b"),))


def test_what_was_added_is_shown_by_itself_and_lists_are_not() -> None:
    row = ROW | {"mine_pulled": 1.0, "l2_penalty": 2.0, "logit_magnitude": 3.0, "steps": [1, 2]}
    added = added_columns(EXPERIMENT, [ROW, row])
    assert [*added] == ["logit_magnitude", "mine_pulled", "l2_penalty"]
    assert added["l2_penalty"].title == "penalty of L2 (nats)"
    assert added["mine_pulled"].bounds == (-math.inf, math.inf)
    assert added_columns(EXPERIMENT, [ROW]) == {}


def test_arms_are_compared_by_panels_by_what_tells_why_and_by_what_you_add() -> None:
    row = ROW | {"mine_pulled": 1.0, "ntk_effective_rank": 3.0, "ntk_condition": 2.0,
                 "fisher_true_current": 1.0, "update_ratio": 1.0}  # fmt: skip
    assert [column.name for column in compared_columns(EXPERIMENT, [row])] == [
        "test_accuracy", "weight_norm", "gradient_norm", "train_loss", "update_ratio",
        "ntk_condition", "ntk_effective_rank", "mine_pulled",
    ]  # fmt: skip
