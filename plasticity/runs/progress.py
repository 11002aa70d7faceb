"""The progress bar of all long work."""

from __future__ import annotations

import sys
from typing import Any

from tqdm import tqdm


def progress_bar(**options: Any) -> tqdm[Any]:
    """Make a progress bar, which writes to a file less often than to a terminal.

    Its rate and the time left are those of the mean since the start: rollouts and updates, tasks
    with and without measurements take turns.
    """
    interval = 0.1 if sys.stderr.isatty() else 30
    return tqdm(dynamic_ncols=True, mininterval=interval, smoothing=0, **options)
