"""
An environment of your own, and a quantum policy
================================================

You can use ``QuantumFeatures`` in the policies of stable-baselines3. This page trains such a policy
in a small environment: an agent pushes a point to the middle of a line.
"""

import gymnasium
import numpy as np
import torch
from stable_baselines3 import PPO

from plasticity.rl.features import QuantumFeatures


class Line(gymnasium.Env):
    """Push a point to the middle of a line.

    The features of an observation x and of -x are equal. So a quantum policy cannot distinguish
    left and right from the place alone. The second observation, the constant 1, solves this.
    """

    observation_space = gymnasium.spaces.Box(-2, 2, (2,), np.float32)
    action_space = gymnasium.spaces.Box(-1, 1, (1,), np.float32)

    def reset(self, *, seed=None, options=None):
        """Put the point at a random place."""
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
# The circuit needs enough qubits for the observations, and at least two. With this ``net_arch``,
# the policy and the value are one linear layer each after the features, as in the released
# program.
#
# With networks as small as these, more threads of torch are usually slower. So use one.

torch.set_num_threads(1)
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
# The experiment ``python -m experiments.ant`` trains in any registered environment. Write this line
# below the class, in a module of your own::
#
#     gymnasium.register("Line-v0", entry_point=Line)
#
# If the module is ``my_line.py``, the option is ``--env my_line:Line-v0``. ``experiments.watch``
# needs a constructor with the argument ``render_mode``, and the method ``render()``.
