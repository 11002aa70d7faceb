"""Slow, obvious networks: Python numbers, one sample at a time, and gradients by differences."""

from collections.abc import Callable, Sequence

import torch

Vector = list[complex]


def gram_schmidt(columns: Sequence[Vector]) -> list[Vector]:
    """Orthonormalize columns one after the other, twice each against rounding."""
    done: list[Vector] = []
    for column in columns:
        rest = list(column)
        for other in done + done:
            overlap = sum(complex(a).conjugate() * b for a, b in zip(other, rest, strict=True))
            rest = [b - overlap * a for a, b in zip(other, rest, strict=True)]
        norm = sum(abs(b) ** 2 for b in rest) ** 0.5
        done.append([b / norm for b in rest])
    return done


def columns_of(vectors: torch.Tensor) -> list[Vector]:
    """Return complex columns of ``(amplitudes, vectors, 2)``, or of a matrix."""
    matrix = torch.view_as_complex(vectors.detach()) if vectors.dim() == 3 else vectors.detach()
    return [matrix[:, k].tolist() for k in range(matrix.shape[1])]


def squared_overlaps(columns: Sequence[Vector], sample: Sequence[complex]) -> list[float]:
    """Return |sum_j u_j x_j|^2 / |x|^2 for each u; x may be the shorter one."""
    norm = sum(abs(v) ** 2 for v in sample)
    return [
        abs(sum(u * v for u, v in zip(column, sample, strict=False))) ** 2 / norm
        for column in columns
    ]


def layers_applied(
    sample: Sequence[float],
    layers: Sequence[tuple[list[list[float]], list[float]]],
    activate: Callable[[list[float]], list[float]],
) -> list[float]:
    """Apply matrices and biases, with an activation between them."""
    values = list(sample)
    for place, (weight, bias) in enumerate(layers):
        values = [
            sum(w * v for w, v in zip(row, values, strict=True)) + b
            for row, b in zip(weight, bias, strict=True)
        ]
        if place + 1 < len(layers):
            values = activate(values)
    return values


def relu(values: list[float]) -> list[float]:
    return [max(0.0, v) for v in values]


def central_differences(
    function: Callable[[], float], tensor: torch.Tensor, step: float = 1e-6
) -> torch.Tensor:
    """Return the derivatives of a function of a tensor, which is changed number by number."""
    numbers = tensor.detach().view(-1)
    result = torch.zeros_like(numbers)
    for k in range(len(numbers)):
        before = float(numbers[k])
        numbers[k] = before + step
        above = function()
        numbers[k] = before - step
        below = function()
        numbers[k] = before
        result[k] = (above - below) / (2 * step)
    return result.view(tensor.shape)


def assert_outputs_and_gradients(
    network: torch.nn.Module, x: torch.Tensor, slow: Callable[[], list[list[float]]]
) -> None:
    """Compare a network in double precision with a slow one that reads its parameters anew."""
    outputs = network(x)
    expected = torch.tensor(slow(), dtype=torch.float64)
    torch.testing.assert_close(outputs.detach(), expected, rtol=1e-9, atol=1e-9)
    generator = torch.Generator().manual_seed(5)
    weights = torch.randn(outputs.shape, generator=generator, dtype=torch.float64)

    def weighted() -> float:
        return float((weights * torch.tensor(slow(), dtype=torch.float64)).sum())

    parameters = list(network.parameters())
    for parameter, gradient in zip(
        parameters, torch.autograd.grad((weights * outputs).sum(), parameters), strict=True
    ):
        by_differences = central_differences(weighted, parameter)
        torch.testing.assert_close(gradient, by_differences, rtol=1e-5, atol=1e-6)
