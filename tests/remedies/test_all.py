"""What holds for every remedy: off, it is not there; stopped, it goes on; it says what it did."""

import copy
import dataclasses
import math

import pytest
import torch

from plasticity.errors import DoesNotFit
from plasticity.learning.learner import Learner
from plasticity.networks import NETWORKS
from plasticity.networks.evaluating import evaluating
from plasticity.networks.network import Shape
from plasticity.remedies import REMEDIES
from plasticity.remedies.resets import ResetOptimizer
from plasticity.seeding import generator_for
from tests.remedies.small import (
    SAMPLES,
    WIDTHS,
    acting,
    batch,
    learned,
    learner,
    network,
    through_a_file,
)
from tests.remedies.small import train as train_on
from tests.tiny import make_adam, random_states, same

NAMES = (
    "reset-optimizer", "start-afresh", "equal-betas", "l2", "adamw", "l2-init", "shrink-perturb",
    "continual-backprop", "redo", "layer-norm", "crelu", "weight-clipping", "spectral", "parseval",
    "isometry", "upgd", "input-standardisation", "hold", "revive", "nap", "snr", "c-chain", "adamo",
    "selective-reinit", "soft-rescaling", "leaky-relu",
)  # fmt: skip
FOR_LAYERS = (
    "continual-backprop", "redo", "layer-norm", "crelu", "weight-clipping", "spectral", "parseval",
    "isometry", "revive", "nap", "snr", "adamo", "selective-reinit", "soft-rescaling", "leaky-relu",
)  # fmt: skip
FOR_CIRCUITS = tuple(name for name in NAMES if name not in FOR_LAYERS)
# With these, a remedy does nothing.
OFF = {
    "l2": {"strength": 0.0},
    "l2-init": {"strength": 0.0},
    "spectral": {"strength": 0.0},
    "parseval": {"strength": 0.0},
    "adamw": {"decay": 0.0},
    "shrink-perturb": {"shrink": 0.0, "noise": 0.0},
    "continual-backprop": {"replacement_rate": 0.0},
    "redo": {"threshold": -0.1, "every": 1},
    "weight-clipping": {"multiple": 0.0},
    "isometry": {"iterations": 0},
    "hold": {"multiple": 0.0},
    "revive": {"samples": 0},
    "snr": {"eta": 0.0},
    "c-chain": {"strength": 0.0},
    "adamo": {"strength": 0.0},
    "selective-reinit": {"fraction": 0.0},
    "soft-rescaling": {"strength": 0.0},
    "leaky-relu": {"slope": 0.0},
}
OUT_OF_REACH = {
    "continual-backprop": {"replacement_rate": 1.0, "maturity": 1_000},
    "redo": {"every": 1_000},
    "weight-clipping": {"multiple": 1e6},
    "hold": {"multiple": 1e6},
    "snr": {"every": 1_000, "longest": 1_000},
    "selective-reinit": {"every": 1_000},
}
WITHOUT_COLUMNS = (
    "reset-optimizer", "start-afresh", "equal-betas", "adamw", "layer-norm", "crelu", "leaky-relu",
)  # fmt: skip


def test_all_are_registered() -> None:
    assert {*REMEDIES} == {*NAMES}


def test_options_have_no_default_in_the_class() -> None:
    for name in NAMES[2:]:
        fields = dataclasses.fields(REMEDIES[name])
        assert all(field.default is dataclasses.MISSING for field in fields)


def test_a_remedy_names_an_option_of_its_own_to_tune_and_tries_the_default_among_others() -> None:
    tuned = {name: remedy for name, remedy in REMEDIES.items() if remedy.tuned}
    assert {*tuned} == {*NAMES} - {
        "reset-optimizer", "start-afresh", "layer-norm", "crelu", "isometry",
        "input-standardisation", "revive", "nap", "leaky-relu",
    }  # fmt: skip
    assert {name: tuned[name].tuned for name in ("upgd", "redo", "continual-backprop")} == {
        "upgd": "learning_rate", "redo": "every", "continual-backprop": "replacement_rate",
    }  # fmt: skip
    for remedy in tuned.values():
        assert getattr(remedy, remedy.tuned) in remedy.tries
        for value in remedy.tries:
            dataclasses.replace(remedy, **{remedy.tuned: value})  # which its class accepts


