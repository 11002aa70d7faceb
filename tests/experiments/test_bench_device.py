"""The benchmark of noisy circuits as its user runs it."""

import importlib.util

import pytest
import torch

from experiments import bench_device

pytestmark = pytest.mark.usefixtures("empty_folder")
SMALL = ["--num-qubits=3", "--depth=2", "--outcomes=3", "--images=20", "--rounds=1"]


def test_it_times_ours_and_aer_and_finds_them_equal(capsys) -> None:
    pytest.importorskip("qiskit_aer")
    assert bench_device.main(SMALL) == 0
    said = capsys.readouterr().out
    for name in ("ours: operators, once", "ours: 20 images", "Aer: one image"):
        assert f"\n{name}" in said
    assert "Aer's probabilities differ from ours by" in said


def test_it_says_where_aer_computes_something_else(capsys, monkeypatch) -> None:
    pytest.importorskip("qiskit_aer")
    right = bench_device.aer
    monkeypatch.setattr(
        bench_device, "aer", lambda *a: lambda: right(*a)() + torch.tensor([1e-4, 0, 0])
    )
    assert bench_device.main(SMALL) == 1
    assert "differ from ours by 1.0e-04" in capsys.readouterr().err


def test_without_aer_it_times_ours(capsys, monkeypatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert bench_device.main(SMALL) == 0
    said = capsys.readouterr().out
    assert "Aer: one image" not in said
    assert "pip install 'quantum-plasticity[qiskit]'" in said


@pytest.mark.parametrize(
    "wrong",
    ["--num-qubits=1", "--depth=0", "--outcomes=9", "--depolarizing=1.5", "--readout-error=-1"],
)
def test_wrong_use_is_one_line(wrong: str, capsys) -> None:
    assert bench_device.main([*SMALL, wrong]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1
