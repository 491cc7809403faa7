import random
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from counterhint import ScoringClient, Weights
from student_trainer.groups import Group
from student_trainer.hints import HintConfig, choose_hints
from student_trainer.losses import TeacherNeeds
from student_trainer.prompts import PromptConfig, Prompts
from student_trainer.scoring import GroupScoring, ScoredGroup, ScoringConfig, StudentTokens
from tests.student_trainer.scoring.teacher_in_thread import Teacher, serve
from tests.tiny_models import write_tokenizer

Score = Callable[..., ScoredGroup]


@pytest.fixture
def prompts(tmp_path: Path) -> Prompts:
    tokenizer = write_tokenizer(tmp_path)
    tokenizer.chat_template = "{{ messages[0].content }}"
    template = tmp_path / "hint.txt"
    template.write_text("{{problem}} w60 {{hint}} w61")
    return Prompts(tokenizer, PromptConfig(hint_template=str(template)), "")


@pytest.fixture
def score(prompts: Prompts, tmp_path: Path) -> Score:
    """Has a group scored by a teacher as a method needs it."""

    def scored(
        teacher: Teacher,
        needs: TeacherNeeds,
        groups: Sequence[Group],
        hints: HintConfig | None = None,
        weights: Weights | None = None,
        **config: Any,
    ) -> list[ScoredGroup]:
        hints = hints or HintConfig()
        with serve(teacher, tmp_path) as address, ScoringClient(address, timeout=240) as client:
            scoring = GroupScoring(
                client,
                client.get_teacher(),
                prompts,
                needs,
                hints,
                ScoringConfig(**config),
                StudentTokens(prompts.tokenizer, "f" * 64, [2]),
                "rlcsd",
            )
            pending = [
                scoring.submit(
                    run_id="run",
                    name=f"group-{index}",
                    group=group,
                    hints=choose_hints(group, hints, needs, random.Random(0)),
                    weights=weights,
                )
                for index, group in enumerate(groups)
            ]
            return [one.result() for one in pending]

    return scored
