"""Metrics, a module for each kind; ``plasticity.learning.metric`` says what a metric is."""
