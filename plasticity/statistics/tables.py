"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence


def markdown_table(
    titles: Sequence[str], rows: Iterable[Sequence[str]], *, numbers: bool = False
) -> str:
    """Return a table in Markdown, a line a row.

    Args:
        titles: Of the columns.
        rows: The cells, in the same order.
        numbers: Whether all columns are numbers; these stand at the right.
    """
    lines = [titles, ["--:" if numbers else "---"] * len(titles), *rows]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
