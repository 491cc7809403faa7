"""`counterhint score`: the signals of rollouts that a file holds, without training."""
