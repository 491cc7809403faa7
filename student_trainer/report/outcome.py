"""What came of a run: the figures at its head, and what they mean in plain words."""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from student_trainer.report.formatting import counted, number, percent
from student_trainer.report.run_folder import RunFolder

_METHODS = {
    "grpo": "the verifier's reward alone, the same for every token of a rollout",
    "rlcsd": "the verifier's reward, modulated token by token by the contrast between a correct "
    "and wrong hints",
    "rlsd": "the verifier's reward, weighted token by token by how much a correct hint changes the "
    "teacher's mind",
    "rlsd_ectr": "the verifier's reward, weighted token by token by the contrast between a correct "
    "and a wrong hint",
    "opsd": "the teacher's distribution under a correct hint, token by token",
    "opsd_ectr": "the teacher's distribution under a correct hint, pushed away from the one under "
    "a wrong hint",
    "sdpo": "the teacher's distribution under a correct hint, on the student's most probable "
    "tokens",
    "srpo": "the verifier's reward where a rollout did better than its group, and the teacher's "
    "distribution under a correct hint where it did not",
    "opd": "the distribution of a teacher that reads no hint",
}
_CLEAR = 2.0
"""Standard errors from which on a difference is called more than chance (about 95%)."""


@dataclass(frozen=True, slots=True)
class Accuracy:
    """One held-out evaluation."""

    step: int
    share: float
    stderr: float
    samples: int | None


@dataclass(frozen=True, slots=True)
class Change:
    """A figure before training and after it."""

    before: float
    after: float


@dataclass(frozen=True, slots=True)
class Outcome:
    """The figures at the head of the report; None where the run did not record them."""

    method: str
    method_in_words: str
    steps: int
    finished: bool
    before: Accuracy | None
    after: Accuracy | None
    change_stderr: float | None
    """Standard error of the change in accuracy, problem by problem."""
    length: Change | None
    """Response length in tokens."""
    entropy: Change | None
    """Nats per token."""
    tokens_naive: int | None
    tokens_computed: int | None
    wait_share: float | None

    @property
    def saving(self) -> float | None:
        """How many times fewer tokens the teacher computed than the naive way takes."""
        if not self.tokens_naive or not self.tokens_computed:
            return None
        return self.tokens_naive / self.tokens_computed


def read_outcome(run: RunFolder) -> Outcome:
    """Gather the outcome; a run without a summary (still going, or ended early) is read from its
    metrics."""
    method = str(run.summary.get("method") or run.setting("method.kind") or "training")
    evaluations = [_accuracy(row) for row in run.metrics if "eval/accuracy" in row]
    waits = run.points("scoring/wait_share")
    mean_wait = sum(wait for _, wait in waits) / len(waits) if waits else None
    return Outcome(
        method=method,
        method_in_words=_METHODS.get(method, ""),
        steps=run.metrics[-1]["step"],
        finished=bool(run.summary),
        before=evaluations[0] if evaluations else None,
        after=evaluations[-1] if len(evaluations) > 1 else None,
        change_stderr=_paired_stderr(run),
        length=_change(run, "response_length", "eval/length", "rollout/length"),
        entropy=_change(run, "entropy", "eval/entropy", "rollout/entropy"),
        tokens_naive=_total(run, "tokens_naive"),
        tokens_computed=_total(run, "tokens_computed"),
        wait_share=run.summary.get("scoring_wait_share", mean_wait),
    )


def headline(outcome: Outcome) -> str:
    """The outcome in one line."""
    method = outcome.method.upper()
    if outcome.before is None:
        return f"{method}: {counted(outcome.steps, 'step')}, accuracy not measured"
    if outcome.after is None:
        return f"{method}: {percent(outcome.before.share)} of held-out problems solved at the start"
    return (
        f"{method}: {percent(outcome.before.share)} → {percent(outcome.after.share)} "
        "of held-out problems solved"
    )


def in_plain_words(outcome: Outcome) -> list[str]:
    """What the figures mean, one sentence or two a paragraph."""
    words = [_accuracy_in_words(outcome)]
    if outcome.method_in_words:
        words.append(f"{outcome.method.upper()} trains on {outcome.method_in_words}.")
    if not outcome.finished:
        words.append("The run has not written its summary: it is still going, or it ended early.")
    if outcome.length is not None and outcome.entropy is not None:
        words.append(
            f"Responses went from {number(outcome.length.before)} to "
            f"{number(outcome.length.after)} tokens and entropy from "
            f"{number(outcome.entropy.before)} to {number(outcome.entropy.after)} nats per token. "
            "A method that runs away shows it here first."
        )
    return words


def _accuracy_in_words(outcome: Outcome) -> str:
    before, after = outcome.before, outcome.after
    if before is None:
        return "This run measured no held-out accuracy, so it says nothing about improvement."
    if after is None:
        return (
            f"There is one held-out evaluation (step {before.step}); "
            "it takes a second one to say whether training helped."
        )
    gain = after.share - before.share
    stderr = outcome.change_stderr or math.hypot(before.stderr, after.stderr)
    amount = counted(round(100 * abs(gain), 1), "percentage point")
    steps = counted(outcome.steps, "step")
    over = f", over {number(after.samples)} sampled answers" if after.samples else ""
    if stderr == 0:
        verdict = "no standard error was recorded, so chance cannot be ruled out"
    elif abs(gain) >= _CLEAR * stderr:
        verdict = (
            f"{number(round(abs(gain) / stderr, 1))} times the standard error of the difference, "
            "more than chance explains"
        )
    else:
        verdict = (
            f"within {_CLEAR:g} standard errors of the difference "
            f"({number(round(100 * stderr, 1))} points), so it may be chance"
        )
    if gain == 0:
        return f"Held-out accuracy did not change in {steps}{over}."
    direction = "gained" if gain > 0 else "lost"
    return (
        f"In {steps} the student {direction} {amount} on problems it never "
        f"trained on{over}: {verdict}."
    )


def _accuracy(row: dict[str, float]) -> Accuracy:
    samples = int(row["eval/samples"]) if "eval/samples" in row else None
    return Accuracy(int(row["step"]), row["eval/accuracy"], row.get("eval/stderr", 0.0), samples)


def _paired_stderr(run: RunFolder) -> float | None:
    """From the comparison of the same problems before and after, which the summary has."""
    changes: Mapping[str, Any] = run.summary.get("changes", {}).get("heldout", {})
    stderr: float | None = changes.get("accuracy", {}).get("stderr")
    return stderr


def _change(run: RunFolder, summary_key: str, *metrics: str) -> Change | None:
    before, after = (run.summary.get(f"{summary_key}_{end}") for end in ("before", "after"))
    if before is not None and after is not None:
        return Change(before, after)
    for metric in metrics:
        points = run.points(metric)
        if len(points) > 1:
            return Change(points[0][1], points[-1][1])
    return None


def _total(run: RunFolder, key: str) -> int | None:
    """A count over the whole run."""
    if key in run.summary:
        return int(run.summary[key])
    points = run.points(f"scoring/{key}")
    return int(sum(value for _, value in points)) if points else None
