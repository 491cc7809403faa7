"""The on-policy training loop.

A step takes groups that were sampled and sent to be scored, waits for their scores, makes one or
more updates, and hands the student's new weights to the sampler and, when that is due, to the
teacher. With `rollouts.max_staleness` above 0, groups of later steps are sampled before the scores
of this one are waited for.
"""

import dataclasses
import json
import secrets
import time
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from functools import partial
from types import TracebackType
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from counterhint import TeacherInfo
from counterhint.errors import InputError
from student_trainer.batches import Row
from student_trainer.checkpoints import TrainingState, load_checkpoint, read_state, save_checkpoint
from student_trainer.collection import Collector, StepRollouts
from student_trainer.evaluation import Evaluator
from student_trainer.forward import StudentForward
from student_trainer.hints import Hint
from student_trainer.learning_guard import LearningGuard
from student_trainer.measurement import StepMeasurement
from student_trainer.metrics import Drift, Stopwatch
from student_trainer.model_checks import check_model
from student_trainer.models import load_student
from student_trainer.optimizer import Optimizer
from student_trainer.preemption import Preempted, stop_requests
from student_trainer.prompts import Prompts
from student_trainer.ranks import Ranks
from student_trainer.recipe import Recipe
from student_trainer.resume import find_checkpoint
from student_trainer.rollout_log import TrainedRollout, logged_rollouts, streamed_texts
from student_trainer.rollouts.generate import RolloutGenerator
from student_trainer.run_records import RunRecords
from student_trainer.sampling_ahead import SamplingAhead
from student_trainer.scoring import GroupScoring, StudentTokens, find_teacher, open_client
from student_trainer.seeds import derive_seed
from student_trainer.sharding import gathered, shard
from student_trainer.starting_model import StartingModel
from student_trainer.summary import summarize_run
from student_trainer.tasks.base import Task
from student_trainer.teacher_weights import (
    TeacherWeights,
    check_published_weights_fit,
    prune_weights,
)
from student_trainer.update import Updater


