"""
An environment of your own, and a quantum policy
================================================

``QuantumFeatures`` goes into the policies of stable-baselines3. This page trains one in an
environment of two numbers: an agent pushes a point to the middle of a line.
"""

import gymnasium
import numpy as np
from stable_baselines3 import PPO

from plasticity.rl.features import QuantumFeatures


class Line(gymnasium.Env):
    """Push a point to the middle of a line.

    The features of an observation x and of -x are equal: a quantum policy cannot tell left from
    right. The constant among the observations tells it.
    """

    observation_space = gymnasium.spaces.Box(-2, 2, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        """Put the point somewhere."""
        super().reset(seed=seed)
        self.place, self.steps = self.np_random.uniform(-1, 1), 0
        return self._observation(), {}

    def step(self, action):
        """Push the point; the reward is minus its distance from the middle."""
        self.place = float(np.clip(self.place + 0.2 * action[0], -2, 2))
        self.steps += 1
        return self._observation(), -abs(self.place), False, self.steps == 20, {}

    def _observation(self):
        return np.array([self.place, 1.0], dtype=np.float32)


# %%
# The circuit has as many qubits as the observations need, two at least. One linear layer each for
# policy and value follows, as in the released program.

model = PPO(
    "MlpPolicy",
    Line(),
    policy_kwargs={
        "features_extractor_class": QuantumFeatures,
        "features_extractor_kwargs": {"num_qubits": 2, "depth": 2},
        "net_arch": {"pi": [], "vf": []},
    },
    n_steps=256,
    learning_rate=1e-2,
    seed=0,
)


def mean_return() -> float:
    """Return the mean return of ten episodes, by the most likely actions."""
    returns = []
    for seed in range(10):
        env = Line()
        observation, _ = env.reset(seed=seed)
        total, over = 0.0, False
        while not over:
            action, _ = model.predict(observation, deterministic=True)
            observation, reward, _, over, _ = env.step(action)
            total += reward
        returns.append(total)
    return float(np.mean(returns))


before = mean_return()
model.learn(20_000)
print(f"mean return: {before:.1f} untrained, {mean_return():.1f} after 20,000 steps")

# %%
# The experiment ``python -m experiments.ant`` trains in any environment that Gymnasium knows by
# name: register it in a module, and say ``--env MODULE:NAME``.
