"""From numbers of seeds to means, intervals and p values."""
