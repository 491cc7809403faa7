"""How solutions are sampled."""
