"""A module is one concept: what is longer than usual says why."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
MOST_LINES = 400
REASON = f"Longer than {MOST_LINES} lines: "


def test_a_module_of_many_lines_says_why_in_its_docstring_and_no_other_does() -> None:
    for package in ("plasticity", "experiments"):
        for file in (ROOT / package).rglob("*.py"):
            text = file.read_text(encoding="utf-8")
            docstring = ast.get_docstring(ast.parse(text)) or ""
            says_why = any(line.startswith(REASON) for line in docstring.splitlines())
            assert says_why == (len(text.splitlines()) > MOST_LINES), file.relative_to(ROOT)
