"""Runs: training, reading what was recorded, exports, figures and tables of a run folder."""
