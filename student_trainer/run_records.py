"""What a run writes down: its recipe, figures, evaluations and some rollouts."""

import json
from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

import yaml

from student_trainer.evaluation import EvaluationLog, Evaluations
from student_trainer.monitors import JsonlFile
from student_trainer.ranks import Ranks
from student_trainer.recipe import Recipe


class RunRecords:
    """The records of a run, kept by the first rank; on the others nothing is written or shown.

    Args:
        recipe: the run's.
        ranks: the processes of the run.
        run_id: the run's name in the teacher's queue, by which its folder is found there.
        resumed_step: the last step that is done when a run goes on; None for a new run.
    """

    def __init__(self, recipe: Recipe, ranks: Ranks, run_id: str, resumed_step: int | None) -> None:
        self._writes = ranks.first
        self._resources = ExitStack()
        if not self._writes:
            return
        folder = recipe.run_dir
        folder.mkdir(parents=True, exist_ok=True)
        resolved = recipe.model_dump(mode="json")
        # Written aside: a crash here must not cost the recipe that a resumed run is held against.
        for name, text in (
            ("recipe.yaml", yaml.safe_dump(resolved, sort_keys=False)),
            ("run.json", json.dumps({"run_id": run_id})),
        ):
            aside = folder / f"{name}.new"
            aside.write_text(text)
            aside.replace(folder / name)
        with ExitStack() as resources:  # when something below fails, what was opened is closed
            self._rollouts = JsonlFile(folder / "rollouts.jsonl")
            resources.callback(self._rollouts.close)
            self._rollouts.start(resumed_step)
            self._evaluations = EvaluationLog(folder / "evaluations.jsonl")
            resources.callback(self._evaluations.close)
            self._evaluations.start(resumed_step)
            self._monitors = resources.enter_context(recipe.monitors.build(folder))
            self._monitors.start(resolved, recipe.steps, resumed_step)
            self._resources = resources.pop_all()

    def log(self, row: Mapping[str, float]) -> None:
        """Records the figures of a step."""
        if self._writes:
            self._monitors.log(row)

    def progress(self, stage: str, done: int, total: int) -> None:
        """Shows how far a stage of the step under way is."""
        if self._writes:
            self._monitors.progress(stage, done, total)

    def log_rollouts(self, rows: Iterable[Mapping[str, Any]]) -> None:
        """Records rollouts of a step."""
        if self._writes:
            for row in rows:
                self._rollouts.append(row)

    def log_evaluation(self, step: int, evaluations: Evaluations) -> None:
        """Records the evaluation after that many steps."""
        if self._writes:
            self._evaluations.append(step, evaluations)

    @property
    def evaluated_step(self) -> int:
        """The step of the latest evaluation; −1 elsewhere than on the first rank."""
        return self._evaluations.last[0] if self._writes else -1

    def evaluations(self) -> tuple[Evaluations, Evaluations]:
        """The first and the latest evaluation; on the first rank only."""
        return self._evaluations.first[1], self._evaluations.last[1]

    def close(self) -> None:
        """Ends the records."""
        self._resources.close()
