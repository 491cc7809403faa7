"""Teachers with another tokenizer: their log probs, brought to the student's tokens by byte spans.

The teacher reads the very bytes that the student wrote, in its own tokens. Where a student's token
begins and ends at boundaries of the teacher's tokens as well, its log prob is the sum of the
teacher's tokens between them (chain rule). Where boundaries do not coincide, the tokens inside the
smallest span that both sides have in common get no number.

There are other ways: to spread the sum of such a span over its tokens, evenly or by their bytes,
which invents a split that neither model has made; to give each of them the whole sum, which counts
it more than once; or to score at every byte with a byte-level reading of the teacher, which costs a
pass a byte. A method works token by token, so a number that belongs to a span and not to a token
would be noise in the advantage; leaving the tokens out is exact, and the share that is left out is
reported.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from counterhint.errors import InputError
from counterhint.tensors import TokenIds
from counterhint.token_bytes import TokenBytes
from student_trainer.scoring.scores import TeacherScores

_END = 256
"""Stands for the end of the sequence where bytes are compared."""
_NOT_UTF8 = re.compile("([\udc80-\udcff]+)")
"""How Python decodes bytes that are no UTF-8 (`surrogateescape`)."""


@dataclass(frozen=True, slots=True)
class AlignedResponse:
    """A response in the teacher's tokens, and which of them cover each token of the student."""

    token_ids: TokenIds
    """int32 `[N]`: the teacher's tokens; empty when nothing is left for it to read."""
    aligned: NDArray[np.bool_]
    """`[T]`: the student's tokens that begin and end where tokens of the teacher do."""
    first: NDArray[np.int64]
    """`[T]`: the first of the teacher's tokens that cover an aligned token."""
    stop: NDArray[np.int64]
    """`[T]`: one behind the last of them."""

    def to_student(self, scores: TeacherScores) -> TeacherScores:
        """Scores of the teacher's tokens (`sampled`, `wrong`) as scores of the student's."""
        scored = self.aligned & ~np.isnan(self._sums(np.where(scores.scored, 0.0, np.nan)))

        def summed(values: NDArray[np.float32] | None) -> NDArray[np.float32] | None:
            if values is None:
                return None
            return np.where(scored, self._sums(values), np.nan).astype(np.float32)

        return replace(
            scores, scored=scored, sampled=summed(scores.sampled), wrong=summed(scores.wrong)
        )

    def _sums(self, values: NDArray[Any]) -> NDArray[np.float64]:
        """Sums over the teacher's tokens of each student token; `[…, N]` → `[…, T]`.

        A sum over a missing number is NaN; the other sums are not touched by it.
        """
        missing = np.isnan(values)
        padding = [(0, 0)] * (values.ndim - 1) + [(1, 0)]
        ends = np.pad(np.cumsum(np.where(missing, 0.0, values), -1, dtype=np.float64), padding)
        gaps = np.pad(np.cumsum(missing, -1), padding)
        sums = ends[..., self.stop] - ends[..., self.first]
        return np.where(gaps[..., self.stop] > gaps[..., self.first], np.nan, sums)


