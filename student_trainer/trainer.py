"""The on-policy training loop.

A step samples groups, sends each one to be scored as soon as it is complete, waits for the scores,
makes one or more updates, and publishes the student's weights to the teacher when that is due.
"""

import dataclasses
import json
import logging
import random
import secrets
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import yaml

from counterhint import CounterhintError, ScoringClient
from counterhint.errors import InputError, Unavailable
from student_trainer.batches import Row, micro_batches, shuffled_parts
from student_trainer.checkpoints import (
    TrainingState,
    latest_checkpoint,
    load_checkpoint,
    read_state,
    save_checkpoint,
)
from student_trainer.evaluation import EvaluationLog, Evaluator
from student_trainer.forward import StudentForward
from student_trainer.groups import Group
from student_trainer.hints import Hint, RolloutHints, choose_hints
from student_trainer.losses import StudentLogProbs
from student_trainer.metrics import (
    RolloutFigures,
    Stopwatch,
    TokenClasses,
    TokenSignals,
    hint_metrics,
    rollout_metrics,
    signal_metrics,
    token_texts,
)
from student_trainer.models import load_student
from student_trainer.monitors import JsonlFile
from student_trainer.optimizer import Optimizer
from student_trainer.prompts import Prompts
from student_trainer.ranks import Ranks
from student_trainer.recipe import Recipe, read_recipe_file
from student_trainer.rollout_log import TrainedRollout, logged_rollouts
from student_trainer.rollouts.generate import RolloutGenerator
from student_trainer.scoring import GroupScoring, PendingGroup, ScoringCounts
from student_trainer.seeds import derive_seed
from student_trainer.sharding import shard
from student_trainer.summary import summarize_run
from student_trainer.tasks.base import Task
from student_trainer.teacher_weights import TeacherWeights, prune_weights

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _ScoredGroup:
    """A sampled group on its way through a step."""

    group: Group
    hints: Sequence[RolloutHints | None]
    pending: PendingGroup | None = None
    rows: dict[int, Row] = field(default_factory=dict)


