"""Ends a run that has had nothing to learn from for too long, and says why."""

from dataclasses import dataclass

from counterhint.errors import InputError


@dataclass(slots=True)
class LearningGuard:
    """Counts the steps in a row that changed nothing."""

    bound: int
    """Steps in a row after which the run ends."""
    idle_steps: int = 0
    """Steps in a row so far."""

    def check(self, *, learned: bool, mixed: bool, reward: float) -> None:
        """Takes a step's outcome into account.

        Args:
            learned: whether an update was made whose gradient was not zero.
            mixed: whether any group of the step held right and wrong rollouts.
            reward: the step's pass rate.

        Raises:
            InputError: this was the last idle step that the bound allows.
        """
        if learned:
            self.idle_steps = 0
            return
        self.idle_steps += 1
        if self.idle_steps < self.bound:
            return
        if mixed:
            raise InputError(
                f"no rollout of the last {self.bound} steps had the hints that the method needs, "
                "so there is nothing to learn from: raise rollouts.group_size, check that wrong "
                "rollouts give an answer that the verifier can read, or set "
                "hints.without_hint=plain"
            )
        raise InputError(
            f"no group of the last {self.bound} steps held both right and wrong rollouts (pass "
            f"rate {reward:.2f}), so there is nothing to learn from: make the task "
            f"{'easier' if reward < 0.5 else 'harder'}, raise rollouts.group_size or "
            "rollouts.temperature, or check that the prompt asks for the answer in the form that "
            "the verifier reads"
        )
