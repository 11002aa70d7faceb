"""Quantum neural networks and plasticity in continual learning, in PyTorch."""

__version__ = "0.1.0"
