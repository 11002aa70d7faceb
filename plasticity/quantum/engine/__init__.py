"""How a circuit is evaluated fast; only the layer calls it."""
