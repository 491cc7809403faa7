"""Hinted prompts that the teacher's context can hold.

Hints that are too long are shortened from their head: what is left is one unbroken piece of what
was sampled, it leads up to the final answer, and no mark has to be put in that no solution would
hold. (Cutting the middle would keep the first steps, at the price of a gap in both that the teacher
has to make sense of.) All hints of a group share one budget, so that correct and wrong ones are cut
to the same number of tokens; problem, template, answer line and answer format stay whole.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from counterhint.errors import InputError
from counterhint.tensors import TokenIds
from student_trainer.hints import Hint, HintConfig, RolloutHints
from student_trainer.prompts import Prompts
from student_trainer.tasks.base import Problem


@dataclass(frozen=True, slots=True)
class HintedContexts:
    """The contexts of a group's hints, each of which fits."""

    hints: tuple[RolloutHints | None, ...]
    """The hints of each rollout, as the teacher is shown them; None for those that have none."""
    contexts: dict[Hint, TokenIds]
    """The context of every hint in `hints`, int32 `[C]`."""
    shown: int
    """Distinct hints before anything was cut."""
    cut: int
    """How many of them were shortened."""
    tokens: int
    """Tokens of their solution texts before anything was cut."""
    tokens_cut: int
    """Tokens that were cut from them."""
    dropped: int
    """Rollouts that lost their hints because one was too long (`too_long: drop`)."""


def hinted_contexts(
    problem: Problem,
    hints: Sequence[RolloutHints | None],
    prompts: Prompts,
    config: HintConfig,
    room: int,
) -> HintedContexts:
    """Makes the contexts of a group's hints; deals with those that are too long.

    Args:
        problem: the group's problem.
        hints: of each rollout.
        prompts: makes the contexts.
        config: `max_tokens` and `too_long`.
        room: most tokens of a context: what the teacher takes, less the longest response.

    Raises:
        InputError: `too_long` is `error` and a hint is too long, or the prompt does not fit even
            without any of the hint's text.
    """
    distinct = list(dict.fromkeys(hint for chosen in hints for hint in _all(chosen)))
    lengths = {hint: prompts.hint_length(hint) for hint in distinct}
    contexts = {hint: prompts.hinted(problem, hint) for hint in distinct}
    most = max(lengths.values(), default=0) if config.max_tokens is None else config.max_tokens
    too_long = {hint for hint in distinct if lengths[hint] > most or len(contexts[hint]) > room}
    if too_long and config.too_long == "error":
        hint = max(too_long, key=lambda hint: len(contexts[hint]))
        raise InputError(
            f"problem {problem.id}: a hint of {lengths[hint]} tokens makes a prompt of "
            f"{len(contexts[hint])}, but hints.max_tokens is {config.max_tokens} and the teacher "
            f"has room for a prompt of {room}; set hints.too_long to shorten or drop, or serve a "
            "teacher that takes more"
        )
    if too_long and config.too_long == "drop":
        kept = tuple(
            None if chosen is None or too_long & set(_all(chosen)) else chosen for chosen in hints
        )
        dropped = sum(old is not None and new is None for old, new in zip(hints, kept, strict=True))
        shown = {hint: contexts[hint] for chosen in kept for hint in _all(chosen)}
        return HintedContexts(kept, shown, len(distinct), 0, sum(lengths.values()), 0, dropped)
    shown_as = {hint: hint for hint in distinct}
    cut = 0
    if too_long:
        shown_as = _shortened(problem, distinct, prompts, most, room)
        cut = sum(hint is not shown_as[hint] for hint in distinct)
        contexts = {hint: prompts.hinted(problem, hint) for hint in shown_as.values()}
    left = sum(prompts.hint_length(hint) for hint in shown_as.values()) if cut else 0
    return HintedContexts(
        hints=tuple(
            None
            if chosen is None
            else RolloutHints(
                shown_as[chosen.correct], tuple(shown_as[hint] for hint in chosen.wrong)
            )
            for chosen in hints
        ),
        contexts=contexts,
        shown=len(distinct),
        cut=cut,
        tokens=sum(lengths.values()),
        tokens_cut=sum(lengths.values()) - left if cut else 0,
        dropped=0,
    )


def _shortened(
    problem: Problem, hints: Sequence[Hint], prompts: Prompts, budget: int, room: int
) -> dict[Hint, Hint]:
    """Each hint as it is shown: cut to one budget with which every context fits."""
    while True:
        shown_as = {hint: prompts.hint_tail(hint, budget) for hint in hints}
        longest = max(shown_as.values(), key=lambda hint: len(prompts.hinted(problem, hint)))
        over = len(prompts.hinted(problem, longest)) - room
        if over <= 0:
            return shown_as
        length = prompts.hint_length(longest)
        if not length:
            raise InputError(
                f"problem {problem.id}: its hinted prompt takes {room + over} tokens without any "
                f"of the hint's text, but the teacher has room for {room} beside the response; "
                "lower rollouts.max_new_tokens, leave out such problems, or serve a teacher that "
                "takes more"
            )
        # Tokens that merge with the template's make this a guess, which the next round checks.
        budget = max(0, length - over)


def _all(chosen: RolloutHints | None) -> tuple[Hint, ...]:
    return () if chosen is None else (chosen.correct, *chosen.wrong)
