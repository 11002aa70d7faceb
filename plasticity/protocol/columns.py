"""What the columns of an experiment's rows are called, and which of them are shown unasked.

A column is declared by the experiment, by the metric or by the remedy that makes it. One that
nobody has declared has the defaults of ``Column``. So what you add yourself is in the figure and
the table of a run, and in the report of a study, without a list that knows of it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from plasticity.learning.column import Column, find_column
from plasticity.protocol.experiment import Definition


def column_of(experiment: Definition[Any], name: str) -> Column:
    """Return what a column is called and how it is drawn."""
    found = find_column(experiment.columns, name)
    if found is None and experiment.metrics:
        from plasticity.metrics import METRICS

        found = find_column((c for m in METRICS.values() for c in m.declared), name)
    if found is None:
        remedies = experiment.registry.remedies.values()
        found = find_column((column for remedy in remedies for column in remedy.declared), name)
    return found or Column(name)


def panels_of(experiment: Definition[Any]) -> list[Column]:
    """Return the columns of the experiment's figure."""
    return [column_of(experiment, name) for name in experiment.panels]


def columns_in(experiment: Definition[Any], rows: Iterable[Mapping[str, Any]]) -> dict[str, Column]:
    """Return the columns of rows by name: the experiment's, those of metrics, those of remedies.

    Lists are left out.
    """
    there = dict.fromkeys(
        name for row in rows for name, value in row.items() if isinstance(value, int | float)
    )
    places = [column.name for column in experiment.columns]
    if experiment.metrics:
        from plasticity.metrics import METRICS

        for metric in METRICS.values():
            own = [name for name in there if metric.owns(name)]
            places += [c.name for c in metric.declared if c.name in there]
            places += [name for name in own if name not in places]
    order = {name: place for place, name in reversed([*enumerate(places)])}
    names = sorted(there, key=lambda name: order.get(name, len(places)))
    return {name: column_of(experiment, name) for name in names}


def added_columns(
    experiment: Definition[Any], rows: Iterable[Mapping[str, Any]]
) -> dict[str, Column]:
    """Return what rows have beside what the experiment always records, by name.

    It is what was measured on demand, and what the remedies say of themselves. Columns of layers
    and gates are left out: there are too many of them.
    """
    found = {name: of for name, of in columns_in(experiment, rows).items() if not of.by}
    if experiment.metrics:
        from plasticity.metrics import METRICS

        always = [METRICS[name] for name in experiment.metrics if name in METRICS]
        found = {n: of for n, of in found.items() if not any(metric.owns(n) for metric in always)}
    return {n: of for n, of in found.items() if find_column(experiment.columns, n) is None}


def compared_columns(
    experiment: Definition[Any], rows: Iterable[Mapping[str, Any]]
) -> list[Column]:
    """Return by what many arms are compared: the experiment's panels, and what tells why."""
    found = columns_in(experiment, rows)
    panels = [name for name in experiment.panels if name in found]
    others = [name for name, column in found.items() if column.compared and name not in panels]
    return [found[name] for name in (*panels, *others)]
