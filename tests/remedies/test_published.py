"""What the authors of remedies published, said with the options here, is what they published."""

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from torch.nn.functional import cross_entropy

from plasticity.learning.learner import Learner
from plasticity.networks.mlp import mlp
from plasticity.remedies import REMEDIES
from plasticity.seeding import generator_for
from tests.remedies.small import batch, learner, network
from tests.tiny import make_adam

DOCS = Path(__file__).parents[2] / "docs"
PAGE = DOCS / "experiments/remedies.md"


def table() -> dict[str, dict[str, tuple[str, str]]]:
    """Return by remedy and option what the page says: the default, and the published number."""
    text = PAGE.read_text().partition("\n## Defaults and published numbers\n")[2]
    found: dict[str, dict[str, tuple[str, str]]] = {}
    for name, option, *numbers in re.findall(
        r"^\| `([\w-]+)` \| `([\w-]+)` \| ([^|]+) \| ([^| ]+)", text.partition("\n## ")[0], re.M
    ):
        found.setdefault(name, {})[option.replace("-", "_")] = (numbers[0], numbers[1])
    return found


def published(name: str):
    """Return a remedy with the numbers of its authors, as the page says them."""
    options = {option: float(number) for option, (_, number) in table()[name].items()}
    return dataclasses.replace(REMEDIES[name], **options)


def test_the_page_has_the_defaults_of_the_registry() -> None:
    defaults = table()
    assert {*defaults} >= {"l2-init", "parseval", "upgd", "shrink-perturb", "redo", "equal-betas"}
    for name, options in defaults.items():
        for option, (default, _) in options.items():
            assert float(default.replace(",", "")) == getattr(REMEDIES[name], option), (
                name,
                option,
            )


@pytest.mark.parametrize("page", ["experiments/remedies", "studies/pilot"])
def test_what_the_defaults_gave_is_seed_0_of_the_pilot(page: str) -> None:
    text = (DOCS / f"{page}.md").read_text().partition("\n## What is tuning\n")[2]
    rows = re.findall(
        r"^\| `(mlp[\w+-]*)` \| ([\d.]+) → ([\d.]+) \|", text.partition("\n## ")[0], re.M
    )
    assert len(rows) == 6
    for arm, *numbers in rows:
        with np.load(DOCS / f"records/pilot/mnist-why/{arm}.npz") as record:
            accuracies = record["column.test_accuracy"][0]
        first, last = (accuracies[part].mean() for part in (slice(30), slice(-30, None)))
        scale, digits = (100, 1) if page == "studies/pilot" else (1, 3)
        assert numbers == [f"{scale * mean:.{digits}f}" for mean in (first, last)], arm


def test_l2_init_has_half_the_strength_of_the_program_of_kumar() -> None:
    one = learner(published("l2-init"))
    first = [p.detach().clone() for p in one.network.parameters()]
    with torch.no_grad():
        for p in one.network.parameters():
            p.add_(0.1)
    pairs = zip(one.network.parameters(), first, strict=True)
    expected = 1e-2 * 0.5 * sum((p - q).square().sum() for p, q in pairs)
    torch.testing.assert_close(one.remedies[0].penalty(), expected)


def test_parseval_has_the_strength_of_the_program_of_chung_times_its_factor_of_the_width() -> None:
    net = mlp((20, 16, 3), generator_for(0, "initial weights"))
    one = Learner(net, make_adam, cross_entropy, [published("parseval")])
    (weight, _) = (module.weight for module in net.modules() if isinstance(module, nn.Linear))
    expected = 1e-3 * (64 / 16) ** 2 * (weight @ weight.T - 2 * torch.eye(16)).square().sum()
    torch.testing.assert_close(one.remedies[0].penalty(), expected)


def test_upgd_takes_the_step_of_the_program_of_elsayed() -> None:
    one = learner(dataclasses.replace(published("upgd"), noise=0.0))
    bare = network()
    x, y = batch(0)
    cross_entropy(bare(x), y).backward()
    pairs = [(p.detach().clone(), p.grad) for p in bare.parameters()]
    greatest = max(float((-g * p).max()) for p, g in pairs)
    one.update(x, y)
    for p, (old, g) in zip(one.network.parameters(), pairs, strict=True):
        gate = 1 - torch.sigmoid(-g * old / greatest)
        torch.testing.assert_close(p.detach(), old * (1 - 0.01 * 0.01) - 0.01 * g * gate)


def test_crelu_has_half_the_parameters_that_its_card_says() -> None:
    net = mlp((1024, 16, 10), generator_for(0, "initial weights"))
    before = sum(p.numel() for p in net.parameters())
    after = sum(p.numel() for p in REMEDIES["crelu"].on_build(net).parameters())
    assert (before, after) == (16_570, 8_370)
    card = type(REMEDIES["crelu"]).__doc__ or ""
    assert f"{after:,} parameters in place of {before:,}" in " ".join(card.split())


@pytest.mark.parametrize("name", ["l2-init", "parseval", "upgd"])
def test_cards_name_the_published_numbers(name: str) -> None:
    card = type(REMEDIES[name]).__doc__ or ""
    numbers = [float(n) for n in re.findall(r"\d+\.\d+|\d+e-\d+", card)]
    for option, (_, number) in table()[name].items():
        assert float(number) in numbers, (option, numbers)
