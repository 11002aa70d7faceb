"""The experiments, one module each, and what they share."""
