"""Studies: arms with many seeds, and what they say."""
