"""The quantum layer: circuits, readouts, and what evaluates them."""
