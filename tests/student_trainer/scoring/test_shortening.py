import dataclasses
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from counterhint.errors import InputError
from counterhint.hints import builtin_templates, load_template
from student_trainer.hints import Hint, HintConfig, RolloutHints
from student_trainer.prompts import PromptConfig, Prompts
from student_trainer.scoring import ScoredGroup
from student_trainer.scoring.shortening import HintedContexts, hinted_contexts
from student_trainer.tasks.base import Problem
from tests.student_trainer.rollouts_of import NEEDS, make_group
from tests.student_trainer.scoring.teacher_in_thread import Teacher
from tests.student_trainer.scoring.tokenizers import byte_level_tokenizer

PROBLEM = Problem("p7", "What is 17 + 4?", "21")
FORMAT = "Put the answer in a box."
WORDS = "Seventeen and four: 17 + 3 = 20, one more is 21. "


def make_prompts(template: str = "neutral") -> Prompts:
    return Prompts(byte_level_tokenizer(), PromptConfig(hint_template=template), FORMAT)


def shown_texts(prompts: Prompts, made: HintedContexts) -> dict[str, str]:
    """What stands in the prompt of each answer, by the answer."""
    return {
        hint.answer: str(prompts.tokenizer.decode(context, clean_up_tokenization_spaces=False))
        for hint, context in made.contexts.items()
    }


def test_hints_that_fit_stay_whole() -> None:
    hints = RolloutHints(Hint(WORDS, "21"), (Hint("20", "20"),))
    made = hinted_contexts(PROBLEM, [hints, None], make_prompts(), HintConfig(), 500)
    assert made.hints == (hints, None)
    assert (made.shown, made.cut, made.tokens_cut) == (2, 0, 0)
    assert list(made.contexts) == [hints.correct, *hints.wrong]


@pytest.mark.parametrize("template", builtin_templates())
def test_all_but_the_solution_stays_whole_on_both_sides(template: str) -> None:
    prompts = make_prompts(template)
    right, wrong = Hint(WORDS * 9 + "So 21.", "21"), Hint(WORDS * 12 + "So 99.", "99")
    empty = prompts.hinted(PROBLEM, Hint("", "21"))
    made = hinted_contexts(
        PROBLEM, [RolloutHints(right, (wrong,))], prompts, HintConfig(), len(empty) + 20
    )
    text = load_template(template)
    (chosen,) = made.hints
    assert chosen is not None
    for whole, cut in ((right, chosen.correct), (wrong, chosen.wrong[0])):
        expected = text.render(
            problem=PROBLEM.text, hint=cut.text, answer=whole.answer, answer_format=FORMAT
        )
        assert expected in shown_texts(prompts, made)[whole.answer]
        assert whole.text.endswith(cut.text)
        assert (cut.text == whole.text) == (template == "answer_only")
        assert len(made.contexts[cut]) <= len(empty) + 20
        if template != "answer_only":
            assert cut.text.endswith(whole.text[-6:])
    # Both are longer than the budget, so both are cut to it.
    assert prompts.hint_length(chosen.correct) == prompts.hint_length(chosen.wrong[0])
    if template != "answer_only":
        left = 2 * prompts.hint_length(chosen.correct)
        assert (made.cut, made.tokens_cut) == (2, made.tokens - left)
        assert left > 0


def test_one_budget_serves_the_whole_group() -> None:
    prompts = make_prompts()
    hints = [
        RolloutHints(Hint(WORDS * times, str(times)), (Hint("x" * times, f"w{times}"),))
        for times in (1, 5, 9)
    ]
    made = hinted_contexts(PROBLEM, hints, prompts, HintConfig(max_tokens=30), 10_000)
    lengths = {hint.answer: prompts.hint_length(hint) for hint in made.contexts}
    # A whole hint below the budget stays as it is.
    whole = {hint.answer: prompts.hint_length(hint) for hints in hints for hint in hints.wrong}
    assert {answer: lengths[answer] for answer in whole} == whole
    assert lengths["5"] == lengths["9"] == 30
    assert made.cut == 2 + (prompts.hint_length(hints[0].correct) > 30)


@given(text=st.text(min_size=1), budget=st.integers(0, 12))
def test_what_is_left_is_an_end_of_the_text_within_the_budget(text: str, budget: int) -> None:
    prompts = make_prompts()
    whole = Hint(text, "1")
    cut = prompts.hint_tail(whole, budget)
    assert text.endswith(cut.text)
    assert prompts.hint_length(cut) <= budget or cut == whole
    if prompts.hint_length(whole) <= budget:
        assert cut == whole


def test_a_prompt_without_any_hint_that_does_not_fit_names_the_problem() -> None:
    hints = [RolloutHints(Hint(WORDS, "21"), ())]
    with pytest.raises(InputError, match=r"problem p7: .* takes \d+ tokens .* room for 10 beside"):
        hinted_contexts(PROBLEM, hints, make_prompts(), HintConfig(), 10)


def test_a_hint_that_is_too_long_can_end_the_run() -> None:
    hints = [RolloutHints(Hint(WORDS, "21"), ())]
    config = HintConfig(max_tokens=5, too_long="error")
    with pytest.raises(InputError, match=r"problem p7.*hints\.max_tokens is 5.*too_long"):
        hinted_contexts(PROBLEM, hints, make_prompts(), config, 500)


def test_rollouts_with_a_hint_that_is_too_long_can_be_dropped() -> None:
    long, short, other = Hint(WORDS, "21"), Hint("20", "20"), Hint("19", "19")
    hints = [
        RolloutHints(long, (short,)),
        RolloutHints(short, (other,)),
        None,
        RolloutHints(other, (short, long)),
    ]
    config = HintConfig(max_tokens=5, too_long="drop")
    made = hinted_contexts(PROBLEM, hints, make_prompts(), config, 500)
    assert made.hints == (None, hints[1], None, None)
    assert set(made.contexts) == {short, other}
    assert (made.dropped, made.cut) == (2, 0)


@pytest.mark.parametrize(
    ("config", "unhinted", "cut"),
    [(HintConfig(), 0, 4), (HintConfig(too_long="drop"), 4, 0)],
)
def test_the_teachers_context_bounds_hint_and_longest_response(
    score: Callable[..., list[ScoredGroup]], config: HintConfig, unhinted: int, cut: int
) -> None:
    # w7 w8 w60 + three words of hint + w61, three response tokens and one more: 11.
    whole, teacher = make_group("rrww"), Teacher().limited(max_model_len=11)
    (scored,) = score(teacher, NEEDS, [whole], config)
    assert (scored.counts.hints_cut, scored.counts.unhinted) == (0, 0)
    teacher = Teacher().limited(max_model_len=10)
    (scored,) = score(teacher, NEEDS, [whole], config)
    assert (scored.counts.hints_cut, scored.counts.unhinted) == (cut, unhinted)
    assert scored.counts.hint_tokens_cut == cut
    assert scored.counts.metrics()["hints/cut_share"] == (1.0 if cut else 0.0)
    assert scored.counts.hints_too_long == unhinted
    last = whole.rollouts[3]
    longer = dataclasses.replace(last, token_ids=np.append(last.token_ids, np.int32(9)))
    longest = dataclasses.replace(whole, rollouts=(*whole.rollouts[:3], longer))
    (scored,) = score(Teacher().limited(max_model_len=11), NEEDS, [longest], config)
    assert scored.counts.hints_cut == cut
