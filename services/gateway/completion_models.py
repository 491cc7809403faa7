"""Bodies of `/v1/completions`, as OpenAI's legacy API and vLLM's server have them."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, Field, model_validator

from services.gateway.score_models import Body, Entries, Ids

MAX_PROMPTS = 1024
"""Prompts of one request."""
MAX_TOP = 128
"""Largest `logprobs`; the teacher's own bound may be lower."""

Texts = Annotated[Entries[str], Field(min_length=1, max_length=MAX_PROMPTS)]
IdLists = Annotated[Entries[Ids], Field(min_length=1, max_length=MAX_PROMPTS)]

_NEUTRAL: dict[str, tuple[Any, ...]] = {
    "n": (None, 1),
    "best_of": (None, 1),
    "stream": (None, False),
    "suffix": (None, ""),
    "frequency_penalty": (None, 0),
    "presence_penalty": (None, 0),
    "logit_bias": (None, {}),
}
"""Values of the fields that ask for what a teacher does not do."""


class CompletionRequest(Body):
    """Prompts whose tokens are scored; at most one token is written behind each."""

    model: str
    """The teacher's name, as `/v1/models` gives it."""
    prompt: Ids | IdLists | Texts | str
    """A text, token ids, or a list of either."""
    max_tokens: int = Field(16, ge=0)
    """0, or 1 for the most probable next token."""
    echo: bool = False
    """Whether the reply holds the prompt, with its log probs."""
    logprobs: int | None = Field(None, ge=0, le=MAX_TOP)
    """How many of the most probable tokens are named at each position; null for no log probs."""
    temperature: float | None = None
    """0 with `max_tokens` 1; without effect on log probs."""
    add_special_tokens: bool = True
    """Whether a text gets the tokenizer's special tokens, a beginning-of-sequence token say."""
    top_p: float | None = None
    """Without effect."""
    seed: int | None = None
    """Without effect: nothing is drawn."""
    stop: str | Entries[str] | None = None
    """Without effect on one token."""
    user: str | None = None
    """Without effect."""
    n: int | None = None
    """1."""
    best_of: int | None = None
    """1."""
    stream: bool | None = None
    """False."""
    suffix: str | None = None
    """None."""
    frequency_penalty: float | None = None
    """0."""
    presence_penalty: float | None = None
    """0."""
    logit_bias: dict[str, float] | None = None
    """None."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        for name, values in _NEUTRAL.items():
            if (value := getattr(self, name)) not in values:
                raise ValueError(
                    f"{name}={value!r}: a teacher scores and does not sample; leave it"
                )
        if self.max_tokens > 1:
            raise ValueError(
                f"max_tokens={self.max_tokens}: a teacher scores and does not write; send 0, or 1 "
                "for the most probable next token"
            )
        if not self.echo and not self.max_tokens:
            raise ValueError("max_tokens=0 without echo asks for nothing: send echo=true")
        if self.max_tokens and self.temperature != 0:
            raise ValueError(
                f"temperature={self.temperature}: the next token is the most probable one; send 0"
            )
        return self

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """The prompts as a list, of texts or of token ids."""
        if isinstance(self.prompt, str):
            return [self.prompt]
        if isinstance(self.prompt[0], int):
            return [self.prompt]
        return self.prompt


class CompletionLogProbs(BaseModel):
    """Log probs of a choice, one entry a token; the first token of a prompt has none."""

    tokens: list[str]
    """A token that is no UTF-8 by itself is `bytes:\\xe2\\x82`."""
    token_logprobs: list[float | None]
    top_logprobs: list[dict[str, float] | None] | None
    """The most probable tokens and the token itself; null where `logprobs` is 0."""
    text_offset: list[int]
    """Where each token begins in `text`, in characters."""


class CompletionChoice(BaseModel):
    """One prompt's reply."""

    index: int
    text: str
    logprobs: CompletionLogProbs | None
    finish_reason: Literal["length"] = "length"


class CompletionUsage(BaseModel):
    """Tokens of all prompts."""

    prompt_tokens: int
    completion_tokens: int
    total_tokens: int


class Completion(BaseModel):
    """The reply."""

    id: str
    object: Literal["text_completion"] = "text_completion"
    created: int
    """Seconds since 1970."""
    model: str
    choices: list[CompletionChoice]
    usage: CompletionUsage
