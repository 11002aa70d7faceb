"""Reinforcement learning with stable-baselines3."""
