"""An experiment: its definition, and how one runs it from Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from plasticity.errors import Diverged
from plasticity.protocol.choices import choose, with_settings
from plasticity.protocol.experiment import Definition
from plasticity.protocol.options import Config

if TYPE_CHECKING:
    from plasticity.runs.load import Run


@dataclass(frozen=True)
class Experiment(Definition[Config]):
    """An experiment that can be run."""

    def run(
        self,
        preset: str | None = None,
        *,
        arms: Sequence[str] = (),
        results: str | Path = "results",
        options: Mapping[str, Mapping[str, Any]] | None = None,
        overwrite: bool = False,
        progress: bool = True,
        **settings: Any,
    ) -> Run:
        """Train the arms that are not finished, as the command does, and return the run.

        A run that was begun goes on where it stopped, and one that is finished is read only. The
        numbers are those of the command with the same options, bit for bit.

        Args:
            preset: The protocol; by default the first one.
            arms: Names of arms, such as ``mlp`` or ``mlp+l2``; by default the preset's.
            results: Folder that gets the run folder.
            options: Options of arms by the arm's name, as on the command line without it:
                ``{"mlp+l2": {"l2.strength": 1e-2}}``.
            overwrite: Delete what is recorded of these arms, and start them afresh.
            progress: Show a progress bar on standard error.
            **settings: Any field of the experiment's config, such as ``seed``, ``num_tasks`` or
                ``batch_size``, and any of its other options, such as ``metrics``.

        Raises:
            UsageError: An argument is wrong; nothing was written.
            DataError: The data set cannot be had.
            RecordError: What is recorded there is damaged, or cannot be written.
            InUse: Another process trains an arm of them.
            Diverged: The loss of an arm became NaN or infinite. All other arms are trained.
        """
        from plasticity.runs.exports import export
        from plasticity.runs.load import Run
        from plasticity.runs.train import (
            ArmComplete,
            ArmDiverged,
            ArmFinished,
            RunOpened,
            train_with_progress,
        )

        preset = next(iter(self.presets)) if preset is None else preset
        other = {field.name for field in fields(self.options)} - {"arms", "results", "overwrite"}
        extra = {name: settings.pop(name) for name in [*settings] if name in other}
        chosen = choose(self, preset, arms, settings, options)
        if "metrics" in other:
            extra.setdefault("metrics", self.presets[preset].metrics)
        say = with_settings(
            self.options(arms=tuple(chosen.arms), results=Path(results), overwrite=overwrite), extra
        )
        diverged: list[str] = []
        for event in train_with_progress(self, chosen, say, show=progress):
            if isinstance(event, RunOpened):
                folder, records = event.folder, event.records
            elif isinstance(event, ArmComplete | ArmFinished | ArmDiverged) and event.record.rows:
                export(self, event.record, event.arm)
            if isinstance(event, ArmDiverged):
                diverged.append(f"{event.arm}: {event.error}")
        if diverged:
            raise Diverged("; ".join(diverged))
        return Run(folder, self, {name: record.path for name, record in records.items()})
