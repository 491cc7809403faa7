"""From the rollouts of a file to their signals: hints, scores, contrast, gate."""

import hashlib
import random
from collections import deque
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from counterhint import (
    ScoringClient,
    TeacherInfo,
    contrast,
    modulate,
    one_sided,
    tokenizer_fingerprint,
)
from counterhint.contrast import Gate
from counterhint.errors import InputError
from student_trainer.groups import Group, Rollout
from student_trainer.hints import HintConfig, RolloutHints, choose_hints
from student_trainer.losses import TeacherNeeds
from student_trainer.progress import Progress, progress_bar
from student_trainer.prompts import PromptConfig, Prompts
from student_trainer.score_file.parts import ScoreParts
from student_trainer.score_file.rows import RolloutFile, RolloutRow
from student_trainer.scoring import (
    GroupScoring,
    PendingGroup,
    ScoredGroup,
    ScoringConfig,
    StudentTokens,
    TeacherScores,
    find_teacher,
    open_client,
)
from student_trainer.tasks.base import Problem, Verdict

NEEDS = TeacherNeeds(reads="both_hints", sampled=True)
"""What is asked of the teacher for each rollout."""
GROUPS_A_PART = 64
"""Groups whose scores are written down together: what a stop may cost."""


@dataclass(frozen=True, slots=True)
class ScoreSettings:
    """How rollouts are scored."""

    run_id: str
    """The name under which the teacher's queue knows the jobs."""
    prompts: PromptConfig = field(default_factory=PromptConfig)
    """How contexts are made."""
    answer_format: str = ""
    """The line that tells the model how to give its final answer."""
    hints: HintConfig = field(default_factory=HintConfig)
    """How hints are chosen and shortened."""
    gate: Gate = field(default_factory=Gate)
    """How the contrast changes advantages."""
    seed: int = 0
    """Decides which siblings are hints."""
    in_flight: int = 16
    """Groups at the teacher at a time."""


@dataclass(frozen=True, slots=True)
class ScoredFile:
    """What became of a file."""

    rollouts: int
    """Rollouts in it."""
    unscored: int
    """Those of this call that have no scores; their `reason` says why."""
    tokens_naive: int
    """Teacher's tokens with one full pass a pair; of this call."""
    tokens_computed: int
    """Teacher's tokens that were computed; of this call."""


@dataclass(frozen=True, slots=True)
class _Pending:
    numbers: Sequence[int]
    rows: Sequence[RolloutRow]
    group: Group
    asked: Sequence[RolloutHints | None]
    scoring: PendingGroup


