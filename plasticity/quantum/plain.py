"""A trained circuit as plain matrix products, which any exporter of torch can take."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from plasticity.quantum.readouts import Readout


class PlainCircuit(nn.Module):
    """Evaluate a circuit by its matrix U, in a few functions of torch.

    The amplitudes that are read are U x / |x|. A readout gets their squares; one of Z gets
    2 p - 1, with p the sum of all of them, those where the qubit is 0. The matrix is a buffer: a
    picture of the circuit when this was made, which does not learn. It is differentiable in x.

    It has at most 2 * 4**num_qubits numbers: 8 MiB at 10 qubits in single precision, 8 GiB at 15.

    A sample that is zero, or not finite, gives NaN.

    Args:
        matrix: Rows of U for each amplitude of the input, real and imaginary parts,
            ``(2**num_qubits, 2, amplitudes)``.
        readout: What is read of the squares.

    Attributes:
        matrix: The same, ``(2**num_qubits, 2 * amplitudes)``; a buffer.
    """

    matrix: Tensor

    def __init__(self, matrix: Tensor, readout: Readout) -> None:
        super().__init__()
        self.register_buffer("matrix", matrix.flatten(1))
        self.readout = readout

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., features)``, real or complex, to ``(..., outputs)``, as the layer does."""
        dtype = self.matrix.dtype
        if x.is_complex():
            x = x.to(dtype.to_complex())
            parts = torch.cat([x.real, x.imag], -1)
        else:
            parts = x = x.to(dtype)
        largest = parts.abs().amax(-1, keepdim=True)  # so that no square leaves the range
        scale = largest * torch.linalg.vector_norm(parts / largest, dim=-1, keepdim=True)
        matrix = self.matrix[: x.shape[-1]]
        if x.is_complex():
            real, imaginary = x.real / scale @ matrix, x.imag / scale @ matrix
            first, second = imaginary.chunk(2, -1)
            amplitudes = real + torch.cat([-second, first], -1)  # i times those of the second
        else:
            amplitudes = x / scale @ matrix
        of_real, of_imaginary = amplitudes.square().chunk(2, -1)
        squares = of_real + of_imaginary
        if self.readout.qubit is None:
            return self.readout(squares)
        return self.readout(2 * squares.sum(-1) - 1)

    def extra_repr(self) -> str:
        """Describe it in one line."""
        return f"{len(self.matrix)} amplitudes, {self.readout}"
