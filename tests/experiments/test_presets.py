"""The presets are what they were: a change of any number would leave recorded runs behind."""

import importlib
from types import SimpleNamespace
from typing import Any

import pytest

from plasticity.results.record import config_hash

# The first 8 digits are those of a run folder of such data.
DATA = SimpleNamespace(digest="0" * 64, name="Ant-v4")
HASHES: dict[str, dict[str, str]] = {
    "mnist": {"released": "114a88cc", "matched": "b517bebb", "quick": "8ba1a5fa"},
    "cifar": {
        "released": "a28d0896",
        "deep": "ad68d0b9",
        "matched": "6d4a6d3c",
        "quick": "6a52d529",
    },
    "qdata": {
        "released": "1b905a72",
        "matched": "af15ca58",
        "resolved": "07c7b034",
        "quick": "e98e56a6",
    },
    "ant": {"released": "fd982746", "matched": "3e920d78", "quick": "2a8e9fe9"},
}


def hashes_of(name: str) -> dict[str, str]:
    experiment: Any = importlib.import_module(f"experiments.{name}").EXPERIMENT
    return {
        preset: config_hash(experiment.identify(config, DATA))[:8]
        for preset, config in experiment.presets.items()
    }


@pytest.mark.parametrize("name", HASHES)
def test_hashes_of_presets_are_as_recorded(name: str) -> None:
    assert hashes_of(name) == HASHES[name]