class Trainer:
    """One run of a recipe. Use it as a context manager: it holds connections and open files.

    Under `torchrun` every process makes one, and they work together.

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
        self._ranks = ranks = Ranks()
        self._resources.callback(ranks.close)
        checkpoint = find_checkpoint(recipe)
        ranks.wait()  # all have looked before the first one writes
        self._method = recipe.method.build()
        self._needs = self._method.needs
        if recipe.metrics.signals and self._needs.reads != "nothing":
            self._needs = dataclasses.replace(self._needs, sampled=True)
        self._task = recipe.task.build()
        self._task.train_problem(0)  # what has none is refused before anything is sampled
        self._student = load_student(recipe.student, ranks)
        self._forward = StudentForward(
            self._student.model,
            recipe.rollouts.temperature,
            gradient_checkpointing=recipe.student.gradient_checkpointing,
        )
        shard(self._forward, self._student, ranks)
        with gathered(self._forward):
            check_model(self._student.model, packing=recipe.batch.packing)
        self._sampler = self._resources.enter_context(recipe.rollouts.sampler.build(self._student))
        self._optimizer = Optimizer(recipe.optimizer, self._student.trainable(), recipe.steps)
        run_id = ranks.from_first(f"{recipe.run_dir.name}-{secrets.token_hex(4)}")
        self._state = (
            TrainingState(run_id, 0, 0.0, None, {})
            if checkpoint is None
            else read_state(checkpoint)
        )
        self._teacher_weights = TeacherWeights(
            recipe.teacher_refresh,
            self._student,
            recipe.run_dir / "weights",
            self._state.run_id,
            ranks,
        )
        self._named = deque([self._state.weights], maxlen=recipe.rollouts.max_staleness + 2)
        if checkpoint is not None:
            load_checkpoint(
                checkpoint, self._student, self._optimizer, self._teacher_weights, ranks
            )
        if self._state.steps_done > recipe.steps:
            raise InputError(
                f"steps is {recipe.steps}, but the run has taken {self._state.steps_done} already"
            )
        self._prompts = self._prompts_for(self._task)
        self._teacher: TeacherInfo | None = None
        self._scoring = None if self._needs.reads == "nothing" else self._connect()
        self._check_hints()
        self._start = (
            StartingModel(recipe.student, recipe.rollouts.temperature, ranks)
            if recipe.metrics.kl_to_start_every is not None
            else None
        )
        self._records = RunRecords(
            recipe,
            ranks,
            self._state.run_id,
            None if checkpoint is None else self._state.steps_done,
        )
        self._resources.callback(self._records.close)
        self._make_workers()

    def _make_workers(self) -> None:
        """Makes what samples, scores, updates and measures."""
        recipe, ranks, progress = self.recipe, self._ranks, self._records.progress
        self._evaluator = Evaluator(
            recipe.evaluation,
            self._task,
            self._generator_for,
            max_new_tokens=recipe.rollouts.max_new_tokens,
            max_rows=recipe.rollouts.max_rows,
            ranks=ranks,
        )
        generator = self._generator_for(self._task)
        self._collector = Collector(
            recipe, self._needs, self._task, generator, self._scoring, ranks, progress
        )
        self._ahead = SamplingAhead(
            self._sample, recipe.rollouts.max_staleness, in_background=self._sampler.overlaps
        )
        self._resources.callback(self._ahead.close)
        self._updater = Updater(
            self._student,
            self._forward,
            self._method,
            self._optimizer,
            recipe.batch,
            recipe.rollout_is,
            recipe.entropy_bonus,
            ranks,
            progress,
        )
        self._guard = LearningGuard(
            min(recipe.stop_after_unmixed_steps, recipe.steps), self._state.idle_steps
        )
        self._drift = Drift(self._state.totals)
        self._measurement = StepMeasurement(
            recipe, self._needs, self._student, self._task, ranks, self._drift
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._resources.close()

    def _prompts_for(self, task: Task) -> Prompts:
        return Prompts(self._student.tokenizer, self.recipe.prompts, task.answer_format)

    def _generator_for(self, task: Task) -> RolloutGenerator:
        return RolloutGenerator(self._student, self._sampler, task, self._prompts_for(task))

    def _check_hints(self) -> None:
        """Makes one hinted prompt, so that what cannot work shows before anything is sampled."""
        if self._scoring is None or self._needs.reads == "problem":
            return
        problem = self._task.train_problem(0)
        hint = Hint(problem.solution or problem.answer, problem.answer)
        self._scoring.prompts.hinted(problem, hint)
        if self.recipe.hints.correct == "gt_cot" and problem.solution is None:
            raise InputError(
                "hints.correct is gt_cot, but the task's problems have no solution: add a "
                "`solution` to the data, or use self_rollout"
            )

    def _connect(self) -> GroupScoring:
        config, student = self.recipe.scoring, self._student
        client = self._resources.enter_context(open_client(config))
        self._teacher = find_teacher(client, config)
        scoring = GroupScoring(
            client,
            self._teacher,
            self._prompts,
            self._needs,
            self.recipe.hints,
            config,
            StudentTokens(student.tokenizer, student.fingerprint, student.end_ids()),
            self.recipe.method.kind,
        )
        # Last: with another tokenizer, that is what the reader should hear of.
        check_published_weights_fit(self.recipe.teacher_refresh, student, self._teacher)
        return scoring

    def run(self) -> dict[str, Any]:
        """Trains to the last step and writes `summary.json`.

        Returns:
            The summary; empty on other ranks than the first.

        Raises:
            InputError: there was nothing to learn from for too long.
            CounterhintError: a job ended with an error that trying again does not mend.
            Preempted: SIGTERM came; the run can be resumed where it stands.
        """
        recipe = self.recipe
        self._sampler.load_weights(self._student.full_tensors(), self._state.steps_done)
        if self._state.steps_done == 0:
            self._records.log(self._with_evaluation({"step": 0}))
        with stop_requests() as stop:
            while self._state.steps_done < recipe.steps:
                row = self._step()
                done, every = self._state.steps_done, recipe.evaluation.every
                if done == recipe.steps or (every is not None and done % every == 0):
                    row = self._with_evaluation(row)
                # The row first: a run that is killed in between takes the step again and replaces
                # it.
                self._records.log(row)
                stopping = self._ranks.largest(int(stop.made)) > 0
                if stopping or done % recipe.checkpoint.every == 0 or done == recipe.steps:
                    self._save()
                if stopping and done < recipe.steps:
                    raise Preempted(done)
        return self._summarize()

    def _summarize(self) -> dict[str, Any]:
        recipe = self.recipe
        if self._ranks.from_first(self._records.evaluated_step) != recipe.steps:
            self._with_evaluation({})  # resumed at its end, with fewer steps
        if not self._ranks.first:
            return {}
        summary = summarize_run(
            recipe.method.kind,
            None if self._teacher is None else self._teacher.model_id,
            self._state.steps_done,
            self._state.seconds,
            self._state.totals,
            *self._records.evaluations(),
        )
        (recipe.run_dir / "summary.json").write_text(json.dumps(summary, indent=2) + "\n")
        return summary

    def _step(self) -> dict[str, float]:
        """One training step; returns its metrics."""
        step, watch = self._state.steps_done, Stopwatch()
        began = time.perf_counter()
        with watch.stage("sampling"):
            rollouts = self._ahead.take(step, self._last_to_sample(step))
        with watch.stage("scoring_wait"):
            counts = self._collector.make_rows(rollouts)
        with watch.stage("update"):
            rows, importance = self._updater.corrected(rollouts.rows())
            seed = derive_seed(self.recipe.seed, "updates", step)
            update = self._updater.update(step, rows, seed)
        with watch.stage("measurement"):
            start = self._log_probs_at_start(step, rows)
            figures = self._measurement.measure(
                rollouts, counts, update, watch.seconds["update"], start
            )
            self._check_learning(rollouts, learned=update.get("optim/grad_norm", 0.0) > 0)
            self._log_rollouts(step + 1, rollouts)
        self._state = dataclasses.replace(
            self._state, steps_done=step + 1, idle_steps=self._guard.idle_steps
        )
        with watch.stage("publish"):
            self._hand_over()
        seconds = time.perf_counter() - began
        lengths = [
            len(rollout.token_ids) for entry in rollouts.groups for rollout in entry.group.rollouts
        ]
        sums = self._ranks.sum({**counts.totals(), "rollout/tokens": sum(lengths)})
        self._add_totals(watch, {"training_seconds": seconds, **sums}, self._drift.totals())
        waited = watch.seconds["scoring_wait"]
        return {
            "step": step + 1,
            "time": self._state.seconds,
            **update,
            **importance,
            **figures,
            "optim/lr": self._optimizer.learning_rate(step),
            **(
                {}
                if self._scoring is None
                else {"scoring/wait_seconds": waited, "scoring/wait_share": waited / seconds}
            ),
            "time/step_seconds": seconds,
            "time/sampling_seconds": watch.seconds["sampling"],
            "time/update_seconds": watch.seconds["update"],
            "time/tokens_per_second": sums["rollout/tokens"] / seconds,
        }

    def _sample(self, step: int) -> StepRollouts:
        with self._whole_weights():
            return self._collector.sample(step, self._state.run_id, self._state.weights)

    def _whole_weights(self) -> AbstractContextManager[None]:
        """Within it, the built-in sampler can run although the student is sharded."""
        sharded = self._ranks.count > 1 and self._sampler.reads_student
        return gathered(self._forward) if sharded else nullcontext()

    def _last_to_sample(self, step: int) -> int:
        """Sampling does not run ahead over a checkpoint, so that a resumed run repeats it all."""
        every = self.recipe.checkpoint.every
        return min(self.recipe.steps, (step // every + 1) * every) - 1

    def _log_probs_at_start(
        self, step: int, rows: Sequence[Row]
    ) -> list[NDArray[np.float32]] | None:
        every = self.recipe.metrics.kl_to_start_every
        if self._start is None or every is None or (step + 1) % every:
            return None
        return self._start.log_probs(rows, self.recipe.batch, self._records.progress)

    def _check_learning(self, rollouts: StepRollouts, *, learned: bool) -> None:
        groups = [entry.group for entry in rollouts.groups]
        rewards = [rollout.reward for group in groups for rollout in group.rollouts]
        sums = self._ranks.sum(
            {
                "mixed": float(sum(group.mixed for group in groups)),
                "reward": float(sum(rewards)),
                "rollouts": float(len(rewards)),
            }
        )
        self._guard.check(
            learned=learned, mixed=sums["mixed"] > 0, reward=sums["reward"] / sums["rollouts"]
        )

    def _hand_over(self) -> None:
        """Gives the new weights to the sampler and, when that is due, to the teacher."""
        done = self._state.steps_done
        self._ahead.settle()
        self._sampler.load_weights(self._student.full_tensors(), done)
        if self._scoring is None:
            return
        weights = self._teacher_weights.after_step(self._student, done)
        if weights is not None:
            self._state = dataclasses.replace(self._state, weights=weights)
        self._named.append(self._state.weights)  # jobs of sampled steps may name those before
        if weights is not None:
            self._prune()

    def _with_evaluation(self, row: dict[str, float]) -> dict[str, float]:
        """Evaluates, with the same seed every time, and adds the outcome to a metrics row."""
        watch = Stopwatch()
        with watch.stage("evaluation"), self._whole_weights():
            seed = derive_seed(self.recipe.seed, "evaluation")
            evaluations = self._evaluator.run(seed, self._records.progress)
        self._add_totals(watch, {}, {})
        self._records.log_evaluation(self._state.steps_done, evaluations)
        return {**row, "time": self._state.seconds, **evaluations.row()}

    def _log_rollouts(self, step: int, rollouts: StepRollouts) -> None:
        config = self.recipe.report
        if step % config.every and step not in (1, self.recipe.steps):
            return
        trained = [
            TrainedRollout(entry.group.problem, entry.hints[index], row)
            for entry in rollouts.groups
            for index, row in entry.rows.items()
        ]
        texts_of = partial(streamed_texts, self._student.tokenizer)
        classes = self._measurement.classes
        self._records.log_rollouts(
            logged_rollouts(step, trained, texts_of, classes, self._method, config.rollouts)
        )

    def _add_totals(
        self, watch: Stopwatch, counts: Mapping[str, float], kept: Mapping[str, float]
    ) -> None:
        """Adds seconds and counts to the run's totals; keeps other figures in them as they are."""
        totals = {**self._state.totals, **kept}
        stages = {f"stage/{stage}": seconds for stage, seconds in watch.seconds.items()}
        for key, value in (*counts.items(), *stages.items()):
            totals[key] = totals.get(key, 0.0) + value
        self._state = dataclasses.replace(
            self._state, totals=totals, seconds=self._state.seconds + sum(watch.seconds.values())
        )

    def _save(self) -> None:
        save_checkpoint(
            self.recipe.run_dir / "checkpoints",
            self._state,
            self._student,
            self._optimizer,
            self._teacher_weights,
            self.recipe.checkpoint.keep,
            self._ranks,
        )
        self._prune()

    def _prune(self) -> None:
        """Removes published weights that neither a job nor a checkpoint names."""
        if self._ranks.first:
            checkpoints = (self.recipe.run_dir / "checkpoints").glob("step-*")
            saved = [read_state(checkpoint).weights for checkpoint in checkpoints]
            prune_weights(self.recipe.run_dir / "weights", [*saved, *self._named])
