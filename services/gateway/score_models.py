"""The body of `POST /v1/distill/score`: a problem with hints, chats, or token ids."""

from typing import Annotated, Literal, Self, TypeVar

from pydantic import (
    BaseModel,
    ConfigDict,
    Discriminator,
    Field,
    StringConstraints,
    Tag,
    model_validator,
)

from counterhint.contrast import Gate
from services.queue.records import TOP_PRIORITY

MAX_RESPONSES = 256
"""Responses of one request."""
MAX_WRONG = 64
"""Wrong hints of one request."""
LONGEST_WAIT = 3600.0
"""Seconds that a request may wait."""
DEFAULT_RUN = "http"
"""The run of requests that name none, where callers have no tokens."""

_PAPER = Gate()

TokenId = Annotated[int, Field(ge=0, lt=2**31)]
RunName = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_.][A-Za-z0-9_.:-]{0,199}$")]
Fingerprint = Annotated[str, StringConstraints(pattern=r"^[0-9a-f]{64}$")]


class Body(BaseModel):
    """Part of a body: unknown keys, other types, infinities and NaN are refused."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        strict=True,
        allow_inf_nan=False,
        use_attribute_docstrings=True,
    )


class Hint(Body):
    """A solution shown to the teacher."""

    hint: str
    """Its text."""
    answer: str
    """Its final answer."""


class Message(Body):
    """One message of a chat."""

    role: Annotated[str, StringConstraints(min_length=1, max_length=32)]
    content: str


def _form(value: object) -> str:
    return "<text>" if isinstance(value, str) else "<object>"


T = TypeVar("T")
Entries = Annotated[list[T], Field(fail_fast=True)]
"""A list whose first wrong entry is its only error: to report millions would take minutes."""
Chat = Annotated[Entries[Message], Field(min_length=1, max_length=256)]
Ids = Annotated[Entries[TokenId], Field(min_length=1)]


class Chats(Body):
    """The contexts as chats, to which the chat template is applied."""

    correct: Chat
    """What the teacher is told under the correct hint."""
    wrong: Entries[Chat] = Field([], max_length=MAX_WRONG)
    """What it is told under each wrong hint."""
    unhinted: Chat | None = None
    """What it is told without a hint."""


class ContextIds(Body):
    """The contexts as token ids, up to where the response begins."""

    correct: Ids
    """Under the correct hint."""
    wrong: Entries[Ids] = Field([], max_length=MAX_WRONG)
    """Under each wrong hint."""
    unhinted: Ids | None = None
    """Without a hint."""


class Response(Body):
    """A response to score, as text or as token ids."""

    text: str | None = None
    """Its text; tokenized by itself, special tokens' names as text."""
    token_ids: Ids | None = None
    """Its tokens, exactly as they were sampled."""
    student_log_probs: Entries[float] | None = None
    """The student's own log probs, one for each token."""
    advantage: float | None = None
    """Its group-relative advantage, to be modulated."""

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        if (self.text is None) == (self.token_ids is None):
            raise ValueError("give either text or token_ids")
        return self


HintOrText = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[Hint, Tag("<object>")], Discriminator(_form)
]
ResponseOrText = Annotated[
    Annotated[str, Tag("<text>")] | Annotated[Response, Tag("<object>")], Discriminator(_form)
]


class GateParameters(Body):
    """How the contrast becomes a change of the advantage; the defaults are the paper's."""

    tau: float = Field(_PAPER.tau, gt=0)
    """Temperature of the tanh, in nats."""
    beta: float = _PAPER.beta
    """Weight of the contrast."""
    lam: float = Field(_PAPER.lam, ge=0)
    """Scale of the change."""
    delta: float = Field(_PAPER.delta, ge=0)
    """A token is selected when its change is larger than this."""
    clip_low: float = _PAPER.clip_low
    """Smallest change."""
    clip_high: float = _PAPER.clip_high
    """Largest change."""

    @model_validator(mode="after")
    def _range(self) -> Self:
        if not self.clip_low < self.clip_high:
            raise ValueError(
                f"clip_low ({self.clip_low:g}) must be below clip_high ({self.clip_high:g})"
            )
        return self

    def build(self) -> Gate:
        """The gate."""
        return Gate(**self.model_dump())


class Addressed(Body):
    """What every job says about itself."""

    run: RunName | None = None
    """The run that it counts for; by default the token's, or `http` where there are no tokens."""
    priority: int = Field(0, ge=0, le=TOP_PRIORITY)
    """Higher is served first."""
    timeout_seconds: float = Field(60.0, gt=0, le=LONGEST_WAIT)
    """Seconds until the result is of no use."""
    tokenizer_fingerprint: Fingerprint | None = None
    """Of the tokenizer that made the token ids, to be checked against the teacher's."""


