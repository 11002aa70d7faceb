"""What is measured of a learner, by the names of its columns.

To add a metric, write a function of learner and task (see ``plasticity.learning.metric``) and enter
it here with the time at which it is due.
"""

from plasticity.learning.metric import Metric
from plasticity.metrics.accuracy import (
    OnlineAccuracy,
    logit_statistics,
    max_probability,
    test_accuracy,
)
from plasticity.metrics.circuits import GateDrift
from plasticity.metrics.fisher import FisherProbe
from plasticity.metrics.norms import (
    InitialDistance,
    UpdateRatio,
    gradient_end,
    gradient_norm,
    gradient_start,
    weight_norm,
)

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("weight_norm", weight_norm, "before"),
        Metric("gradient_norm", gradient_norm, "before"),
        Metric("gradient_start", gradient_start, "before"),
        Metric("online_accuracy", OnlineAccuracy, "during"),
        Metric("test_accuracy", test_accuracy),
        Metric("fisher", prepare=FisherProbe.of, sparse=True),
        Metric("logit", logit_statistics),
        Metric("max_probability", max_probability),
        Metric("gradient_end", gradient_end),
        Metric("update_ratio", UpdateRatio, "during"),
        Metric("initial_distance", prepare=InitialDistance.of),
        Metric("circuit", prepare=GateDrift.of),
    )
}
