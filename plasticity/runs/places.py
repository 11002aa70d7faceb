"""Where a run is recorded, and on which bits of computed data its arms were trained.

Data that is computed has a definition, which is the same on every machine, and the run folder is
named after that. What is computed has other bits on another processor: the sha256 of these is noted
in an arm's provenance, and what differs from it is said. Older run folders are named after the
sha256; they are found by the definition that their config stands for.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from plasticity.protocol.arms import ArmConfig
from plasticity.protocol.experiment import Definition
from plasticity.protocol.options import Setting
from plasticity.results.names import config_json, folder_name, record_name


def recorded_identity(
    experiment: Definition[Any],
    preset: str,
    config: Any,
    data: Any,
    arms: Mapping[str, ArmConfig],
    results: Path,
) -> dict[str, Any]:
    """Return the config under which a run is recorded, or will be if it is not there yet.

    Of several run folders of the same definition, it is that of the one in which these arms have
    most rows; then of the one of the same bits as here; then of the one that is named as now.

    Args:
        experiment: Which it is a run of.
        preset: Its name.
        config: What the arms share.
        data: The run's; None where it is computed, and not needed.
        arms: Those asked for, by name.
        results: Folder of the run folders.
    """
    from plasticity.results.record import run_path

    identity: dict[str, Any] = json.loads(config_json(experiment.identity(config, data)))
    if experiment.renamed is None:
        return identity
    prefix = experiment.run_prefix(preset, config)
    there = [c for c in _configs(results, prefix) if experiment.named_now(c) == identity]
    content = content_here(config, data).get("content", identity["dataset"])
    of_these_bits = identity | {"dataset": content}
    # Also where its config.json is damaged: opening it says so.
    if of_these_bits not in there and run_path(results, prefix, of_these_bits).is_dir():
        there.append(of_these_bits)

    def order(found: dict[str, Any]) -> tuple[int, bool, bool, str]:
        path = run_path(results, prefix, found)
        of_arms = (path / folder_name(record_name(n), arm.json()) for n, arm in arms.items())
        rows = sum(map(_num_rows, of_arms))
        return -rows, found != of_these_bits, found != identity, path.name

    return min(there, key=order, default=identity)


def names_content(config: Setting) -> bool:
    """Return whether a run's data is read, and its run named after the content."""
    return hasattr(config, "dataset")


def content_here(config: Setting, data: Any) -> dict[str, str]:
    """Return the sha256 of computed data, to be noted beside what is trained on it."""
    if names_content(config) or not hasattr(data, "digest"):
        return {}
    return {"content": f"sha256:{data.digest}"}


def contents_of(arm: Path, config: Mapping[str, Any]) -> list[str]:
    """Return the sha256 of the computed data that an arm was trained on, each once; the last last.

    Args:
        arm: Its folder.
        config: What the arms of its run share, as it is recorded.
    """
    named = str(config.get("dataset"))
    before = named if named.startswith("sha256:") else ""
    found: list[str] = []
    with contextlib.suppress(OSError, ValueError):
        for line in (arm / "provenance.jsonl").read_text().splitlines():
            note = json.loads(line)
            if isinstance(note, dict):
                found.append(str(note.get("content", before)))
    return [*reversed(dict.fromkeys(filter(None, reversed(found))))]


def other_bits(arm: Path, recorded: Mapping[str, Any], config: Setting, data: Any) -> str:
    """Return in a line that an arm was trained on other bits than those here; or nothing."""
    here = content_here(config, data).get("content")
    others = [content for content in contents_of(arm, recorded) if content != here]
    if here is None or not others:
        return ""
    there = ", ".join(content[:15] for content in others)
    return (
        f"trained on states that another processor or library rounded otherwise ({there}; here "
        f"{here[:15]}): numbers differ in last digits, and where levels are degenerate in more"
    )


def _configs(results: Path, prefix: str) -> list[dict[str, Any]]:
    """Return the configs that can be read of run folders whose names begin so, and fit them."""
    from plasticity.errors import RecordError
    from plasticity.results.files import read_config

    found = []
    for path in sorted(results.glob(f"{prefix}-*")):
        with contextlib.suppress(RecordError):
            config = read_config(path / "config.json")
            if path.name == folder_name(prefix, config):
                found.append(config)
    return found


def _num_rows(arm: Path) -> int:
    """Return how many rows an arm has, or 0."""
    with contextlib.suppress(OSError), open(arm / "rows.jsonl", "rb") as file:
        return sum(1 for _ in file)
    return 0
