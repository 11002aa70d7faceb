"""What the columns of the metrics are called, their units and their axes."""

from __future__ import annotations

import math

from plasticity.learning.column import FRACTION, NONNEGATIVE, Column


def _own(
    name: str, label: str, bounds: tuple[float, float] = (-math.inf, math.inf), unit: str = ""
) -> tuple[Column, ...]:
    """Return a column that is shown only in figures of few arms, and in reports of studies."""
    return (Column(name, label, unit, bounds=bounds, compared=False),)


def _by(
    name: str, label: str, bounds: tuple[float, float] = NONNEGATIVE, what: str = "layer"
) -> tuple[Column, ...]:
    """Return the columns of the layers or gates, whose numbers follow the name."""
    return (Column(f"{name}_", f"{label}, {what}", bounds=bounds, compared=False, by=what),)


WEIGHT_NORM = (
    Column("weight_norm", "mean weight norm before the task", "", True, NONNEGATIVE),
    *_by("weight_norm", "weight norm before the task"),
)
STEP = _by("step", "step beside the weights")
GRADIENT_NORM = (
    Column(
        "gradient_norm", "mean gradient norm before the task", logarithmic=True,
        bounds=NONNEGATIVE, compared=False,
    ),
)  # fmt: skip
TEST_ACCURACY = (Column("test_accuracy", "test accuracy after the task", "", False, FRACTION),)
UPDATE_RATIO = (
    Column("update_ratio", "norm of a task's update / of the parameters", "", True, NONNEGATIVE),
    *_by("update_ratio", "norm of a task's update / of the parameters"),
)
TANGENT_KERNEL = (
    Column("ntk_condition", "condition of the tangent kernel", "", True, NONNEGATIVE),
    Column("ntk_effective_rank", "effective rank of the tangent kernel", "", False),
)
GRADIENT_START = _own(
    "gradient_start_zeros", "zeros in the gradient before the task", FRACTION, "fraction"
)
GRADIENT_END = (
    *_own("gradient_end_norm", "mean gradient norm after the task", NONNEGATIVE),
    *_own("gradient_end_zeros", "zeros in the gradient after the task", FRACTION, "fraction"),
)
ONLINE_ACCURACY = _own("online_accuracy", "accuracy in the first epoch, before updates", FRACTION)
LOGIT = (
    *_own("logit_label_variance", "p(1 - p) of the label", (0.0, 0.25)),
    *_own("logit_magnitude", "mean absolute value of the logits", NONNEGATIVE, "nats"),
)
MAX_PROBABILITY = _own("max_probability", "probability of the likeliest class", FRACTION)
INITIAL_DISTANCE = _own("initial_distance", "distance from the untrained parameters", NONNEGATIVE)
CIRCUIT = (
    *_own("circuit_angle_norm", "mean norm of a gate's angles", NONNEGATIVE, "radians"),
    *_own("circuit_damping", "mean damping of a gate's derivatives"),
    *_own("circuit_displacement", "mean distance of gates from the untrained ones"),
)
GATE = (
    *_by("gate_damping", "damping of the derivatives", FRACTION, "gate"),
    *_by("gate_displacement", "distance from the untrained gate", FRACTION, "gate"),
    *_by("gate_step", "step beside the angles", NONNEGATIVE, "gate"),
)
READINESS = (
    *_own("readiness", "norm of the mean gradient / spread of batches'", NONNEGATIVE),
    *_by("readiness", "norm of the mean gradient / spread of batches'"),
)
GRADIENT_NOISE = (
    *_own("gradient_noise", "noise of the gradient", NONNEGATIVE, "samples"),
    *_by("gradient_noise", "noise of the gradient"),
)
CURVATURE = (
    *_own("curvature_effective_rank", "directions in which the loss is curved", NONNEGATIVE),
    *_own("curvature_largest", "largest curvature of the loss", NONNEGATIVE),
)
SINGULAR_VALUE = _by("singular_value", "largest singular value")
DORMANT = (
    *_own("dormant_fraction", "dormant units", FRACTION, "fraction"),
    *_own("dormant_dead", "dead units", FRACTION, "fraction"),
    *_own("dormant_gradient_fraction", "units of hardly any gradient", FRACTION, "fraction"),
    *_own("dormant_gradient_dead", "units of no gradient", FRACTION, "fraction"),
    *_by("dormant_fraction", "dormant units", FRACTION),
    *_by("dormant_dead", "dead units", FRACTION),
    *_by("dormant_gradient_fraction", "units of hardly any gradient", FRACTION),
    *_by("dormant_gradient_dead", "units of no gradient", FRACTION),
)
FEATURE_RANK = (
    *_own("feature_rank_effective", "effective rank of the features", NONNEGATIVE),
    *_own("feature_rank_srank", "srank of the features"),
    *_own("feature_rank_stable", "stable rank of the features"),
)
SPECTRUM = (
    *_own("spectrum_largest_", "largest singular value of layer"),
    *_own("spectrum_deviation_", "distance from an isometry of layer"),
)
TRAINABILITY = (
    *_own("trainability_loss", "loss of a copy trained on random labels", NONNEGATIVE, "nats"),
    *_own("trainability_gap", "that loss, less the untrained network's", unit="nats"),
)
CHURN = (
    *_own("churn_outputs", "change of other samples' outputs by an update"),
    *_own("churn_probabilities", "change of their probabilities by an update"),
)
FRESH = (
    *_own("fresh_accuracy", "test accuracy of a new network", FRACTION),
    *_own("fresh_gap", "test accuracy of a new network, less this one's"),
)
DEFICIT = _own(
    "deficit", "test accuracy of a network that began at the last tasks, less this one's"
)
FISHER = tuple(
    Column(
        f"fisher_{kind}_{where}{version}", f"{kind} Fisher trace{words}, {samples}",
        logarithmic=True, compared=False,
    )
    for where, samples in (("task0", "task 0's probe"), ("current", "current task"))
    for kind in ("empirical", "true")
    for version, words in (
        ("", ""), ("_per_parameter", " per parameter"), ("_relative", " / that of the beginning"),
    )
)  # fmt: skip