def test_remedies_that_see_where_a_task_begins_say_so() -> None:
    told = {name for name in NAMES if REMEDIES[name].sees_tasks}
    assert told == {"reset-optimizer", "start-afresh", "shrink-perturb", "isometry", "revive"}
    assert not dataclasses.replace(REMEDIES["shrink-perturb"], each="update").sees_tasks


@pytest.mark.parametrize(
    ("name", "options"),
    [
        *OFF.items(), *OUT_OF_REACH.items(), ("equal-betas", {"beta": 0.5}),
        ("shrink-perturb", OFF["shrink-perturb"] | {"each": "update"}),
    ],
)  # fmt: skip
def test_switched_off_it_equals_the_baseline_bit_for_bit(name: str, options: dict) -> None:
    remedy = dataclasses.replace(REMEDIES[name], **options)
    treated, bare = learner(remedy), learner()
    if name == "equal-betas":
        bare.optimizer.param_groups[0]["betas"] = (0.5, 0.5)
    columns = train_on(treated, range(5), updates=10)
    train_on(bare, range(5), updates=10)
    assert same(learned(treated), learned(bare))
    assert all(value == 0 for row in columns for value in row.values())


@pytest.mark.parametrize("name", ["l2", "l2-init", "spectral", "parseval"])
def test_a_penalty_that_is_switched_off_is_none(name: str) -> None:
    remedy = learner(dataclasses.replace(REMEDIES[name], strength=0.0)).remedies[0]
    assert remedy.penalty() is None


@pytest.mark.sampled(12)
@pytest.mark.parametrize(
    ("arm", "name"),
    [("mlp", name) for name in NAMES] + [("qnn", name) for name in FOR_CIRCUITS],
)
def test_stopped_it_goes_on_bit_for_bit(arm: str, name: str) -> None:
    whole, begun = learner(acting(name), arm=arm), learner(acting(name), arm=arm)
    rows = train_on(whole, range(5), updates=5)
    train_on(begun, range(2), updates=5)
    state = through_a_file(begun.state_dict())
    # What is not in the state is that of another network; but start-afresh goes back to its own.
    resumed = learner(acting(name), arm=arm, seed=int(name != "start-afresh"))
    resumed.load_state_dict(state)
    train_on(begun, range(2, 3))  # which shares nothing with the one that goes on
    again = train_on(resumed, range(2, 5), updates=5)
    assert same(again, rows[2:])
    assert same(resumed.state_dict(), whole.state_dict())


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("start-afresh", "reset-optimizer")])
@pytest.mark.parametrize("arm", ["mlp", "qnn"])
def test_acting_it_changes_what_is_learned(arm: str, name: str) -> None:
    if arm == "qnn" and name in FOR_LAYERS:
        return
    treated, bare = learner(acting(name), arm=arm), learner(arm=arm)
    train_on(treated, range(4))
    train_on(bare, range(4))
    ours, theirs = ([*one.network.parameters()] for one in (treated, bare))
    assert any(
        a.shape != b.shape or not torch.equal(a, b) for a, b in zip(ours, theirs, strict=True)
    )


@pytest.mark.parametrize("name", NAMES)
def test_columns_say_what_was_done_since_the_last_row(name: str) -> None:
    one = learner(acting(name))
    rows = train_on(one, range(3), updates=6)
    prefix = name.replace("-", "_")
    assert all(key.startswith(f"{prefix}_") for row in rows for key in row)
    assert all(type(v) is float and math.isfinite(v) for row in rows for v in row.values())
    assert bool(rows[-1]) == (name not in WITHOUT_COLUMNS)
    assert all(v > 0 for v in rows[-1].values())
    if name not in ("upgd", "input-standardisation"):  # whose columns are of a moment
        assert all(v == 0 for v in one.columns().values())


@pytest.mark.parametrize("name", NAMES)
def test_no_global_random_state_is_touched(name: str) -> None:
    before = random_states()
    train_on(learner(acting(name)), range(2))
    assert same(random_states(), before)