class Trainer:
    """One run of a recipe. Use it as a context manager: it holds connections and open files.

    Raises:
        InputError: something in the recipe cannot be used.
        CounterhintError: the teacher cannot be reached, or does not fit the student.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        with ExitStack() as resources:  # when something below fails, what was opened is closed
            self._resources = resources
            self._open()
            self._resources = resources.pop_all()

    def _open(self) -> None:
        recipe = self.recipe
        checkpoint = _find_checkpoint(recipe)
        self._ranks = Ranks()
        self._student = load_student(recipe.student, self._ranks)
        self._forward = StudentForward(
            self._student.model,
            recipe.rollouts.temperature,
            gradient_checkpointing=recipe.student.gradient_checkpointing,
        )
        shard(self._forward, self._student, self._ranks)
        vocabulary = self._student.model.get_output_embeddings().weight.shape[0]
        self._texts = token_texts(self._student.tokenizer, vocabulary)
        self._classes = TokenClasses.read(recipe.metrics.token_classes, self._texts)
        self._task = recipe.task.build()
        self._prompts = Prompts(self._student.tokenizer, recipe.prompts, self._task.answer_format)
        sampler = self._resources.enter_context(recipe.rollouts.sampler.build(self._student))

        def generator_for(task: Task) -> RolloutGenerator:
            prompts = Prompts(self._student.tokenizer, recipe.prompts, task.answer_format)
            return RolloutGenerator(self._student, sampler, task, prompts)

        self._generator = generator_for(self._task)
        self._evaluator = Evaluator(
            recipe.evaluation,
            self._task,
            generator_for,
            max_new_tokens=recipe.rollouts.max_new_tokens,
            max_rows=recipe.rollouts.max_rows,
            ranks=self._ranks,
        )
        self._method = recipe.method.build()
        self._optimizer = Optimizer(recipe.optimizer, self._student.trainable(), recipe.steps)
        self._state = (
            TrainingState(f"{recipe.run_dir.name}-{secrets.token_hex(4)}", 0, 0.0, None, {})
            if checkpoint is None
            else read_state(checkpoint)
        )
        self._teacher_weights = TeacherWeights(
            recipe.teacher_refresh,
            self._student,
            recipe.run_dir / "weights",
            self._state.run_id,
            self._ranks,
        )
        if checkpoint is not None:
            load_checkpoint(
                checkpoint, self._student, self._optimizer, self._teacher_weights, self._ranks
            )
        if self._state.steps_done > recipe.steps:
            raise InputError(
                f"steps is {recipe.steps}, but the run has taken {self._state.steps_done} already"
            )
        self._idle_steps = 0
        self._teacher_name: str | None = None
        self._check_hints()
        self._scoring = self._connect() if self._method.needs.reads != "nothing" else None
        resumed_step = None if checkpoint is None else self._state.steps_done
        recipe.run_dir.mkdir(parents=True, exist_ok=True)
        resolved = recipe.model_dump(mode="json")
        (recipe.run_dir / "recipe.yaml").write_text(yaml.safe_dump(resolved, sort_keys=False))
        self._rollout_log = JsonlFile(recipe.run_dir / "rollouts.jsonl")
        self._resources.callback(self._rollout_log.close)
        self._rollout_log.start(resumed_step)
        self._evaluations = EvaluationLog(recipe.run_dir / "evaluations.jsonl")
        self._resources.callback(self._evaluations.close)
        self._evaluations.start(resumed_step)
        self._monitors = self._resources.enter_context(recipe.monitors.build(recipe.run_dir))
        self._monitors.start(resolved, recipe.steps, resumed_step)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._resources.close()

    def _check_hints(self) -> None:
        """Makes one hinted prompt, so that what cannot work shows before anything is sampled."""
        if self._method.needs.reads == "nothing":
            return
        problem = self._task.train_problem(0)
        self._prompts.hinted(problem, Hint(problem.solution or problem.answer, problem.answer))
        if self.recipe.hints.correct == "gt_cot" and problem.solution is None:
            raise InputError(
                "hints.correct is gt_cot, but the task's problems have no solution: add a "
                "`solution` to the data, or use self_rollout"
            )

    def _connect(self) -> GroupScoring:
        told: set[str] = set()

        def on_retry(error: CounterhintError) -> None:
            if error.message not in told:
                told.add(error.message)
                log.warning("scoring waits: %s", error.message)

        config = self.recipe.scoring
        client = self._resources.enter_context(
            ScoringClient(config.address, timeout=config.timeout, on_retry=on_retry)
        )
        try:
            teacher = client.get_teacher(config.connect_timeout)
        except Unavailable as error:
            raise InputError(
                f"scoring.address: no teacher or intake answered at {config.address} within "
                f"{config.connect_timeout:g} s ({error.message}); start one with `counterhint "
                "teacher serve` or `counterhint services run`"
            ) from error
        self._teacher_name = teacher.model_id
        return GroupScoring(
            client,
            teacher,
            self._prompts,
            self._method.needs,
            self.recipe.hints,
            config,
            self._student.fingerprint,
        )

    def run(self) -> dict[str, Any]:
        """Trains to the last step and writes `summary.json`.

        Returns:
            The summary.

        Raises:
            InputError: no group held right and wrong rollouts for too long.
            CounterhintError: a job ended with an error that trying again does not mend.
        """
        recipe = self.recipe
        if self._state.steps_done == 0:
            self._monitors.log(self._with_evaluation({"step": 0}))
        while self._state.steps_done < recipe.steps:
            row = self._step()
            if self._evaluation_due():
                row = self._with_evaluation(row)
            # The row first: a run that is killed in between takes the step again and replaces it.
            self._monitors.log(row)
            if self._state.steps_done % recipe.checkpoint.every == 0:
                self._save()
        if self._state.steps_done % recipe.checkpoint.every:
            self._save()
        if self._evaluations.last[0] != recipe.steps:  # resumed at its end, with fewer steps
            self._with_evaluation({})
        summary = summarize_run(
            recipe.method.kind,
            self._teacher_name,
            self._state.steps_done,
            self._state.seconds,
            self._state.totals,
            self._evaluations.first[1],
            self._evaluations.last[1],
        )
        (recipe.run_dir / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        return summary

    def _step(self) -> dict[str, float]:
        """One training step; returns its metrics."""
        step, watch = self._state.steps_done, Stopwatch()
        began = time.perf_counter()
        scored = self._sample(step, watch)
        groups = [entry.group for entry in scored]
        counts = self._collect_scores(scored, watch)
        rows = [row for entry in scored for row in entry.rows.values()]
        self._check_learning(groups, rows)
        with watch.stage("update"):
            metrics = self._update(step, rows) if rows else {}
        self._log_rollouts(step + 1, scored)
        self._state = dataclasses.replace(self._state, steps_done=step + 1)
        with watch.stage("publish"):
            self._refresh_teacher()
        seconds = time.perf_counter() - began
        self._add_totals(watch, {"training_seconds": seconds, **counts.totals()})
        figures = RolloutFigures.of(
            groups, [entry.hints for entry in scored], [entry.rows for entry in scored]
        )
        metrics |= rollout_metrics(figures)
        if self._scoring is not None:
            metrics |= counts.metrics() | hint_metrics(figures)
            metrics |= signal_metrics(TokenSignals.of(rows), self._classes)
        waited = watch.seconds.get("scoring_wait", 0.0)
        tokens = sum(len(rollout.token_ids) for group in groups for rollout in group.rollouts)
        return {
            "step": step + 1,
            "time": self._state.seconds,
            **metrics,
            "optim/lr": self._optimizer.learning_rate(step),
            "scoring/wait_seconds": waited,
            "scoring/wait_share": waited / seconds,
            "time/step_seconds": seconds,
            "time/sampling_seconds": watch.seconds["sampling"],
            "time/update_seconds": watch.seconds["update"],
            "time/tokens_per_second": tokens / seconds,
        }

    def _sample(self, step: int, watch: Stopwatch) -> list[_ScoredGroup]:
        """Samples the step's groups; each is sent to be scored while the next are sampled."""
        config = self.recipe.rollouts
        first = step * config.prompts_per_step
        problems = [self._task.train_problem(first + i) for i in range(config.prompts_per_step)]
        scored: dict[int, _ScoredGroup] = {}
        with watch.stage("sampling"):
            request = config.request(derive_seed(self.recipe.seed, "rollouts", step))
            for index, group in self._generator.groups(problems, request):
                scored[index] = self._submit(step, index, group)
                self._monitors.progress("sampling", len(scored), len(problems))
        return [scored[index] for index in range(len(problems))]

    def _submit(self, step: int, index: int, group: Group) -> _ScoredGroup:
        if self._scoring is None:
            return _ScoredGroup(group, [None] * len(group.rollouts))
        source = random.Random(derive_seed(self.recipe.seed, "hints", step, index))
        hints = choose_hints(group, self.recipe.hints, self._method.needs, source)
        pending = self._scoring.submit(
            run_id=self._state.run_id,
            name=f"step-{step}/group-{index}",
            group=group,
            hints=hints,
            weights=self._state.weights,
        )
        return _ScoredGroup(group, hints, pending)

    def _collect_scores(self, scored: Sequence[_ScoredGroup], watch: Stopwatch) -> ScoringCounts:
        """Waits for the scores and makes the training rows; returns what the scoring took."""
        plain = self._scoring is None or self.recipe.hints.without_hint == "plain"
        counts = []
        for done, entry in enumerate(scored):
            hinted = {}
            if entry.pending is not None:
                self._monitors.progress("scoring", done, len(scored))
                with watch.stage("scoring_wait"):
                    outcome = entry.pending.result()
                hinted, entry.hints = outcome.scores, outcome.hints
                counts.append(outcome.counts)
            advantages = entry.group.advantages()
            for index, rollout in enumerate(entry.group.rollouts):
                if plain or index in hinted:
                    entry.rows[index] = Row(
                        entry.group.prompt,
                        rollout,
                        float(advantages[index]),
                        hinted.get(index),
                        rollout.log_probs,
                    )
        return ScoringCounts.total(counts)

    def _update(self, step: int, rows: Sequence[Row]) -> dict[str, float]:
        """One or more optimizer updates; metrics are means over them."""
        config = self.recipe.batch
        parts = shuffled_parts(
            rows, config.updates_per_step, derive_seed(self.recipe.seed, "updates", step)
        )
        # The model stays in evaluation mode: dropout would part it from what was sampled.
        metrics = [self._update_once(step, part) for part in parts if part]
        return {key: float(np.mean([m[key] for m in metrics])) for key in metrics[0]}

    def _update_once(self, step: int, rows: Sequence[Row]) -> dict[str, float]:
        student = self._student
        pieces = list(micro_batches(rows, self.recipe.batch, student.device, step=step + 1))
        counted = [self._method.totals(piece.targets) for piece in pieces]
        totals = {key: sum(c[key] for c in counted[1:]) + counted[0][key] for key in counted[0]}
        sums: dict[str, float] = {"optim/loss": 0.0}
        for done, piece in enumerate(pieces):
            self._monitors.progress("updating", done, len(pieces))
            with student.autocast():
                flat = self._forward(piece.tokens).sampled
            part = self._method.loss(StudentLogProbs(piece.to_rows(flat)), piece.targets, totals)
            part.loss.backward()
            sums["optim/loss"] += part.loss.item()
            for key, value in part.metrics.items():
                sums[key] = sums.get(key, 0.0) + value.item()
        return {**sums, "optim/grad_norm": self._optimizer.update(step)}

    def _refresh_teacher(self) -> None:
        if self._scoring is None:
            return
        weights = self._teacher_weights.after_step(self._student, self._state.steps_done)
        if weights is not None:
            self._state = dataclasses.replace(self._state, weights=weights)

    def _evaluation_due(self) -> bool:
        done, every = self._state.steps_done, self.recipe.evaluation.every
        return done == self.recipe.steps or (every is not None and done % every == 0)

    def _with_evaluation(self, row: dict[str, float]) -> dict[str, float]:
        """Evaluates, with the same seed every time, and adds the outcome to a metrics row."""
        watch = Stopwatch()
        with watch.stage("evaluation"):
            seed = derive_seed(self.recipe.seed, "evaluation")
            evaluations = self._evaluator.run(seed, self._monitors.progress)
        self._add_totals(watch, {})
        self._evaluations.append(self._state.steps_done, evaluations)
        return {**row, "time": self._state.seconds, **evaluations.row()}

    def _check_learning(self, groups: Sequence[Group], rows: Sequence[Row]) -> None:
        """Ends a run that has had nothing to learn from for too long."""
        mixed = any(group.mixed for group in groups)
        if mixed and rows:
            self._idle_steps = 0
            return
        self._idle_steps += 1
        bound = min(self.recipe.stop_after_unmixed_steps, self.recipe.steps)
        if self._idle_steps < bound:
            return
        if mixed:
            raise InputError(
                f"no rollout of the last {bound} steps had both a right and a wrong hint, so there "
                "is nothing to learn from: raise rollouts.group_size, check that wrong rollouts "
                "give an answer that the verifier can read, or set hints.without_hint=plain"
            )
        reward = np.mean([rollout.reward for group in groups for rollout in group.rollouts])
        raise InputError(
            f"no group of the last {bound} steps held both right and wrong rollouts (pass rate "
            f"{reward:.2f}), so there is nothing to learn from: make the task "
            f"{'easier' if reward < 0.5 else 'harder'}, raise rollouts.group_size or "
            "rollouts.temperature, or check that the prompt asks for the answer in the form that "
            "the verifier reads"
        )

    def _log_rollouts(self, step: int, scored: Sequence[_ScoredGroup]) -> None:
        config = self.recipe.report
        if step % config.every and step not in (1, self.recipe.steps):
            return
        rollouts = [
            TrainedRollout(entry.group.problem, entry.hints[index], row)
            for entry in scored
            for index, row in entry.rows.items()
        ]
        for kept in logged_rollouts(
            step, rollouts, self._texts, self._classes, self._method, config.rollouts
        ):
            self._rollout_log.append(kept)

    def _add_totals(self, watch: Stopwatch, counts: Mapping[str, float]) -> None:
        totals = dict(self._state.totals)
        stages = {f"stage/{stage}": seconds for stage, seconds in watch.seconds.items()}
        for key, value in (*counts.items(), *stages.items()):
            totals[key] = totals.get(key, 0.0) + value
        self._state = dataclasses.replace(
            self._state, totals=totals, seconds=self._state.seconds + sum(watch.seconds.values())
        )

    def _save(self) -> None:
        folder = self.recipe.run_dir / "checkpoints"
        save_checkpoint(
            folder,
            self._state,
            self._student,
            self._optimizer,
            self._teacher_weights,
            self.recipe.checkpoint.keep,
            self._ranks,
        )
        kept = [read_state(checkpoint).weights for checkpoint in folder.glob("step-*")]
        prune_weights(self.recipe.run_dir / "weights", kept)