class Aligner:
    """Rewrites responses of a student in the tokens of a teacher.

    A student's special tokens have no bytes: one that ends a response becomes the teacher's
    end-of-sequence token, those inside of it are not shown to the teacher and not scored.

    Args:
        student: the student's tokenizer.
        end_ids: the tokens that end its responses.
        teacher: the teacher's tokenizer.
        lead_in: what the teacher's chat template puts in front of a response. Responses are cut
            into tokens as they would be behind it; SentencePiece puts "▁" in front of a text that
            stands alone, which is right where a template ends with the user's message.

    Raises:
        InputError: one of them does not write every text exactly, or the teacher's names no
            end-of-sequence token.
    """

    def __init__(
        self,
        student: PreTrainedTokenizerBase,
        end_ids: Sequence[int],
        teacher: PreTrainedTokenizerBase,
        lead_in: str,
    ) -> None:
        if teacher.eos_token_id is None:
            raise InputError(
                f"scoring.teacher_tokenizer: the tokenizer in {teacher.name_or_path} names no "
                "end-of-sequence token: set eos_token in its tokenizer_config.json"
            )
        self._student = TokenBytes(student)
        self._teacher = TokenBytes(teacher)
        self._end_ids = np.array(end_ids, dtype=np.int32)
        self._end = np.array([teacher.eos_token_id], dtype=np.int32)
        self._special_ids = np.array(teacher.all_special_ids, dtype=np.int32)
        self._tokenizer = teacher
        self._lead_in = lead_in
        self._lead_in_ids = self._tokens(lead_in)

    def align(self, token_ids: TokenIds) -> AlignedResponse:
        """A response of the student, int32 `[T]`, in the teacher's tokens."""
        ended = bool(len(token_ids)) and bool(np.isin(token_ids[-1], self._end_ids))
        text_ids = token_ids[:-1] if ended else token_ids
        lengths, written = self._student.lengths(text_ids), self._student.join(text_ids)
        if self._student.leading_blank and written[:1].tobytes() == b" ":
            lengths, written = _without_blank(lengths), written[1:]
        ours = _Spelling.of(text_ids, lengths, written)
        theirs = self._spell(written.tobytes())
        if ended:
            ours, theirs = ours.with_end(token_ids[-1:]), theirs.with_end(self._end)
        our_bounds = ours.bounds()
        their_bounds, common = _on_our_bytes(theirs.bounds(), ours.content, theirs.content)
        starts, stops = our_bounds[:-1], our_bounds[1:]
        aligned = np.isin(starts, common) & np.isin(stops, common) & (starts < stops)
        # A token without bytes belongs to the span that begins where it stands.
        return AlignedResponse(
            token_ids=theirs.token_ids,
            aligned=aligned,
            first=np.searchsorted(their_bounds[:-1], starts),
            stop=np.searchsorted(their_bounds[:-1], stops),
        )

    def _spell(self, content: bytes) -> "_Spelling":
        """The teacher's tokens of some bytes; what is no UTF-8 becomes single-byte tokens."""
        spelling = _Spelling.empty()
        for piece in _NOT_UTF8.split(content.decode(errors="surrogateescape")):
            written = piece.encode(errors="surrogateescape")
            token_ids: TokenIds | None = None
            if _NOT_UTF8.fullmatch(piece):
                single = self._teacher.of_byte[np.frombuffer(written, dtype=np.uint8)]
                token_ids = single[single >= 0]  # it may be unable to write some bytes
            elif not len(spelling.token_ids):
                token_ids = self._behind_lead_in(piece)
            if token_ids is None:
                token_ids = self._tokens(piece, plain=True)
            lengths, joined = self._teacher.lengths(token_ids), self._teacher.join(token_ids)
            if joined.tobytes() == b" " + written:
                lengths, joined = _without_blank(lengths), joined[1:]
            spelling = spelling.followed_by(_Spelling.of(token_ids, lengths, joined))
        return spelling

    def _behind_lead_in(self, text: str) -> TokenIds | None:
        """The tokens of a text behind the lead-in; None where they cannot be told from its own."""
        if not self._lead_in:
            return None
        whole, count = self._tokens(self._lead_in + text), len(self._lead_in_ids)
        rest = whole[count:]
        if not np.array_equal(whole[:count], self._lead_in_ids):
            return None  # its last token and the text's first have become one
        return None if np.isin(rest, self._special_ids).any() else rest

    def _tokens(self, text: str, *, plain: bool = False) -> TokenIds:
        """Tokens of a text; with `plain`, names of special tokens in it are text as well."""
        ids = self._tokenizer.encode(
            text, add_special_tokens=False, split_special_tokens=plain, verbose=False
        )
        return np.array(ids, dtype=np.int32)


@dataclass(frozen=True, slots=True)
class _Spelling:
    """Tokens, the number of bytes of each, and these bytes."""

    token_ids: TokenIds
    lengths: NDArray[np.int64]
    content: NDArray[np.uint16]

    @classmethod
    def of(
        cls, token_ids: TokenIds, lengths: NDArray[np.int64], content: NDArray[np.uint8]
    ) -> "_Spelling":
        return cls(token_ids, lengths, content.astype(np.uint16))  # with room for `_END`

    @classmethod
    def empty(cls) -> "_Spelling":
        return cls(np.zeros(0, np.int32), np.zeros(0, np.int64), np.zeros(0, np.uint16))

    def followed_by(self, other: "_Spelling") -> "_Spelling":
        return _Spelling(
            np.concatenate([self.token_ids, other.token_ids]),
            np.concatenate([self.lengths, other.lengths]),
            np.concatenate([self.content, other.content]),
        )

    def with_end(self, end: TokenIds) -> "_Spelling":
        """With the token that ends a sequence, which counts as one more byte."""
        return self.followed_by(_Spelling(end, np.ones(1, np.int64), np.full(1, _END, np.uint16)))

    def bounds(self) -> NDArray[np.int64]:
        """Where tokens begin and end, `[T + 1]`."""
        return np.concatenate([np.zeros(1, np.int64), np.cumsum(self.lengths)])


def _without_blank(lengths: NDArray[np.int64]) -> NDArray[np.int64]:
    """Lengths without SentencePiece's blank in front of a text, which no byte of it stands for."""
    lengths = lengths.copy()
    lengths[(lengths > 0).argmax()] -= 1
    return lengths


def _on_our_bytes(
    bounds: NDArray[np.int64], ours: NDArray[np.uint16], theirs: NDArray[np.uint16]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The boundaries of the teacher's tokens as positions in the student's bytes.

    The bytes are the same unless the teacher's tokenizer normalizes its text. Then only what stands
    before the first difference and behind the last can be told.

    Returns:
        All boundaries, in order, and those of them whose position is known.
    """
    shorter = min(len(ours), len(theirs))
    behind = _equal_from_start(ours[::-1][:shorter], theirs[::-1][:shorter])
    before = _equal_from_start(ours[: shorter - behind], theirs[: shorter - behind])
    unknown = (bounds > before) & (bounds < len(theirs) - behind)
    mapped = np.where(bounds <= before, bounds, bounds - len(theirs) + len(ours))
    mapped[unknown] = before
    return mapped, mapped[~unknown]


def _equal_from_start(first: NDArray[np.uint16], second: NDArray[np.uint16]) -> int:
    different = first != second
    return int(different.argmax()) if different.any() else len(different)
