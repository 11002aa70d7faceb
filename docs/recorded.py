"""Numbers for the pages, each computed from a file that a command wrote into ``docs/records``."""

from pathlib import Path

import numpy as np

RECORDS = Path(__file__).parent / "records"


def tenth(run: str, file: str, which: str) -> str:
    """Return the mean accuracy of the first or last tenth of a run's tasks, in percent.

    Args:
        run: Folder in ``docs/records``.
        file: The export, ``.npy`` or ``.npz`` with an array ``accuracies``.
        which: ``"first"`` or ``"last"``.
    """
    content = np.load(RECORDS / run / file)
    accuracies = content if isinstance(content, np.ndarray) else content["accuracies"]
    count = max(1, len(accuracies) // 10)
    part = accuracies[:count] if which == "first" else accuracies[-count:]
    return f"{100 * part.mean():.1f} %"
