"""How the user has called the commands: for usage lines, and for commands that a text advises."""

from __future__ import annotations

import re

prefix = "python -m experiments."
"""What was typed before a command's name. `experiments.__main__` sets it."""
own = ""
"""The place of an experiment of the user's own, ``module:EXPERIMENT``, as it was typed."""


def called(text: str) -> str:
    """Return a text whose commands are called as the user has called this one."""
    return re.sub(r"python -m experiments\.(?=\w)", lambda _: prefix, text)
