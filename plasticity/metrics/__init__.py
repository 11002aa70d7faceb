"""What is measured of a learner, by the names of its columns.

To add a metric, write a function of learner and task (see ``plasticity.learning.metric``) and enter
it here with the time at which it is due. A metric's columns begin with its name; so no name is
another's beginning, up to an underscore.
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
from plasticity.metrics.fresh import FreshGap
from plasticity.metrics.norms import (
    InitialDistance,
    UpdateRatio,
    gradient_end,
    gradient_norm,
    gradient_start,
    weight_norm,
)
from plasticity.metrics.probes import Churn, Trainability
from plasticity.metrics.ranks import FeatureRank, TangentKernel, spectrum
from plasticity.metrics.units import Dormancy

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
        Metric("dormant", prepare=Dormancy.of, sparse=True),
        Metric("feature_rank", prepare=FeatureRank.of, sparse=True),
        Metric("ntk", prepare=TangentKernel.of, sparse=True),
        Metric("spectrum", spectrum, sparse=True),
        Metric("trainability", prepare=Trainability.of, sparse=True),
        Metric("churn", when="during", prepare=Churn.of, sparse=True),
        Metric("fresh", when="during", prepare=FreshGap.of, sparse=True),
    )
}
