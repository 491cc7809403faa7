"""The word-level tokenizer of the tiny models, in the ordinary transformers format."""

from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from student_trainer.tasks.chain import MAX_OPERATIONS, OPERATORS, STEP_WORDS

END = "<|end|>"
PAD = "<|pad|>"
UNKNOWN = "<|unknown|>"
USER = "<|user|>"
ASSISTANT = "<|assistant|>"

PLAIN_FILLERS = STEP_WORDS
"""How a solution written without a hint introduces its steps, mostly."""
HINTED_FILLERS = ("thus", "hence", "we", "get")
"""How a solution written under a hint introduces its steps, mostly."""

_SPECIAL = (PAD, END, UNKNOWN, USER, ASSISTANT)
_WORDS = (
    *(str(digit) for digit in range(10)),
    *(f"{operator}{digit}" for operator in (*OPERATORS, "=") for digit in range(10)),
    ".",
    *(f"({number})" for number in range(1, MAX_OPERATIONS + 1)),
    *PLAIN_FILLERS,
    *HINTED_FILLERS,
    *("wait", "check", "answer", "reference", "end"),
)

_CHAT_TEMPLATE = (
    "{% for message in messages %}"
    f"{{% if message.role == 'user' %}}{USER} {{{{ message.content }}}} "
    f"{{% elif message.role == 'assistant' %}}{ASSISTANT} {{{{ message.content }}}} {END} "
    "{% else %}{{ raise_exception('role ' ~ message.role ~ ' is neither user nor assistant') }}"
    "{% endif %}{% endfor %}"
    f"{{% if add_generation_prompt %}}{ASSISTANT}{{% endif %}}"
)


def build_tokenizer() -> PreTrainedTokenizerFast:
    """Make the tokenizer: one token a word, words set apart by blanks.

    Text decoded without the special tokens and tokenized again gives the same ids.
    """
    vocabulary = {token: index for index, token in enumerate((*_SPECIAL, *_WORDS))}
    words = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    words.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=words,
        pad_token=PAD,
        eos_token=END,
        unk_token=UNKNOWN,
        additional_special_tokens=[USER, ASSISTANT],
        clean_up_tokenization_spaces=False,
        model_max_length=512,
    )
    tokenizer.chat_template = _CHAT_TEMPLATE
    return tokenizer
