"""Networks of all kinds that metrics should do right, and gradients sample by sample."""

import torch
from torch import nn

from plasticity.networks.mlp import bounded, mlp
from plasticity.quantum.circuits import Brickwork
from plasticity.quantum.layer import QNN
from plasticity.quantum.readouts import LogOdds, PauliZ, Probabilities, SignedPauliZ


class Twice(nn.Module):
    """Use a layer twice, as a recurrent network does."""

    def __init__(self) -> None:
        super().__init__()
        self.shared, self.last = nn.Linear(8, 8), nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.shared(self.shared(x).tanh()))


class Tied(nn.Module):
    """Share a weight between layers, and leave a layer out."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second, self.last = nn.Linear(8, 8), nn.Linear(8, 8), nn.Linear(8, 3)
        self.second.weight = self.first.weight

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.second(self.first(x).tanh()))


class Sequence(nn.Module):
    """See each sample as a sequence, all of which goes through one layer."""

    def __init__(self) -> None:
        super().__init__()
        self.each, self.last = nn.Linear(2, 3), nn.Linear(3, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.last(self.each(x.unflatten(1, (4, 2))).tanh().sum(1))


class Unusual(nn.Module):
    """Have a scalar and a complex parameter beside a layer."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(0.7))
        self.mixing = nn.Parameter(torch.randn(8, 8, dtype=torch.complex128))
        self.last = nn.Linear(8, 3)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        mixed = torch.view_as_real(x.to(self.mixing.dtype) @ self.mixing).square().sum(-1)
        return self.last((self.scale * mixed).tanh())


class Scaled(nn.Module):
    """Multiply what a network puts out by a learned number."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network, self.scale = network, nn.Parameter(torch.tensor(1.3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.scale * self.network(x)


class SameCircuitTwice(nn.Module):
    """Send a sample and its reverse through one circuit."""

    def __init__(self) -> None:
        super().__init__()
        self.qnn = QNN(Brickwork(3, 2), LogOdds(3))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.qnn(x) + self.qnn(x.flip(1))


def orthogonal() -> nn.Module:
    """A layer whose matrix is made of other parameters."""
    layer = nn.utils.parametrizations.orthogonal(nn.Linear(8, 5), orthogonal_map="householder")
    return nn.Sequential(layer, nn.ReLU(inplace=True), nn.Linear(5, 3))


ZOO = {
    "a layer used twice": Twice,
    "a shared weight": Tied,
    "sequences": Sequence,
    "scalar and complex": Unusual,
    "parametrised": orthogonal,
    "mlp": lambda: mlp((8, 5, 3), torch.Generator().manual_seed(0)),
    "bounded mlp": lambda: bounded(mlp((8, 5, 2), torch.Generator().manual_seed(0))),
    "no bias": lambda: nn.Sequential(nn.Linear(8, 5, bias=False), nn.Tanh(), nn.Linear(5, 1)),
    "qnn z": lambda: QNN(Brickwork(3, 2), SignedPauliZ(2)),
    "qnn log odds": lambda: QNN(Brickwork(3, 2), LogOdds(3)),
    "one logit": lambda: QNN(Brickwork(3, 2), PauliZ(0)),
    "qnn and head": lambda: nn.Sequential(QNN(Brickwork(3, 1), Probabilities()), nn.Linear(8, 3)),
    "qnn on a layer": lambda: nn.Sequential(nn.Linear(8, 6), QNN(Brickwork(3, 2), LogOdds(3))),
    "scaled qnn": lambda: Scaled(QNN(Brickwork(3, 2), LogOdds(3))),
    "a circuit used twice": SameCircuitTwice,
}


def logits_of(network: nn.Module, x: torch.Tensor) -> torch.Tensor:
    """A logit a class."""
    logits = network(x)
    return torch.cat([torch.zeros_like(logits), logits], 1) if logits.shape[1] == 1 else logits


def loop_of_gradients(
    network: nn.Module, x: torch.Tensor, functions: torch.Tensor
) -> list[list[torch.Tensor]]:
    """The gradient of each function of each sample's logits, as a real vector: a pass for each."""
    parameters = list(network.parameters())
    found = []
    for sample in x:
        logits = logits_of(network, sample[None])[0]
        found.append([])
        for function in functions.to(logits.dtype):
            gradients = torch.autograd.grad(
                function @ logits, parameters, retain_graph=True, allow_unused=True
            )
            parts = [torch.zeros(0, dtype=logits.dtype)]
            for g in gradients:
                if g is not None:
                    parts.append((torch.view_as_real(g) if g.is_complex() else g).flatten())
            found[-1].append(torch.cat(parts).detach())
    return found