@pytest.mark.parametrize("name", NAMES)
def test_evaluations_and_copies_of_the_network_count_for_nothing(name: str) -> None:
    looked_at, left_alone = learner(acting(name)), learner(acting(name))
    for one in (looked_at, left_alone):
        for step in range(12):
            if step % 4 == 0:
                one.start_task(step, SAMPLES)
            one.update(*batch(step))
            if one is looked_at:
                with evaluating(one.network), torch.no_grad():
                    one.network(torch.full_like(batch(0)[0], 9.0))
                clone = copy.deepcopy(one.network)
                clone.train()(torch.full_like(batch(0)[0], -7.0)).sum().backward()
                assert not {*clone.parameters()} & {*one.network.parameters()}
    assert same(looked_at.columns(), left_alone.columns())
    assert same(looked_at.state_dict(), left_alone.state_dict())


@pytest.mark.sampled(14)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("after", [0, 2])
def test_a_copy_of_the_learner_learns_alike_and_for_itself(name: str, after: int) -> None:
    one, alike = learner(acting(name)), learner(acting(name))
    train_on(one, range(after))
    rows = train_on(alike, range(5))[after:]
    before = copy.deepcopy(one.state_dict())
    twin = copy.deepcopy(one)
    assert train_on(twin, range(after, 5)) == rows
    assert same(twin.state_dict(), alike.state_dict())
    assert same(one.state_dict(), before)
    assert train_on(one, range(after, 5)) == rows
    assert same(one.state_dict(), alike.state_dict())


@pytest.mark.parametrize("name", NAMES)
def test_a_copy_of_the_network_does_not_drag_the_remedy_along(name: str) -> None:
    one = learner(acting(name))
    train_on(one, range(2))
    memo: dict = {}
    copy.deepcopy(one.network, memo)
    copied = [value for key, value in memo.items() if isinstance(key, int)]
    assert not any(isinstance(value, Learner | type(one.remedies[0])) for value in copied)


@pytest.mark.parametrize("name", FOR_LAYERS)
@pytest.mark.parametrize("of", ["qnn", "stiefel", "free-brickwork", "mlp-torus"])
def test_networks_without_layers_are_refused_in_a_line(of: str, name: str) -> None:
    built = NETWORKS[of].build(Shape(16, 3), generator_for(0, "initial weights"))
    with pytest.raises(DoesNotFit, match=rf"^{name} needs .*; the network is \w+") as caught:
        Learner(built, make_adam, torch.nn.functional.cross_entropy, [REMEDIES[name]])
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "name",
    [
        "continual-backprop", "redo", "crelu", "weight-clipping", "isometry", "hold", "revive",
        "nap", "snr", "adamo", "selective-reinit", "soft-rescaling",
    ],
)  # fmt: skip
@pytest.mark.parametrize("of", ["mlp-sphere", "mlp-orthogonal"])
def test_networks_on_manifolds_are_refused_by_what_would_leave_them(of: str, name: str) -> None:
    built = NETWORKS[of].build(Shape(16, 3), generator_for(0, "initial weights"))
    with pytest.raises(DoesNotFit, match="off their manifold"):
        Learner(built, make_adam, torch.nn.functional.cross_entropy, [REMEDIES[name]])


@pytest.mark.sampled(120)
@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("of", NETWORKS)
def test_with_every_network_it_learns_or_is_refused_in_a_line(of: str, name: str) -> None:
    """And parameters that must stay on a manifold are on it after each update."""
    built = NETWORKS[of].build(Shape(16, 3), generator_for(0, "initial weights"))
    try:
        one = Learner(built, make_adam, torch.nn.functional.cross_entropy, [acting(name)])
    except DoesNotFit as error:
        assert str(error).startswith(name)
        assert "\n" not in str(error)
        return
    train_on(one, range(2), updates=2)
    one.columns()
    before = copy.deepcopy(one.network.state_dict())
    one.retract()
    for key, value in one.network.state_dict().items():
        torch.testing.assert_close(value, before[key], rtol=1e-4, atol=1e-5)


@pytest.mark.sampled(6)
@pytest.mark.parametrize("first", NAMES)
def test_any_two_learn_together_in_both_orders_or_are_refused_in_a_line(first: str) -> None:
    for second in NAMES:
        try:
            one = learner(acting(first), acting(second))
        except DoesNotFit as error:
            assert str(error).startswith((first, second))
            assert "\n" not in str(error)
            assert {first, second} & {
                "equal-betas", "adamw", "layer-norm", "crelu", "leaky-relu", "nap", "adamo",
                "soft-rescaling",
            }  # fmt: skip
            continue
        rows = train_on(one, range(2))
        assert all(parameter.isfinite().all() for parameter in one.network.parameters())
        alone = [*one.remedies[0].columns(), *one.remedies[1].columns()]
        assert first == second or [*rows[0]] == alone


