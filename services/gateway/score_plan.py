"""From a body of the scoring route to the job that it asks for."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from counterhint.errors import InvalidJob, TokenizerMismatch
from counterhint.hints import load_template, question
from counterhint.jobs import Outputs, ScoringJob, pairs_array
from counterhint.tensors import TokenIds
from services.gateway.score_models import (
    DEFAULT_RUN,
    Addressed,
    Chats,
    Message,
    Response,
    ScoreRequest,
)
from services.gateway.tokenizer import ChatMessage, Tokenizer

CORRECT, UNHINTED = "correct", "unhinted"
"""Names of contexts; the others are `wrong 1`, `wrong 2`, …"""


@dataclass(frozen=True)
class ScorePlan:
    """What a request asks for, in token ids. Every response is scored under every context."""

    names: tuple[str, ...]
    """Of the contexts."""
    contexts: tuple[TokenIds, ...]
    """int32 `[T]` each."""
    items: tuple[Response, ...]
    """The responses as they were given."""
    responses: tuple[TokenIds, ...]
    """Their tokens, int32 `[T]` each."""
    outputs: Outputs
    """What to ask the teacher for."""

    def job(
        self, job_id: str, request: Addressed, run: str, fingerprint: str, which: Sequence[int]
    ) -> ScoringJob:
        """The job of some of the responses; pair i·C + c is the i-th of them under context c."""
        contexts = range(len(self.contexts))
        return ScoringJob(
            id=job_id,
            run_id=run,
            contexts=self.contexts,
            responses=tuple(self.responses[index] for index in which),
            pairs=pairs_array([(c, r) for r in range(len(which)) for c in contexts]),
            tokenizer_fingerprint=fingerprint,
            outputs=self.outputs,
            priority=request.priority,
        )


def run_of(request: Addressed, token_run: str | None) -> str:
    """The run that a request counts for."""
    return request.run or token_run or DEFAULT_RUN


def check_fingerprint(request: Addressed, teachers: str) -> None:
    """Refuses token ids that the teacher would read as others.

    Raises:
        TokenizerMismatch: the request names another tokenizer than the teacher's.
    """
    ours = request.tokenizer_fingerprint
    if ours is not None and ours != teachers:
        raise TokenizerMismatch(ours, teachers)


def usable_tokenizer(
    request: ScoreRequest, teachers: str, tokenizer: Tokenizer | None
) -> Tokenizer | None:
    """The gateway's tokenizer where it is the teacher's; None where a request does without.

    Args:
        request: the body.
        teachers: fingerprint of the teacher's tokenizer.
        tokenizer: the gateway's.

    Raises:
        InvalidJob: there is text to tokenize, and no tokenizer.
        TokenizerMismatch: there is, and the tokenizer is not the teacher's.
    """
    if tokenizer is not None and tokenizer.fingerprint == teachers:
        return tokenizer
    if request.form == "contexts" and all(item.text is None for item in request.items):
        return None
    if tokenizer is None:
        raise InvalidJob(
            "the gateway has no tokenizer: send token ids, or start it with --tokenizer and the "
            "teacher's",
            reason="NO_TOKENIZER",
        )
    raise TokenizerMismatch(
        tokenizer.fingerprint,
        teachers,
        "start the gateway with --tokenizer and the teacher's, or send token ids",
    )


def make_plan(
    request: ScoreRequest, tokenizer: Tokenizer | None, max_model_len: int | None
) -> ScorePlan:
    """What a request asks for; takes the processor for a while when its texts are long.

    Args:
        request: the body.
        tokenizer: the teacher's; may be None where the request holds token ids only.
        max_model_len: tokens that the teacher takes at most; None for a request that was taken.

    Raises:
        InvalidJob: a text cannot be tokenized or is too long, or log probs that are not one for
            each token.
    """
    named = _contexts(request, tokenizer, max_model_len)
    items = tuple(request.items)
    responses = tuple(
        _response(item, f"responses.{index}", tokenizer) for index, item in enumerate(items)
    )
    return ScorePlan(
        names=tuple(named),
        contexts=tuple(named.values()),
        items=items,
        responses=responses,
        outputs=Outputs(sampled=True, top_k=request.top_k, entropy=request.entropy),
    )


def _contexts(
    request: ScoreRequest, tokenizer: Tokenizer | None, max_model_len: int | None
) -> dict[str, TokenIds]:
    """The contexts by name, in the order of the reply."""
    if request.contexts is not None:
        given = request.contexts
        wrong = [np.array(ids, dtype=np.int32) for ids in given.wrong]
        unhinted = None if given.unhinted is None else np.array(given.unhinted, dtype=np.int32)
        return _named(np.array(given.correct, dtype=np.int32), wrong, unhinted)
    assert tokenizer is not None  # see usable_tokenizer
    if request.messages is not None:
        return _chats(request.messages, tokenizer, request.thinking)
    template, problem = load_template(request.template), request.problem or ""

    def prompt(text: str, param: str) -> TokenIds:
        messages: list[ChatMessage] = [{"role": "user", "content": text}]
        if request.system is not None:
            messages.insert(0, {"role": "system", "content": request.system})
        ids = tokenizer.encode_chat(messages, param, thinking=request.thinking)
        # A long problem is in the prompt of each hint: it is refused before it is tokenized again.
        if max_model_len is not None and len(ids) > max_model_len:
            raise InvalidJob(
                f"{param}: its prompt has {len(ids)} tokens, but the teacher takes at most "
                f"{max_model_len}: shorten problem or hint",
                reason="PAIR_TOO_LONG",
                details={"param": param, "tokens": len(ids), "max_model_len": max_model_len},
            )
        return ids

    hinted = [
        prompt(
            template.render(
                problem=problem,
                hint=hint.hint,
                answer=hint.answer,
                answer_format=request.answer_format,
            ),
            f"wrong_hints.{index - 1}" if index else "correct_hint",
        )
        for index, hint in enumerate(request.hints)
    ]
    plain = question(problem, request.answer_format)
    return _named(hinted[0], hinted[1:], prompt(plain, "problem") if request.unhinted else None)


def _chats(chats: Chats, tokenizer: Tokenizer, thinking: bool | None) -> dict[str, TokenIds]:
    def prompt(place: str, chat: Sequence[Message]) -> TokenIds:
        messages: list[ChatMessage] = [
            {"role": message.role, "content": message.content} for message in chat
        ]
        return tokenizer.encode_chat(messages, f"messages.{place}", thinking=thinking)

    return _named(
        prompt("correct", chats.correct),
        [prompt(f"wrong.{index}", chat) for index, chat in enumerate(chats.wrong)],
        None if chats.unhinted is None else prompt("unhinted", chats.unhinted),
    )


def _named(
    correct: TokenIds, wrong: Sequence[TokenIds], unhinted: TokenIds | None
) -> dict[str, TokenIds]:
    named = {CORRECT: correct}
    named |= {f"wrong {number}": context for number, context in enumerate(wrong, start=1)}
    return named if unhinted is None else {**named, UNHINTED: unhinted}


def _response(item: Response, param: str, tokenizer: Tokenizer | None) -> TokenIds:
    if item.token_ids is not None:
        token_ids = np.array(item.token_ids, dtype=np.int32)
    else:
        assert tokenizer is not None  # see usable_tokenizer
        token_ids = tokenizer.encode(item.text or "", f"{param}.text")
    if not len(token_ids):
        raise InvalidJob(f"{param} is empty", reason="EMPTY_RESPONSE", details={"param": param})
    given = item.student_log_probs
    if given is not None and len(given) != len(token_ids):
        raise InvalidJob(
            f"{param}.student_log_probs has {len(given)} entries for {len(token_ids)} tokens: give "
            "one for each; send the response as token_ids to be sure which they are",
            reason="WRONG_LENGTH",
            details={"param": f"{param}.student_log_probs"},
        )
    return token_ids
