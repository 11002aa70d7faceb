"""What copies of a module have to be: equal to it, and independent of it."""

import copy
import io
import pickle

import torch
from torch import Tensor, nn


def assert_copies_are_equal_and_independent(
    net: nn.Module, other: nn.Module, x: Tensor, parameter: str
) -> None:
    """Copy a module by state_dict into another one, by deepcopy and by pickle."""
    assert not torch.equal(net(x), other(x))
    file = io.BytesIO()
    torch.save(net.state_dict(), file)
    file.seek(0)
    other.load_state_dict(torch.load(file, weights_only=True))
    for twin in (other, copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(net(x), twin(x))
        with torch.no_grad():
            twin.get_parameter(parameter).add_(0.1)
        assert not torch.equal(net(x), twin(x))
