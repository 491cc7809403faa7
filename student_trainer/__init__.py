"""The student trainer: tasks, rollouts, hints, losses and the on-policy training loop."""
