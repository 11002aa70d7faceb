"""Where numbers come from: command, commit, versions, machine."""

import functools
import importlib.metadata
import platform
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

from plasticity._version import __version__

# What may decide numbers; those of the extra "rl" are often not installed.
_PACKAGES = (
    "torch", "torchvision", "tensorcircuit-ng", "numpy", "scipy", "scikit-learn",
    "stable-baselines3", "gymnasium", "mujoco",
)  # fmt: skip


def provenance(command: Sequence[str] | None, device: str | torch.device) -> dict[str, Any]:
    """Return what this process is: command, commit, versions, machine, time."""
    on_gpu = torch.device(device).type == "cuda"
    # Ours from the code that runs: what is installed under this name may be another copy.
    ours = {"python": platform.python_version(), "quantum-plasticity": __version__}
    versions = ours | {name: _version_of(name) for name in _PACKAGES}
    return {
        "command": list(sys.orig_argv if command is None else command),
        "commit": git_commit(),
        "versions": versions,
        "platform": platform.platform(),
        "device": torch.cuda.get_device_name(device) if on_gpu else platform.machine(),
        "threads": torch.get_num_threads(),
        "started": datetime.now(UTC).isoformat(timespec="seconds"),
    }


@functools.cache
def _version_of(package: str) -> str | None:
    """Return the version of an installed package, which is read from a file, or None."""
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def git_commit() -> str | None:
    """Return the commit of the checkout that this file is tracked in, if any."""
    here = Path(__file__).absolute()
    # "describe --dirty" would be shorter, but writes the index in spite of this option, and leaves
    # its lock behind where the disk is full: no later git command would work there.
    git = ["git", "--no-optional-locks", "-C", str(here.parent)]
    try:
        # An installed copy may lie inside somebody else's checkout; the first question asks that.
        _, commit, changes = (
            subprocess.run(git + question, capture_output=True, check=True, timeout=10).stdout
            for question in (
                ["ls-files", "--error-unmatch", here.name],
                ["rev-parse", "HEAD"],
                ["status", "--porcelain", "--untracked-files=no"],
            )
        )
    except (OSError, subprocess.SubprocessError):
        return None
    return commit.decode().strip() + ("-dirty" if changes else "")
