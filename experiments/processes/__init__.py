"""Processes: how a command is stopped, and the cells of a study on many workers."""
