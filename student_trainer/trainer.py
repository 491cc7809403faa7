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
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import yaml

from counterhint import CounterhintError, ScoringClient, ScoringResult
from counterhint.errors import InputError
from student_trainer.batches import Row, micro_batches, shuffled_parts
from student_trainer.checkpoints import (
    TrainingState,
    latest_checkpoint,
    load_checkpoint,
    save_checkpoint,
)
from student_trainer.evaluation import Evaluation, GradedSample, summarize
from student_trainer.groups import Group
from student_trainer.hints import RolloutHints, choose_hints
from student_trainer.log_probs import response_log_probs
from student_trainer.models import load_student
from student_trainer.monitors import (
    JsonlFile,
    JsonlMonitor,
    Monitors,
    TensorBoardMonitor,
    TerminalMonitor,
)
from student_trainer.optimizer import Optimizer
from student_trainer.prompts import Prompts
from student_trainer.recipe import Recipe
from student_trainer.rollout_log import logged_rollouts
from student_trainer.rollouts.generate import RolloutGenerator
from student_trainer.scoring import GroupJob, build_group_job
from student_trainer.seeds import derive_seed
from student_trainer.teacher_weights import publish_weights

log = logging.getLogger(__name__)


@dataclass(slots=True)
class _ScoredGroup:
    """A sampled group on its way through a step."""

    group: Group
    hints: Sequence[RolloutHints | None]
    job: GroupJob | None = None
    future: Future[ScoringResult] | None = None
    rows: dict[int, Row] = field(default_factory=dict)


