"""A learner, and the loop that has it learn one task after the other."""
