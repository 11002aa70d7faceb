"""What is measured of a learner, by the names of its columns.

To add a metric, write a function of learner and task (see ``plasticity.learning.metric``) and enter
it here with the time at which it is due.
"""

from plasticity.learning.metric import Metric
from plasticity.metrics.accuracy import logit_statistics, test_accuracy
from plasticity.metrics.circuits import GateDrift
from plasticity.metrics.fisher import FisherProbe
from plasticity.metrics.norms import gradient_norm, weight_norm

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("weight_norm", weight_norm, "before"),
        Metric("gradient_norm", gradient_norm, "before"),
        Metric("test_accuracy", test_accuracy),
        Metric("fisher", prepare=FisherProbe.of, sparse=True),
        Metric("logit", logit_statistics),
        Metric("circuit", prepare=GateDrift.of),
    )
}