@pytest.mark.parametrize("name", ["equal-betas", "adamw", "upgd", "l2", "continual-backprop"])
@pytest.mark.parametrize("first", [True, False])
def test_it_works_beside_a_reset_in_both_orders(name: str, first: bool) -> None:
    remedies = [acting(name), ResetOptimizer()]
    one, other = learner(*remedies[:: 1 if first else -1]), learner(*remedies)
    kind, group = type(one.optimizer), dict(one.optimizer.param_groups[0], params=0)
    for learning in (one, other):
        train_on(learning, range(3))
        learning.start_task(3)
    assert type(one.optimizer) is kind
    if name != "upgd":
        assert dict(one.optimizer.param_groups[0], params=0) == group
    assert not one.optimizer.state
    assert same(one.network.state_dict(), other.network.state_dict())


BAD = [
    ("equal-betas", {"beta": 1.0}, "beta 1.0: 0 to"),
    ("l2", {"strength": -1.0}, "strength -1.0: at least 0"),
    ("adamw", {"decay": math.nan}, "decay nan: at least 0"),
    ("l2-init", {"strength": math.inf}, "strength inf: at least 0"),
    ("shrink-perturb", {"shrink": 1.5}, "shrink 1.5: 0 to 1"),
    ("shrink-perturb", {"noise": -0.1}, "noise -0.1: at least 0"),
    ("continual-backprop", {"replacement_rate": 2.0}, "replacement-rate 2.0: 0 to 1"),
    ("continual-backprop", {"maturity": -1}, "maturity -1: at least 0"),
    ("continual-backprop", {"utility_decay": 1.0}, "utility-decay 1.0: 0 to"),
    ("redo", {"every": 0}, "every 0: at least 1"),
    ("redo", {"threshold": -2.0}, "threshold -2.0: at least -1"),
    ("weight-clipping", {"multiple": -1.0}, "multiple -1.0: at least 0"),
    ("spectral", {"power": 0}, "power 0: 1 to 100"),
    ("parseval", {"scale": -1.0}, "scale -1.0: at least 0"),
    ("isometry", {"iterations": -1}, "iterations -1: at least 0"),
    ("upgd", {"learning_rate": -1.0}, "learning-rate -1.0: at least 0"),
    ("input-standardisation", {"decay": 1.5}, "decay 1.5: 0 to 1"),
    ("hold", {"multiple": -1.0}, "multiple -1.0: at least 0"),
    ("hold", {"layers": ("middle",)}, "layers middle: first, last, all, or numbers"),
    ("hold", {"layers": ()}, "layers: name at least one"),
    ("revive", {"samples": -1}, "samples -1: at least 0"),
    ("nap", {"decay": 1.5}, "decay 1.5: 0 to 1"),
    ("snr", {"eta": 1.5}, "eta 1.5: 0 to 1"),
    ("snr", {"longest": 0}, "longest 0: at least 1"),
    ("c-chain", {"strength": -1.0}, "strength -1.0: at least 0"),
    ("adamo", {"strength": math.nan}, "strength nan: at least 0"),
    ("selective-reinit", {"fraction": 2.0}, "fraction 2.0: 0 to 1"),
    ("selective-reinit", {"every": 0}, "every 0: at least 1"),
    ("soft-rescaling", {"strength": 1.5}, "strength 1.5: 0 to 1"),
    ("leaky-relu", {"slope": -0.1}, "slope -0.1: 0 to 1"),
]


@pytest.mark.parametrize(("name", "options", "message"), BAD)
def test_options_beyond_their_limits_are_refused(name: str, options: dict, message: str) -> None:
    with pytest.raises(ValueError, match=f"^{message}"):
        dataclasses.replace(REMEDIES[name], **options)


def test_the_small_network_is_one_that_all_remedies_fit() -> None:
    assert len([*network()]) == 2 * len(WIDTHS) - 3