class Stopwatch:
    """Seconds by stage."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def stage(self, name: str) -> Iterator[None]:
        """Adds the time of the block to a stage."""
        began = time.perf_counter()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + time.perf_counter() - began


class Trainer:
    """One run of a recipe. Use it as a context manager: it holds connections and open files.

    Raises:
        InputError: something in the recipe cannot be used.
        CounterhintError: the teacher cannot be reached, or does not fit the student.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.recipe = recipe
        self._resources = ExitStack()
        checkpoint = _find_checkpoint(recipe)
        self._student = load_student(recipe.student)
        self._task = recipe.task.build()
        self._heldout = self._task.heldout_problems(recipe.evaluation.problems)
        self._prompts = Prompts(self._student.tokenizer, recipe.prompts, self._task.answer_format)
        self._generator = RolloutGenerator(self._student, self._task, self._prompts)
        self._method = recipe.method.build()
        self._optimizer = Optimizer(
            recipe.optimizer, dict(self._student.model.named_parameters()), recipe.steps
        )
        self._state = (
            TrainingState(f"{recipe.run_dir.name}-{secrets.token_hex(4)}", 0, 0.0, None, {})
            if checkpoint is None
            else load_checkpoint(checkpoint, self._student, self._optimizer)
        )
        self._unmixed_steps = 0
        self._teacher_name: str | None = None
        self._client = self._connect() if self._method.needs_hints else None
        resumed_step = None if checkpoint is None else self._state.steps_done
        recipe.run_dir.mkdir(parents=True, exist_ok=True)
        resolved = recipe.model_dump(mode="json")
        (recipe.run_dir / "recipe.yaml").write_text(yaml.safe_dump(resolved, sort_keys=False))
        self._rollout_log = JsonlFile(recipe.run_dir / "rollouts.jsonl")
        self._resources.callback(self._rollout_log.close)
        self._rollout_log.start(resumed_step)
        self._monitors = self._resources.enter_context(
            Monitors(
                [
                    JsonlMonitor(recipe.run_dir / "metrics.jsonl"),
                    TensorBoardMonitor(recipe.run_dir / "tensorboard"),
                    TerminalMonitor(),
                ]
            )
        )
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

    def _connect(self) -> ScoringClient:
        def on_retry(error: CounterhintError) -> None:
            log.warning("scoring waits: %s", error.message)

        config = self.recipe.scoring
        client = self._resources.enter_context(
            ScoringClient(config.address, timeout=config.timeout, on_retry=on_retry)
        )
        teacher = client.check_tokenizer(self._student.fingerprint, config.connect_timeout)
        self._teacher_name = teacher.model_id
        return client

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
            watch = Stopwatch()
            before = self._evaluate(watch)
            self._add_totals(watch, _prefixed(before, "before"))
            self._monitors.log({"step": 0, "time": self._state.seconds, **before.row()})
        while self._state.steps_done < recipe.steps:
            self._monitors.log(self._step())
        summary = self._summary()
        (recipe.run_dir / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        return summary

    def _step(self) -> dict[str, float]:
        recipe, step = self.recipe, self._state.steps_done
        began, watch = time.perf_counter(), Stopwatch()
        scored = self._sample(step, watch)
        self._check_mixed([entry.group for entry in scored])
        costs = self._collect_scores(scored, watch)
        rows = [row for entry in scored for row in entry.rows.values()]
        with watch.stage("update"):
            metrics = self._update(step, rows) if rows else {}
        self._log_rollouts(step + 1, scored)
        self._state = dataclasses.replace(self._state, steps_done=step + 1)
        with watch.stage("publish"):
            self._refresh_teacher()
        evaluation = self._evaluate(watch) if self._evaluation_due() else None
        seconds = time.perf_counter() - began
        metrics |= _group_metrics([entry.group for entry in scored]) | costs
        metrics |= _hint_metrics(scored) if self._client is not None else {}
        waited = watch.seconds.get("scoring_wait", 0.0)
        tokens = sum(len(r.token_ids) for entry in scored for r in entry.group.rollouts)
        metrics |= {
            "optim/lr": self._optimizer.learning_rate(step),
            "scoring/wait_seconds": waited,
            "scoring/wait_share": waited / seconds,
            "time/step_seconds": seconds,
            "time/sampling_seconds": watch.seconds["sampling"],
            "time/update_seconds": watch.seconds["update"],
            "time/tokens_per_second": tokens / seconds,
        }
        totals = {"training_seconds": seconds, **costs}
        if evaluation is not None:
            metrics |= evaluation.row()
            totals["training_seconds"] -= watch.seconds["evaluation"]
            if self._state.steps_done == recipe.steps:
                totals |= _prefixed(evaluation, "after")
        self._add_totals(watch, totals)
        if self._state.steps_done % recipe.checkpoint.every == 0 or (
            self._state.steps_done == recipe.steps
        ):
            self._save()
        return {"step": self._state.steps_done, "time": self._state.seconds, **metrics}

    def _sample(self, step: int, watch: Stopwatch) -> list[_ScoredGroup]:
        """Samples the step's groups; each is sent to be scored while the next are sampled."""
        config = self.recipe.rollouts
        first = step * config.prompts_per_step
        problems = [self._task.train_problem(first + i) for i in range(config.prompts_per_step)]
        scored: dict[int, _ScoredGroup] = {}
        with watch.stage("sampling"):
            for index, group in self._generator.groups(
                problems,
                group_size=config.group_size,
                max_new_tokens=config.max_new_tokens,
                temperature=config.temperature,
                max_rows=config.max_rows,
                seed=derive_seed(self.recipe.seed, "rollouts", step),
            ):
                scored[index] = self._submit(step, index, group)
                self._monitors.progress("sampling", len(scored), len(problems))
        return [scored[index] for index in range(len(problems))]

    def _submit(self, step: int, index: int, group: Group) -> _ScoredGroup:
        if self._client is None:
            return _ScoredGroup(group, [None] * len(group.rollouts))
        source = random.Random(derive_seed(self.recipe.seed, "hints", step, index))
        hints = choose_hints(group, self.recipe.hints, source)
        job = build_group_job(
            group,
            hints,
            self._prompts,
            run_id=self._state.run_id,
            name=f"step-{step}/group-{index}",
            fingerprint=self._student.fingerprint,
            weights=self._state.weights,
        )
        return _ScoredGroup(
            group, hints, job, None if job is None else self._client.submit(job.job)
        )

    def _collect_scores(self, scored: Sequence[_ScoredGroup], watch: Stopwatch) -> dict[str, float]:
        """Waits for the scores and makes the training rows; returns what the scoring cost."""
        waiting = [entry for entry in scored if entry.future is not None]
        costs = {"scoring/tokens_naive": 0, "scoring/tokens_computed": 0}
        with watch.stage("scoring_wait"):
            for done, entry in enumerate(waiting):
                self._monitors.progress("scoring", done, len(waiting))
                assert entry.future is not None
                result = entry.future.result()
                costs["scoring/tokens_naive"] += result.cost.tokens_naive
                costs["scoring/tokens_computed"] += result.cost.tokens_computed
        plain = self._client is None or self.recipe.hints.without_hint == "plain"
        for entry in scored:
            hinted = entry.job.read(entry.future.result()) if entry.job and entry.future else {}
            advantages = entry.group.advantages()
            for index, rollout in enumerate(entry.group.rollouts):
                if plain or index in hinted:
                    entry.rows[index] = Row(
                        entry.group.prompt, rollout, float(advantages[index]), hinted.get(index)
                    )
        return {**costs, "scoring/groups": len(waiting)} if self._client is not None else {}

    def _update(self, step: int, rows: Sequence[Row]) -> dict[str, float]:
        """One or more optimizer updates; metrics are means over them."""
        config = self.recipe.batch
        parts = shuffled_parts(
            rows, config.updates_per_step, derive_seed(self.recipe.seed, "updates", step)
        )
        self._student.model.train()
        metrics = [self._update_once(step, part) for part in parts if part]
        self._student.model.eval()
        return {key: float(np.mean([m[key] for m in metrics])) for key in metrics[0]}

    def _update_once(self, step: int, rows: Sequence[Row]) -> dict[str, float]:
        student = self._student
        pieces = list(micro_batches(rows, self.recipe.batch.micro_batch_tokens, student.device))
        counted = [self._method.token_counts(piece.targets) for piece in pieces]
        counts = {key: sum(c[key] for c in counted[1:]) + counted[0][key] for key in counted[0]}
        sums: dict[str, float] = {"optim/loss": 0.0}
        for done, piece in enumerate(pieces):
            self._monitors.progress("updating", done, len(pieces))
            with student.autocast():
                flat = response_log_probs(
                    student.model,
                    piece.input_ids,
                    piece.lengths,
                    piece.response_mask,
                    self.recipe.rollouts.temperature,
                )
            part = self._method.loss(piece.to_rows(flat), piece.targets, counts)
            part.loss.backward()
            sums["optim/loss"] += part.loss.item()
            for key, value in part.metrics.items():
                sums[key] = sums.get(key, 0.0) + value.item()
        return {**sums, "optim/grad_norm": self._optimizer.update(step)}

    def _refresh_teacher(self) -> None:
        done = self._state.steps_done
        if self._client is None or not self.recipe.teacher_refresh.due(done):
            return
        if done == self.recipe.steps:  # no job follows
            return
        weights = publish_weights(
            self._student.model,
            self.recipe.run_dir / "weights",
            run_id=self._state.run_id,
            steps_done=done,
        )
        self._state = dataclasses.replace(self._state, weights=weights)

    def _evaluation_due(self) -> bool:
        done, every = self._state.steps_done, self.recipe.evaluation.every
        return done == self.recipe.steps or (every is not None and done % every == 0)

    def _evaluate(self, watch: Stopwatch) -> Evaluation:
        """Samples and grades the held-out problems, with the same seed every time."""
        config = self.recipe.evaluation
        graded: list[list[GradedSample]] = []
        with watch.stage("evaluation"):
            for _, group in self._generator.groups(
                self._heldout,
                group_size=config.samples,
                max_new_tokens=self.recipe.rollouts.max_new_tokens,
                temperature=config.temperature,
                max_rows=self.recipe.rollouts.max_rows,
                seed=derive_seed(self.recipe.seed, "evaluation"),
            ):
                graded.append(
                    [
                        GradedSample(
                            rollout.verdict.correct,
                            len(rollout.token_ids),
                            float(rollout.entropies.sum()),
                        )
                        for rollout in group.rollouts
                    ]
                )
                self._monitors.progress("evaluating", len(graded), len(self._heldout))
        return summarize(graded)

    def _check_mixed(self, groups: Sequence[Group]) -> None:
        if any(group.mixed for group in groups):
            self._unmixed_steps = 0
            return
        self._unmixed_steps += 1
        bound = min(self.recipe.stop_after_unmixed_steps, self.recipe.steps)
        if self._unmixed_steps < bound:
            return
        reward = np.mean([rollout.reward for group in groups for rollout in group.rollouts])
        raise InputError(
            f"no group of the last {bound} steps held both right and wrong rollouts (pass rate "
            f"{reward:.2f}), so there is nothing to learn from: make the task "
            f"{'easier' if reward < 0.5 else 'harder'}, raise rollouts.group_size, or check that "
            "the prompt asks for the answer in the form that the verifier reads"
        )

    def _log_rollouts(self, step: int, scored: Sequence[_ScoredGroup]) -> None:
        config = self.recipe.report
        if step % config.every and step not in (1, self.recipe.steps):
            return
        entries = [
            (entry.group, index, hints, entry.rows[index])
            for entry in scored
            for index, hints in enumerate(entry.hints)
            if hints is not None and index in entry.rows
        ]
        for row in logged_rollouts(step, entries, self._student, self._method, config.rollouts):
            self._rollout_log.append(row)

    def _add_totals(self, watch: Stopwatch, totals: Mapping[str, float]) -> None:
        merged = dict(self._state.totals)
        for key, value in totals.items():
            merged[key] = merged.get(key, 0.0) + value
        for stage, seconds in watch.seconds.items():
            merged[f"stage/{stage}"] = merged.get(f"stage/{stage}", 0.0) + seconds
        self._state = dataclasses.replace(
            self._state,
            totals=merged,
            seconds=self._state.seconds + sum(watch.seconds.values()),
        )

    def _save(self) -> None:
        save_checkpoint(
            self.recipe.run_dir / "checkpoints",
            self._state,
            self._student,
            self._optimizer,
            self.recipe.checkpoint.keep,
        )

    def _summary(self) -> dict[str, Any]:
        totals, state = self._state.totals, self._state
        stages = {
            key.removeprefix("stage/"): round(value, 3)
            for key, value in totals.items()
            if key.startswith("stage/")
        }
        return {
            "method": self.recipe.method.kind,
            "teacher": self._teacher_name,
            "steps": state.steps_done,
            "heldout_accuracy_before": totals["before/accuracy"],
            "heldout_accuracy_after": totals["after/accuracy"],
            "heldout_stderr_before": totals["before/standard_error"],
            "heldout_stderr_after": totals["after/standard_error"],
            "heldout_samples": int(totals["after/samples"]),
            "response_length_before": totals["before/length"],
            "response_length_after": totals["after/length"],
            "entropy_before": totals["before/entropy"],
            "entropy_after": totals["after/entropy"],
            "seconds_total": round(state.seconds, 3),
            "seconds_by_stage": stages,
            "scoring_wait_share": stages.get("scoring_wait", 0.0) / totals["training_seconds"],
            "tokens_naive": int(totals.get("scoring/tokens_naive", 0)),
            "tokens_computed": int(totals.get("scoring/tokens_computed", 0)),
            "groups_scored": int(totals.get("scoring/groups", 0)),
        }


def _find_checkpoint(recipe: Recipe) -> Path | None:
    """The checkpoint to go on from; None for a new run.

    Raises:
        InputError: the folder holds a run, and the recipe does not say to resume it.
    """
    if recipe.resume:
        return latest_checkpoint(recipe.run_dir / "checkpoints")
    if (recipe.run_dir / "metrics.jsonl").exists():
        raise InputError(
            f"run_dir: {recipe.run_dir} already holds a run: resume=true goes on with it, or "
            "choose another folder"
        )
    return None


def _prefixed(evaluation: Evaluation, prefix: str) -> dict[str, float]:
    return {f"{prefix}/{key}": value for key, value in dataclasses.asdict(evaluation).items()}


def _group_metrics(groups: Sequence[Group]) -> dict[str, float]:
    rollouts = [rollout for group in groups for rollout in group.rollouts]
    tokens = sum(len(rollout.token_ids) for rollout in rollouts)
    return {
        "rollout/reward": float(np.mean([rollout.reward for rollout in rollouts])),
        "rollout/length": tokens / len(rollouts),
        "rollout/truncated_share": float(np.mean([not r.finished for r in rollouts])),
        "rollout/mixed_groups": float(np.mean([group.mixed for group in groups])),
        "rollout/entropy": sum(float(r.entropies.sum()) for r in rollouts) / tokens,
    }


def _hint_metrics(scored: Sequence[_ScoredGroup]) -> dict[str, float]:
    hints = [hint for entry in scored for hint in entry.hints]
    wrong = [len(hint.wrong) for hint in hints if hint is not None]
    metrics = {"hints/coverage": len(wrong) / len(hints)}
    if wrong:
        metrics["hints/wrong_mean"] = float(np.mean(wrong))
    rows = [row for entry in scored for row in entry.rows.values() if row.hinted is not None]
    if rows:
        gaps = [np.abs(row.hinted.correct - row.rollout.log_probs) for row in rows if row.hinted]
        metrics["signal/one_sided_abs"] = float(np.concatenate(gaps).mean())
    return metrics
