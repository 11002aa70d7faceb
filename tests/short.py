"""Environments with short episodes; ``--env tests.short:ShortAnt-v0`` imports this."""

import gymnasium

for name, entry_point, limit in (
    ("ShortAnt-v0", "gymnasium.envs.mujoco.ant_v4:AntEnv", 30),
    ("ShortPendulum-v0", "gymnasium.envs.classic_control.pendulum:PendulumEnv", 20),
):
    if name not in gymnasium.registry:
        gymnasium.register(name, entry_point, max_episode_steps=limit)
