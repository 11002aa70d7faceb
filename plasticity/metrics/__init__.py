"""What is measured of a learner, by the names of its columns.

To add a metric, write a function of learner and task (see ``plasticity.learning.metric``) and enter
it here with the time at which it is due and what its columns are called. A metric's columns begin
with its name; so no name is another's beginning, up to an underscore.
"""

from plasticity.learning.metric import Metric
from plasticity.metrics import columns
from plasticity.metrics.accuracy import (
    OnlineAccuracy,
    logit_statistics,
    max_probability,
    test_accuracy,
)
from plasticity.metrics.circuits import GateDrift, Gates
from plasticity.metrics.deficit import Deficit
from plasticity.metrics.fisher import FisherProbe
from plasticity.metrics.fresh import FreshGap
from plasticity.metrics.noise import GradientNoise, Readiness
from plasticity.metrics.norms import (
    InitialDistance,
    UpdateRatio,
    gradient_end,
    gradient_norm,
    gradient_start,
    weight_norms,
)
from plasticity.metrics.probes import Churn, Trainability
from plasticity.metrics.ranks import (
    Curvature,
    FeatureRank,
    TangentKernel,
    singular_value,
    spectrum,
)
from plasticity.metrics.steps import step
from plasticity.metrics.units import Dormancy

METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("weight_norm", weight_norms, "before", declared=columns.WEIGHT_NORM),
        Metric("step", step, "before", declared=columns.STEP),
        Metric("gradient_norm", gradient_norm, "before", declared=columns.GRADIENT_NORM),
        Metric("gradient_start", gradient_start, "before", declared=columns.GRADIENT_START),
        Metric(
            "readiness", when="before", prepare=Readiness.of, sparse=True,
            declared=columns.READINESS,
        ),
        Metric(
            "gradient_noise", when="before", prepare=GradientNoise.of, sparse=True,
            declared=columns.GRADIENT_NOISE,
        ),
        Metric(
            "curvature", when="before", prepare=Curvature.of, sparse=True,
            declared=columns.CURVATURE,
        ),
        Metric("online_accuracy", OnlineAccuracy, "during", declared=columns.ONLINE_ACCURACY),
        Metric("test_accuracy", test_accuracy, declared=columns.TEST_ACCURACY),
        Metric("fisher", prepare=FisherProbe.of, sparse=True, declared=columns.FISHER),
        Metric("logit", logit_statistics, declared=columns.LOGIT),
        Metric("max_probability", max_probability, declared=columns.MAX_PROBABILITY),
        Metric("gradient_end", gradient_end, declared=columns.GRADIENT_END),
        Metric("update_ratio", UpdateRatio, "during", declared=columns.UPDATE_RATIO),
        Metric("initial_distance", prepare=InitialDistance.of, declared=columns.INITIAL_DISTANCE),
        Metric("circuit", prepare=GateDrift.of, declared=columns.CIRCUIT),
        Metric("gate", prepare=Gates.of, sparse=True, declared=columns.GATE),
        Metric("dormant", prepare=Dormancy.of, sparse=True, declared=columns.DORMANT),
        Metric("feature_rank", prepare=FeatureRank.of, sparse=True, declared=columns.FEATURE_RANK),
        Metric("ntk", prepare=TangentKernel.of, sparse=True, declared=columns.TANGENT_KERNEL),
        Metric("spectrum", spectrum, sparse=True, declared=columns.SPECTRUM),
        Metric("singular_value", singular_value, sparse=True, declared=columns.SINGULAR_VALUE),
        Metric("trainability", prepare=Trainability.of, sparse=True, declared=columns.TRAINABILITY),
        Metric("churn", when="during", prepare=Churn.of, sparse=True, declared=columns.CHURN),
        Metric("fresh", when="during", prepare=FreshGap.of, sparse=True, declared=columns.FRESH),
        Metric("deficit", when="during", prepare=Deficit.of, declared=columns.DEFICIT),
    )
}  # fmt: skip