class FileScoring:
    """Scores the groups of a file by one teacher.

    Args:
        client: of a teacher, or of an intake.
        teacher: what it is.
        tokenizer: of the responses.
        fingerprint: the tokenizer's.
        config: where the teacher is, and its tokenizer where that is another.
        settings: how.

    Raises:
        InputError: tokenizer, template or teacher cannot be used.
        TokenizerMismatch: the teacher has another tokenizer.
    """

    def __init__(
        self,
        client: ScoringClient,
        teacher: TeacherInfo,
        tokenizer: PreTrainedTokenizerBase,
        fingerprint: str,
        config: ScoringConfig,
        settings: ScoreSettings,
    ) -> None:
        end = tokenizer.eos_token_id
        student = StudentTokens(tokenizer, fingerprint, [] if end is None else [end])
        self._prompts = Prompts(tokenizer, settings.prompts, settings.answer_format)
        self._scoring = GroupScoring(
            client, teacher, self._prompts, NEEDS, settings.hints, config, student, "the contrast"
        )
        self._teacher = teacher
        self._tokenizer = tokenizer
        self._fingerprint = fingerprint
        self._settings = settings

    def score(self, file: RolloutFile, out: Path, progress: Progress | None = None) -> ScoredFile:
        """Writes the scores of a file, or goes on with what an earlier call began.

        Args:
            file: the rollouts.
            out: a Parquet file of `parts.SCHEMA`.
            progress: told how many groups are done.

        Raises:
            InputError: `out` cannot be used, or a context and response are too long.
            CounterhintError: a job ended with an error that trying again does not mend.
        """
        parts = ScoreParts(out, self._fixed(file))
        total = len(file.groups)
        unscored = naive = computed = 0
        for start in range(parts.done * GROUPS_A_PART, total, GROUPS_A_PART):
            rows: list[dict[str, Any]] = []
            groups = range(start, min(start + GROUPS_A_PART, total))
            for done, pending in enumerate(self._in_flight(file, groups), start=start):
                if progress is not None:
                    progress("scoring", done, total)
                scored = pending.scoring.result()
                naive += scored.counts.tokens_naive
                computed += scored.counts.tokens_computed
                rows += self._rows(pending, scored)
            unscored += sum(row["reason"] is not None for row in rows)
            parts.add(rows)
        parts.finish()
        return ScoredFile(file.rollouts, unscored, naive, computed)

    def _fixed(self, file: RolloutFile) -> dict[str, Any]:
        """All that the scores depend on."""
        settings = self._settings
        with file.path.open("rb") as content:
            digest = hashlib.file_digest(content, "sha256").hexdigest()
        return {
            "input_sha256": digest,
            "model": self._teacher.model_id,
            "weights_revision": self._teacher.weights_revision,
            "tokenizer": self._teacher.tokenizer_fingerprint,
            "student_tokenizer": self._fingerprint,
            "prompts": settings.prompts.model_dump(mode="json"),
            "answer_format": settings.answer_format,
            "hints": settings.hints.model_dump(mode="json"),
            "gate": asdict(settings.gate),
            "seed": settings.seed,
        }

    def _in_flight(self, file: RolloutFile, groups: Sequence[int]) -> Iterator[_Pending]:
        """The groups in order, a few of them sent ahead."""
        sent: deque[_Pending] = deque()
        for index, rows in zip(groups, file.read(groups), strict=True):
            sent.append(self._send(index, rows))
            if len(sent) >= self._settings.in_flight:
                yield sent.popleft()
        yield from sent

    def _send(self, index: int, rows: Sequence[tuple[int, RolloutRow]]) -> _Pending:
        numbers = [number for number, _ in rows]
        group = self._group([row for _, row in rows])
        hints = self._hints(index, [row for _, row in rows], group)
        scoring = self._scoring.submit(
            run_id=self._settings.run_id,
            name=f"group {index}",
            group=group,
            hints=hints,
            weights=None,
        )
        return _Pending(numbers, [row for _, row in rows], group, hints, scoring)

    def _group(self, rows: Sequence[RolloutRow]) -> Group:
        first = rows[0]
        problem = Problem(first.group, first.problem, first.answer)
        rollouts = tuple(self._rollout(row) for row in rows)
        return Group(problem, self._prompts.plain(problem), rollouts)

    def _rollout(self, row: RolloutRow) -> Rollout:
        if row.token_ids is None:
            assert row.response is not None  # a row has one of both
            encoded = self._tokenizer.encode(row.response, add_special_tokens=False, verbose=False)
            token_ids = np.array(encoded, dtype=np.int32)
            text = row.response
        else:
            token_ids = np.array(row.token_ids, dtype=np.int32)
            text = str(self._tokenizer.decode(row.token_ids, skip_special_tokens=True))
        log_probs = np.full(len(token_ids), np.nan, dtype=np.float32)
        if row.student is not None:
            log_probs = np.array(row.student, dtype=np.float32)
        return Rollout(
            token_ids=token_ids,
            log_probs=log_probs,
            entropies=None,
            top_k_ids=None,
            finished=True,
            revision=0,
            text=text,
            verdict=Verdict(bool(row.correct), row.response_answer),
        )

    def _hints(
        self, index: int, rows: Sequence[RolloutRow], group: Group
    ) -> Sequence[RolloutHints | None]:
        if rows[0].correct_hint is None:
            draws = random.Random(f"{self._settings.seed}/{index}")
            return choose_hints(group, self._settings.hints, NEEDS, draws)
        hints = []
        for row in rows:
            assert row.correct_hint is not None  # of one group, all have hints or none
            wrong = tuple(hint.as_hint() for hint in row.wrong_hints)
            hints.append(RolloutHints(row.correct_hint.as_hint(), wrong))
        return hints

    def _rows(self, pending: _Pending, scored: ScoredGroup) -> Iterator[dict[str, Any]]:
        scores = scored.scores
        for index, (number, row) in enumerate(zip(pending.numbers, pending.rows, strict=True)):
            rollout = pending.group.rollouts[index]
            ids = rollout.token_ids.tolist()
            reason = None
            if index not in scores:
                reason = _reason(pending.asked[index], scored.hints[index])
            yield {
                "line": number,
                "problem_id": row.group,
                "correct": row.correct,
                "advantage": row.advantage,
                "token_ids": ids,
                "tokens": self._tokenizer.batch_decode([[token] for token in ids]),
                "student": None if row.student is None else _listed(rollout.log_probs),
                "weights_revision": scored.weights_revision,
                "reason": reason,
                **(self._signals(row, rollout, scores[index]) if index in scores else {}),
            }

    def _signals(self, row: RolloutRow, rollout: Rollout, scores: TeacherScores) -> dict[str, Any]:
        assert scores.sampled is not None  # it is what was asked for
        signals: dict[str, Any] = {"correct_hint": _listed(scores.sampled)}
        if row.student is not None:
            signals["e_c"] = _listed(one_sided(scores.sampled, rollout.log_probs))
        if scores.wrong is None:
            return signals
        e_ctr = contrast(scores.sampled, scores.wrong)
        made = modulate(e_ctr, row.advantage or 0.0, self._settings.gate)
        signals |= {
            "wrong_hints": [_listed(branch) for branch in scores.wrong],
            "e_ctr": _listed(e_ctr),
            "residual": _listed(made.residual),
            "selected": made.selected.tolist(),
        }
        if row.advantage is not None:
            signals["modulated"] = _listed(made.advantage)
        return signals


def _reason(asked: RolloutHints | None, shown: RolloutHints | None) -> str:
    if asked is None:
        return "NO_LEGAL_HINTS"
    return "HINT_TOO_LONG" if shown is None else "NO_NUMBERS"


def _listed(values: NDArray[np.floating]) -> list[float | None]:
    return [None if np.isnan(value) else float(value) for value in values]


def score_file(
    file: RolloutFile,
    out: Path,
    tokenizer_folder: Path,
    config: ScoringConfig,
    settings: ScoreSettings,
) -> ScoredFile:
    """Scores a file by the teacher at an address, with a progress bar.

    Raises:
        InputError: tokenizer, address, file or `out` cannot be used.
        CounterhintError: what `FileScoring` raises.
    """
    tokenizer = _read_tokenizer(tokenizer_folder)
    with open_client(config) as client, progress_bar() as progress:
        teacher = find_teacher(client, config)
        scoring = FileScoring(
            client, teacher, tokenizer, tokenizer_fingerprint(tokenizer), config, settings
        )
        return scoring.score(file, out, progress)


def _read_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    if not folder.is_dir():
        raise InputError(f"--tokenizer {folder} is no folder: give the student model's folder")
    try:
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(
            folder, local_files_only=True
        )
    except (OSError, ValueError) as error:
        raise InputError(f"--tokenizer {folder}: no tokenizer can be loaded: {error}") from error
    return tokenizer
