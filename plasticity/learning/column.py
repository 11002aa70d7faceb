"""What a column of the rows is called, and how it is drawn."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable
from dataclasses import dataclass

NONNEGATIVE = (0.0, math.inf)
FRACTION = (0.0, 1.0)


@dataclass(frozen=True)
class Column:
    """A column's label, unit and axis, as its metric, its remedy or its experiment declares them.

    All but the name may be left out: a column of your own has its name in words, no unit, and the
    axis that its values ask for.

    Attributes:
        name: In the rows. One that ends with an underscore stands for all columns that begin with
            it, as for the layers of a network; what follows is said after the label.
        label: In words, without the unit.
        unit: Such as ``nats``; none of a pure number.
        logarithmic: Whether the axis is; None: where the values are far apart.
        bounds: The least and the greatest value that there can be; an interval ends there.
        compared: Whether tables and figures of many arms show it unasked.
        samples: The column of lists that this one has the means of. The 95 % interval of the mean
            (Student's t) is shaded, and the curve is not smoothed.
        abscissa: The column that it is drawn over, if it is not the run's unit.
        by: What its number counts, ``layer`` or ``gate``, if it is one of many columns whose names
            differ in a number at the end. They have a table and a figure of their own
            (``plasticity.figures.by_layer``), and no other shows them unasked.
    """

    name: str
    label: str = ""
    unit: str = ""
    logarithmic: bool | None = None
    bounds: tuple[float, float] = (-math.inf, math.inf)
    compared: bool = True
    samples: str = ""
    abscissa: str = ""
    by: str = ""

    def __post_init__(self) -> None:
        if not self.label:
            object.__setattr__(self, "label", self.name.replace("_", " ").strip())

    @property
    def title(self) -> str:
        """Return the label with the unit, as it stands at an axis and above a table."""
        return f"{self.label} ({self.unit})" if self.unit else self.label


def find_column(columns: Iterable[Column], name: str) -> Column | None:
    """Return what is declared of a column; None where nothing is."""
    for column in columns:
        if column.name == name:
            return column
        if column.name.endswith("_") and name.startswith(column.name):
            rest = name.removeprefix(column.name).replace("_", " ")
            if column.by and not rest.isdigit():
                continue
            return dataclasses.replace(column, name=name, label=f"{column.label} {rest}")
    return None
