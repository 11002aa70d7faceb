"""Who looks for quantum layers in a network need not import one."""

import subprocess
import sys

import pytest
from torch import nn

from plasticity.quantum.circuits import Brickwork
from plasticity.quantum.known import is_ansatz, is_qnn
from plasticity.quantum.layer import QNN
from plasticity.quantum.readouts import LogOdds
from plasticity.quantum.reuploading import ReuploadingQNN


def test_layers_and_what_extends_them_are_known() -> None:
    ansatz = Brickwork(3, 1)
    assert is_qnn(QNN(ansatz, LogOdds(2)))
    assert is_qnn(ReuploadingQNN(ansatz, LogOdds(2), 8, (1,)))
    assert is_ansatz(ansatz)
    assert not any(is_qnn(other) for other in (nn.Linear(2, 2), ansatz, QNN, None))
    assert not any(is_ansatz(other) for other in (nn.Linear(2, 2), Brickwork, None))


@pytest.mark.slow
def test_an_mlp_is_trained_and_measured_without_an_import_of_tensorcircuit(tmp_path) -> None:
    program = """
import sys
from plasticity.metrics import METRICS
from plasticity.metrics.circuits import circuits
from plasticity.networks import NETWORKS
assert not {"plasticity.quantum.layer", "plasticity.quantum.circuits"} & {*sys.modules}
import pytest
import torch
from plasticity.learning.learner import Learner
from plasticity.networks.network import Shape
network = NETWORKS["mlp"].build(Shape(6, 3), torch.Generator())
learner = Learner(network, torch.optim.Adam, torch.nn.functional.cross_entropy)
learner.update(torch.rand(4, 6), torch.tensor([0, 1, 2, 0]))
assert not list(circuits(network))
from plasticity.metrics.norms import weight_norm
assert weight_norm(learner, None) > 0
import experiments.mnist
sys.exit("tensorcircuit" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