class ScoreRequest(Addressed):
    """What to score. Give the contexts in one way: problem and hints, messages, or contexts."""

    model_config = ConfigDict(
        json_schema_extra={
            "examples": [
                {
                    "problem": "What is 2+3?",
                    "correct_hint": "2+3=5",
                    "correct_answer": "5",
                    "wrong_hints": [{"hint": "2+3=6", "answer": "6"}],
                    "responses": ["2+3 = 5"],
                },
                {
                    "messages": {
                        "correct": [{"role": "user", "content": "What is 2+3? It is 5."}],
                        "wrong": [[{"role": "user", "content": "What is 2+3? It is 6."}]],
                        "unhinted": [{"role": "user", "content": "What is 2+3?"}],
                    },
                    "responses": [{"text": "2+3 = 5", "advantage": 1.0}, "2+3 = 6"],
                    "top_k": 2,
                },
                {
                    "contexts": {"correct": [1, 5, 6], "wrong": [[1, 5, 7]], "unhinted": [1, 5]},
                    "responses": [{"token_ids": [3, 4], "student_log_probs": [-0.5, -1.25]}],
                    "gate": {"tau": 0.1},
                },
            ]
        }
    )

    problem: str | None = None
    """The problem's text."""
    correct_hint: HintOrText | None = None
    """A correct solution's text, or the text and its final answer."""
    correct_answer: str | None = None
    """The correct solution's final answer, where `correct_hint` is a text."""
    wrong_hints: Entries[HintOrText] = Field([], max_length=MAX_WRONG)
    """Incorrect solutions; without any there is no contrast."""
    template: Literal["answer_only", "neutral", "terse", "verbose"] = "neutral"
    """How problem and hint become a prompt; correct and wrong hints go through the same one."""
    answer_format: str = ""
    """What the prompt says last, about the form of the answer."""
    system: str | None = None
    """System message before the prompt."""
    thinking: bool | None = None
    """`enable_thinking` of the chat template; by default the template decides."""
    unhinted: bool = True
    """Whether the responses are also scored under the problem alone."""
    messages: Chats | None = None
    contexts: ContextIds | None = None
    responses: Entries[ResponseOrText] = Field(min_length=1, max_length=MAX_RESPONSES)
    """What is scored, token by token."""
    top_k: int = Field(0, ge=0, lt=2**31)
    """How many of the teacher's most probable tokens to return at each position."""
    entropy: bool = False
    """Whether to return the entropy of the teacher's distribution, in nats."""
    gate: GateParameters = GateParameters()

    @property
    def form(self) -> Literal["problem", "messages", "contexts"]:
        """How the contexts are given."""
        if self.problem is not None:
            return "problem"
        return "messages" if self.messages is not None else "contexts"

    @model_validator(mode="after")
    def _one_form(self) -> Self:
        given = [
            name for name in ("problem", "messages", "contexts") if getattr(self, name) is not None
        ]
        if len(given) != 1:
            raise ValueError(
                "give the contexts in one way, as problem (with correct_hint), messages or "
                f"contexts, not {' and '.join(given) or 'in none'}"
            )
        if self.form == "problem":
            self._check_hints()
        else:
            only_problem = ("correct_hint", "correct_answer", "wrong_hints", "template")
            unused = {*only_problem, "answer_format", "system", "unhinted"} & self.model_fields_set
            if self.form == "contexts":
                unused |= {"thinking"} & self.model_fields_set
            if unused:
                raise ValueError(f"{', '.join(sorted(unused))} cannot go with {self.form}")
        return self

    def _check_hints(self) -> None:
        if self.correct_hint is None:
            raise ValueError("problem needs correct_hint")
        if isinstance(self.correct_hint, Hint) and self.correct_answer is not None:
            raise ValueError("correct_answer is in correct_hint already: give it once")
        answered = {hint.answer != "" for hint in self.hints}
        if len(answered) > 1:
            raise ValueError(
                "some hints have a final answer and some have none, so that the teacher could tell "
                'them apart by that: give every hint as {"hint": …, "answer": …}, or none'
            )
        if answered == {False} and self.template == "answer_only":
            raise ValueError('template answer_only needs {"hint": …, "answer": …} of every hint')

    @property
    def hints(self) -> list[Hint]:
        """The hints of a problem, the correct one first; a hint without an answer has "" there."""
        correct = self.correct_hint or ""
        if isinstance(correct, str):
            correct = Hint(hint=correct, answer=self.correct_answer or "")
        return [correct, *map(_as_hint, self.wrong_hints)]

    @property
    def items(self) -> list[Response]:
        """The responses, each in full form."""
        return [Response(text=one) if isinstance(one, str) else one for one in self.responses]


def _as_hint(given: str | Hint) -> Hint:
    return Hint(hint=given, answer="") if isinstance(given, str) else given