_MAY_CHANGE = frozenset(
    {"run_dir", "steps", "resume", "scoring", "checkpoint", "evaluation", "report"}
)
"""Keys of a recipe that a resumed run may have otherwise."""


def _find_checkpoint(recipe: Recipe) -> Path | None:
    """The checkpoint to go on from; None for a new run.

    Raises:
        InputError: the folder holds a run that the recipe does not say to resume, or another one.
    """
    if recipe.run_dir.is_file():
        raise InputError(f"run_dir: {recipe.run_dir} is a file: name a folder")
    if recipe.resume:
        checkpoint = latest_checkpoint(recipe.run_dir / "checkpoints")
        if checkpoint is None:
            log.warning("no checkpoint in %s yet: the run starts over", recipe.run_dir)
        else:
            _check_same_run(recipe)
        return checkpoint
    if (recipe.run_dir / "metrics.jsonl").exists():
        raise InputError(
            f"run_dir: {recipe.run_dir} already holds a run: resume=true goes on with it, or "
            "choose another folder"
        )
    return None


def _check_same_run(recipe: Recipe) -> None:
    """Refuses to go on with a run by other rules than it began with.

    Raises:
        InputError: naming the keys that differ.
    """
    file = recipe.run_dir / "recipe.yaml"
    began = read_recipe_file(file)
    now = recipe.model_dump(mode="json")
    changed = sorted(
        key for key in now.keys() - _MAY_CHANGE if began.get(key, now[key]) != now[key]
    )
    if changed:
        raise InputError(
            f"resume=true, but {', '.join(changed)} differ from {file}: give the values that the "
            "run began with, or another run_dir"
        )
