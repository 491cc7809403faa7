"""Folders with the published shapes of the paper's models, without weights, and small data files in
the places that the paper's recipes name."""

import json
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import Olmo3Config, PreTrainedConfig, PreTrainedTokenizerFast, Qwen3Config

CHAT_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message.role }}\n{{ message.content }}<|im_end|>\n"
    "{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n"
    "{% if enable_thinking is defined and not enable_thinking %}<think>\n\n</think>\n\n{% endif %}"
    "{% endif %}"
)


def _qwen3(**shape: Any) -> Qwen3Config:
    return Qwen3Config(
        vocab_size=151_936, max_position_embeddings=40_960, num_key_value_heads=8, **shape
    )


SHAPES: dict[str, PreTrainedConfig] = {
    "Qwen3-1.7B": _qwen3(
        hidden_size=2048,
        intermediate_size=6144,
        num_hidden_layers=28,
        num_attention_heads=16,
        tie_word_embeddings=True,
    ),
    "Qwen3-4B": _qwen3(
        hidden_size=2560,
        intermediate_size=9728,
        num_hidden_layers=36,
        num_attention_heads=32,
        tie_word_embeddings=True,
    ),
    "Qwen3-8B": _qwen3(
        hidden_size=4096, intermediate_size=12_288, num_hidden_layers=36, num_attention_heads=32
    ),
    "Olmo-3-7B-Think": Olmo3Config(
        vocab_size=100_278,
        hidden_size=4096,
        intermediate_size=11_008,
        num_hidden_layers=32,
        num_attention_heads=32,
        max_position_embeddings=65_536,
    ),
}


def write_model_folder(folder: Path, config: PreTrainedConfig) -> None:
    """Saves a configuration and a tokenizer of single bytes."""
    config.save_pretrained(folder)
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    special = ["<|im_start|>", "<|im_end|>", "<pad>"]
    backend = Tokenizer(
        models.BPE({text: index for index, text in enumerate([*letters, *special])}, [])
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        eos_token="<|im_end|>",
        pad_token="<pad>",
        additional_special_tokens=["<|im_start|>"],
    )
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(folder)


def write_paper_data(folder: Path) -> None:
    """Writes every data file that the paper's recipes name, with a few problems each."""
    folder.mkdir(parents=True)
    for number, level in enumerate(("5_7", "6_8", "7_10")):
        rows = [_sum(100 * number, i) for i in range(9)]
        _write(folder / f"deepmath_filtered_level{level}.jsonl", rows)
    for number, name in enumerate(("amc23", "aime24", "aime25"), start=5):
        _write(folder / f"{name}.jsonl", [_sum(100 * number, i, False) for i in range(3)])
    for number, name in enumerate(("4to8", "4to8_test", "9", "10", "11")):
        _write(folder / f"kk_{name}.jsonl", [_puzzle(100 * number + i) for i in range(5)])


def _write(path: Path, rows: list[dict[str, str]]) -> None:
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")


def _sum(first: int, second: int, solved: bool = True) -> dict[str, str]:
    row = {"problem": f"What is {first} + {second}?", "answer": str(first + second)}
    if solved:
        row["solution"] = f"Adding them gives $\\boxed{{{first + second}}}$."
    return row


def _puzzle(number: int) -> dict[str, str]:
    return {
        "problem": f"Ann says: Bob is a knave. Bob says: there are {number} trees.",
        "answer": "Ann is a knight, and Bob is a knave.",
        "solution": "Nobody counts trees. \\boxed{Ann is a knight, and Bob is a knave.}",
    }
