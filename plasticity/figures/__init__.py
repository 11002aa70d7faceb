"""Figures: functions of numbers, which know no run folder."""
