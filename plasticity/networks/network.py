"""What a network is: options, and how to build a module from them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

if TYPE_CHECKING:
    import torch
    from torch import nn


@dataclass(frozen=True)
class Shape:
    """What a problem asks of a network.

    Attributes:
        inputs: Numbers of a sample.
        outputs: Logits: as many as classes, or one for two classes.
    """

    inputs: int
    outputs: int

    def __post_init__(self) -> None:
        for name, value in (("inputs", self.inputs), ("outputs", self.outputs)):
            if value < 1:
                raise ValueError(f"{name} {value}: at least 1")


@dataclass(frozen=True)
class Network:
    """Options of a network: a frozen dataclass whose fields are the options.

    Its docstring's first line is the arm's line in ``--help``. Options have no default in the
    class: presets and ``NETWORKS`` give their numbers. A field that is added later has a default,
    with which it changes nothing: then no name of a run folder changes. Import torch where it is
    needed, not at the top of the module, and ``--help`` answers at once.

    Attributes:
        like: The preset's arm whose optimizer, epochs and inputs an arm of this network has where
            the preset has no arm of its name.
    """

    like: ClassVar[str] = "mlp"

    def build(self, shape: Shape, generator: torch.Generator) -> nn.Module:
        """Build the untrained module.

        Args:
            shape: What the problem asks for.
            generator: Source of the initial weights; torch's global generator is left alone.

        Returns:
            A module from ``(batch, shape.inputs)`` to ``(batch, shape.outputs)``.

        Raises:
            DoesNotFit: It cannot be built for this problem.
        """
        raise NotImplementedError

    def adapted(self, preset: Network) -> Network:
        """Return the network for a preset that has no arm of its name.

        Args:
            preset: The network of the preset's arm ``like``.
        """
        return self

    def remark(self, module: nn.Module) -> str:
        """Return what to say of a built module before it is trained."""
        return ""
