"""The one rule of randomness: a generator is a function of seed, purpose and indices."""

from __future__ import annotations

import hashlib

import numpy as np
import torch


def generator_for(seed: int, purpose: str, *indices: int) -> torch.Generator:
    """Return a CPU generator that depends on nothing but the arguments.

    Of the 63 bits that seed it, torch's CPU generator keeps the lower 32: among some 65,000 streams
    two are likely to be equal. The rows recorded so far rest on that, so it stays.

    Args:
        seed: The experiment's seed, at least 0.
        purpose: What is drawn, such as ``"permutation"``; different words give independent draws.
        indices: What it is drawn for, such as task and epoch, each less than 2**32.

    Raises:
        TypeError: A seed or an index is no integer, or the purpose no text.
        ValueError: A negative seed or index.
    """
    for number in (seed, *indices):
        if not isinstance(number, int | np.integer):
            raise TypeError(f"seed {seed!r} and indices {indices} must be integers")
    if not isinstance(purpose, str):
        raise TypeError(f"purpose {purpose!r} must be text, such as 'permutation'")
    if min(seed, *indices, 0) < 0:
        raise ValueError(f"seed {seed} and indices {indices} must not be negative")
    # Purpose and indices go into spawn_key: SeedSequence([3, 5]) and SeedSequence([3, 5, 0]) are
    # the same sequence, while spawn keys of different lengths are not.
    word = int.from_bytes(hashlib.sha256(purpose.encode()).digest()[:4], "big")
    sequence = np.random.SeedSequence(entropy=seed, spawn_key=(word, *indices))
    generator = torch.Generator()
    generator.manual_seed(int(sequence.generate_state(1, np.uint64)[0] >> 1))
    return generator
