"""Values: what an experiment, a protocol and an arm are made of. They import no torch."""
