"""What a method needs of a group → the pairs to score, and their scores → each rollout's.

A pair is known by its rollout's index and its place: 0 is what the teacher reads after the correct
hint (or after the problem alone), 1 to K are the wrong hints.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from counterhint import Outputs, Scores
from counterhint.tensors import TokenIds
from student_trainer.groups import Group, Rollout
from student_trainer.losses import TeacherNeeds
from student_trainer.scoring.jobs import Pair
from student_trainer.scoring.scores import TeacherScores

Key: TypeAlias = tuple[int, int]
"""Index of the rollout in its group, and the pair's place."""


def outputs_by_place(needs: TeacherNeeds) -> tuple[Outputs, ...]:
    """What is asked for at place 0, at place 1 and at all places after it."""
    first = Outputs(
        sampled=needs.sampled,
        top_k=needs.teacher_top_k,
        given=needs.student_top_k > 0,
        entropy=needs.entropy,
    )
    if needs.reads != "both_hints":
        return (first,)
    on_support = needs.teacher_top_k > 0 or needs.student_top_k > 0
    return first, Outputs(sampled=needs.sampled, given=on_support), Outputs(sampled=needs.sampled)


def pairs_to_score(
    needs: TeacherNeeds,
    group: Group,
    contexts: Mapping[int, Sequence[TokenIds]],
    responses: Sequence[TokenIds],
) -> dict[Key, Pair]:
    """The pairs of a group, each asked for no more than the method needs of it.

    Where wrong hints are scored on the teacher's own top-k, the pair of the first wrong hint has no
    `token_ids` yet: see `with_support`.

    Args:
        needs: what the method needs.
        group: the group.
        contexts: of each rollout that is to be scored: what stands at place 0, 1, …
        responses: of each rollout, in the teacher's tokens.
    """
    asked = outputs_by_place(needs)
    pairs = {}
    for index, places in contexts.items():
        if not len(responses[index]):  # special tokens alone, which no other tokenizer knows
            continue
        ids = _student_top_k(group.rollouts[index], needs.student_top_k)
        for place, context in enumerate(places):
            outputs = asked[min(place, len(asked) - 1)]
            if outputs.names:
                given = ids if outputs.given else None
                pairs[index, place] = Pair(context, responses[index], outputs, given)
    return pairs


def with_support(waiting: Mapping[Key, Pair], scores: Mapping[Key, Scores]) -> dict[Key, Pair]:
    """Pairs of first wrong hints, on the top-k that the teacher gave under the correct hints.

    A pair whose rollout has no numbers under the correct hint is left out.
    """
    complete = {}
    for (index, place), pair in waiting.items():
        first = scores[index, 0]
        if is_valid(first).any():
            complete[index, place] = replace(pair, token_ids=_support_ids(first))
    return complete


def read_scores(
    needs: TeacherNeeds, group: Group, pairs: Mapping[Key, Pair], scores: Mapping[Key, Scores]
) -> dict[int, TeacherScores]:
    """The scores of each rollout; those without any numbers for one of their pairs are left out.

    A token counts as scored when all pairs of its rollout have numbers for it.
    """
    read = {}
    for index in dict.fromkeys(index for index, _ in pairs):
        keys = [key for key in pairs if key[0] == index]
        if all(key in scores and is_valid(scores[key]).any() for key in keys):
            branches = {place: scores[index, place] for _, place in keys}
            read[index] = _read_rollout(needs, group.rollouts[index], branches)
    return read


def is_valid(scores: Scores) -> NDArray[np.bool_]:
    """`[T]`: which positions of a pair have numbers."""
    if scores.valid is not None:
        return scores.valid
    arrays = (scores.sampled, scores.top_k_ids, scores.given, scores.entropy)
    return np.ones(len(next(array for array in arrays if array is not None)), dtype=np.bool_)


def _read_rollout(
    needs: TeacherNeeds, rollout: Rollout, branches: Mapping[int, Scores]
) -> TeacherScores:
    scored: NDArray[np.bool_] = np.logical_and.reduce([is_valid(s) for s in branches.values()])

    def gaps(values: NDArray[np.float32] | None) -> NDArray[np.float32] | None:
        """The values, NaN where the rollout is not scored."""
        if values is None or scored.all():
            return values
        holes = scored if values.ndim == 1 else scored[:, None]
        return np.where(holes, values, np.float32(np.nan))

    first, first_wrong = branches[0], branches.get(1)
    ids: TokenIds | None = None
    support = first.given
    if needs.teacher_top_k:
        ids, support = _support_ids(first), first.top_k_log_probs
    elif needs.student_top_k:
        ids = _student_top_k(rollout, needs.student_top_k)
    wrong = [gaps(branches[place].sampled) for place in sorted(branches) if place]
    rows = [row for row in wrong if row is not None]
    return TeacherScores(
        scored=scored,
        sampled=gaps(first.sampled),
        wrong=np.stack(rows) if rows else None,
        support_ids=None if ids is None else np.where(scored[:, None], ids, np.int32(0)),
        support=gaps(support),
        wrong_support=None if first_wrong is None else gaps(first_wrong.given),
        entropy=gaps(first.entropy),
    )


def _support_ids(scores: Scores) -> TokenIds:
    """The teacher's top-k ids, 0 where there are none, `[T, k]`."""
    assert scores.top_k_ids is not None  # the method needs them, so they were asked for
    ids: TokenIds = np.where(is_valid(scores)[:, None], scores.top_k_ids, np.int32(0))
    return ids


def _student_top_k(rollout: Rollout, wanted: int) -> TokenIds | None:
    if not wanted:
        return None
    recorded = rollout.top_k_ids
    if recorded is None or recorded.shape[1] < wanted:
        raise ValueError(f"the sampler did not record the student's {wanted} most probable tokens")
    return np.ascontiguousarray(recorded[:, :wanted])
