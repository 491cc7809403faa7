import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from student_trainer.verifiers.knights_knaves import ROLE_PAIRS, KnightsKnaves, parse_roles

REFERENCE = "Zoey is a knight, and Riley is a knave."
verifier = KnightsKnaves()

names = st.lists(
    st.sampled_from(["Zoey", "Riley", "Emma", "Liam", "O'Neil", "Ann-Marie", "Zoë", "Max", "Ivy"]),
    min_size=1,
    max_size=6,
    unique=True,
)
wordings = st.sampled_from(
    [
        ("{name} is a {role}", ", "),
        ("{name} is an {role}", ", and "),
        ("({number}) {name} is a {role}", "\n"),
        ("{number}. {name} is a {role}.", "\n"),
        ("- **{name}**: {role}", "\n"),
        ("{name} = \\text{{{role}}}", ", "),
        ('"{name}": "{role}"', ", "),
        ("{name} is not a {other}", "; "),
        ("{name} is the {role}", " while "),
        ("{name} → {role}", ",\\\\ "),
        ("{name} ({role})", ", "),
    ]
)
frames = st.sampled_from(
    [
        "{}",
        "\\boxed{{{}}}",
        "\\boxed{{\\text{{{}}}}}",
        "<answer>{}</answer>",
        "Suppose Zoey is a knave. That fails. Therefore, {}.",
        "If Riley is a knave then Zoey is a knave, so we are done.\n\n{}\n\nThis fits all claims.",
    ]
)


def is_right(response: str, reference: str = REFERENCE) -> bool:
    answer = verifier.find_answer(response)
    return answer is not None and verifier.is_correct(answer, reference)


@given(
    names,
    st.sampled_from(ROLE_PAIRS),
    st.integers(0, 2**6 - 1),
    wordings,
    frames,
    st.randoms(use_true_random=False),
    st.booleans(),
)
def test_order_and_wording_make_no_difference(
    people: list[str],
    pair: tuple[str, str],
    bits: int,
    wording: tuple[str, str],
    frame: str,
    shuffler: random.Random,
    upper: bool,
) -> None:
    template, separator = wording
    roles = {name: pair[bits >> i & 1] for i, name in enumerate(people)}
    reference = ", and ".join(f"{name} is a {role}" for name, role in roles.items())
    shuffler.shuffle(people)

    def response(roles: dict[str, str]) -> str:
        statements = [
            template.format(
                name=name.upper() if upper else name,
                role=roles[name],
                other=pair[1 - pair.index(roles[name])],
                number=number,
            )
            for number, name in enumerate(people, start=1)
            if name in roles
        ]
        return frame.format(separator.join(statements))

    assert is_right(response(roles), reference)

    flipped = people[0]
    wrong = {**roles, flipped: pair[1 - pair.index(roles[flipped])]}
    assert not is_right(response(wrong), reference)

    if len(people) > 1:
        incomplete = {name: role for name, role in roles.items() if name != flipped}
        assert not is_right(response(incomplete), reference)


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("Zoey and Riley are both knights.", "Riley is a knight, Zoey is a knight"),
        (
            "Thus, Ann, Bob, and Cy are heroes, and Di is a villain",
            "Ann is a hero, Bob is a hero, Cy is a hero, Di is a villain",
        ),
        ("\\boxed{Ed must be an altruist}", "Ed is an altruist"),
        # The box counts even where another assignment follows it.
        ("\\boxed{Ann is a saint} Check: Ann is a sinner", "Ann is a saint"),
        # A trailing hypothesis is no answer, the claim before it is.
        ("So Ann is a sage. Let us check. Suppose Ann is a fool.", "Ann is a sage"),
    ],
)
def test_find_answer(response: str, answer: str) -> None:
    assert verifier.find_answer(response) == answer


@pytest.mark.parametrize(
    "response",
    [
        "",
        "\\boxed{knight}",
        "\\boxed{42} as Zoey is a knight",
        "Zoey is a knight/knave, and Riley is a knight/knave",
        "Zoey is a knight or a knave",
        "Assume Zoey is a knight and Riley is a knave",
        "\\boxed{Zoey is a knight, Riley is a knave, Zoey is a knave}",
    ],
)
def test_no_assignment_and_contradictions_give_no_answer(response: str) -> None:
    assert verifier.find_answer(response) is None


@pytest.mark.parametrize(
    "response",
    [
        "Zoey is a knight, Riley is a knave, and Max is a knave",
        "Zoey is a saint, and Riley is a sinner",
        "Zoey is a knight.",
        "Zoey is a knight because she says so, hence Riley is a knave.",
    ],
)
def test_wrong_assignments(response: str) -> None:
    assert not is_right(response)


@given(st.text() | st.text(alphabet="aZ is knight,and()\n\\{}*:"))
def test_arbitrary_text(text: str) -> None:
    answer = verifier.find_answer(text)
    if answer is not None:
        assert verifier.find_answer(answer) == answer
        assert verifier.is_correct(answer, answer)


def test_check_reference() -> None:
    verifier.check_reference(REFERENCE)
    for reference in ("42", "Zoey is a knight, Zoey is a knave"):
        with pytest.raises(ValueError, match="one role"):
            verifier.check_reference(reference)


def test_parse_roles() -> None:
    assert parse_roles(REFERENCE) == {"zoey": "knight", "riley": "knave"}
