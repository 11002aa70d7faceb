"""Networks of all kinds that metrics should do right, and gradients sample by sample."""

import torch
from torch import nn

from plasticity.networks.mlp import bounded, mlp
from plasticity.quantum.circuits import Ansatz, Brickwork, pauli_words
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


class Gates(nn.Module):
    """A circuit of gates that are told, gate by gate on all amplitudes."""

    def __init__(self, parameter: torch.Tensor, readout=None, renormalised: bool = False) -> None:
        super().__init__()
        self.ansatz, self.readout = Ansatz(3, ((0, 1), (2, 1), (0, 2))), readout or LogOdds(3)
        self.renormalised = renormalised
        self.parameter = nn.Parameter(parameter)

    def gates(self) -> torch.Tensor:
        return torch.view_as_complex(self.parameter)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x / torch.linalg.vector_norm(x, dim=1, keepdim=True)
        gates = self.gates()
        state = x.to(gates.dtype).reshape(-1, 2, 2, 2)
        for gate, (a, b) in zip(gates, self.ansatz.pairs, strict=True):
            whole = gate.reshape(2, 2, 2, 2)
            others = [q for q in range(3) if q not in (a, b)]
            state = torch.einsum(
                "ijkl,bklr->bijr", whole, state.permute(0, a + 1, b + 1, *(q + 1 for q in others))
            )
            places = [a, b, *others]
            state = state.permute(0, *(places.index(q) + 1 for q in range(3)))
        p = torch.view_as_real(state).square().sum(-1).flatten(1)
        p = p / p.sum(1, keepdim=True) if self.renormalised else p
        return self.readout(p[:, : self.readout.num_outcomes(3)])


class Logarithms(LogOdds):
    """Read log p_k, of numbers of any size."""

    def __call__(self, p: torch.Tensor) -> torch.Tensor:
        return p.log()


class FromElsewhere(Gates):
    """Angles that count from gates which are kept."""

    def __init__(self) -> None:
        super().__init__(torch.rand(3, 15))
        self.register_buffer("kept", exponentials_of(torch.rand(3, 15)))

    def gates(self) -> torch.Tensor:
        return exponentials_of(self.parameter) @ self.kept


class OfRealGates(Gates):
    """Gates exp(A), A real and antisymmetric, with an angle for each of its six numbers."""

    def __init__(self) -> None:
        super().__init__(torch.rand(3, 6))
        self.angles = self.parameter
        del self.parameter

    @property
    def all_angles(self) -> torch.Tensor:
        places = {1: 0, 5: 1, 7: 2, 8: 3, 10: 4, 13: 5}  # IY, XY, YI, YX, YZ, ZY
        zero = torch.zeros_like(self.angles[:, 0])
        columns = [self.angles[:, places[k]] if k in places else zero for k in range(15)]
        return torch.stack(columns, 1)

    def gates(self) -> torch.Tensor:
        return exponentials_of(self.all_angles)


class TellsOthers(Gates):
    """Tell gates that are not those that act."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x) * 1.01


class OnTheWay(Gates):
    """Have a parameter beside the gates."""

    def __init__(self) -> None:
        super().__init__(torch.rand(3, 4, 4, 2))
        self.turn = nn.Parameter(torch.rand(8))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return super().forward(x * self.turn)


def exponentials_of(angles: torch.Tensor) -> torch.Tensor:
    words = torch.from_numpy(pauli_words())
    return torch.linalg.matrix_exp(-1j * torch.einsum("gk,kij->gij", angles.to(words.dtype), words))


def orthogonal() -> nn.Module:
    """A layer whose matrix is made of other parameters."""
    layer = nn.utils.parametrizations.orthogonal(nn.Linear(8, 5), orthogonal_map="householder")
    return nn.Sequential(layer, nn.ReLU(inplace=True), nn.Linear(5, 3))


ZOO = {
    "a layer used twice": Twice,
    "a shared weight": Tied,
    "sequences": Sequence,
    "scalar and complex": Unusual,
    "parametrized": orthogonal,
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
    "free gates": lambda: Gates(torch.rand(3, 4, 4, 2), Logarithms(3)),
    "free gates, renormalised": lambda: Gates(torch.rand(3, 4, 4, 2), renormalised=True),
    "angles from elsewhere": FromElsewhere,
    "real gates": OfRealGates,
    "other gates than told": lambda: TellsOthers(torch.rand(3, 4, 4, 2), renormalised=True),
    "gates and more": OnTheWay,
    "free gates and head": lambda: nn.Sequential(
        Gates(torch.rand(3, 4, 4, 2), Probabilities(), renormalised=True), nn.Linear(8, 3)
    ),
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
