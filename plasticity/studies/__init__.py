"""Studies: arms with many seeds, and what they say."""

ENDS_WITH_INPUT = "PLASTICITY_ENDS_WITH_INPUT"
"""Set in the environment of a command that is to end when its standard input does: so a cell of a
study does not outlive the worker that started it."""
