"""A tiny model that reads and writes every text, for tests that begin with text."""

from pathlib import Path

from transformers import PreTrainedModel

from tests.student_trainer.scoring.tokenizers import byte_level_tokenizer
from tests.tiny_models import write_tiny_llama


def write_byte_level_llama(folder: Path) -> PreTrainedModel:
    """Saves a tiny Llama whose byte-level tokenizer has a chat template."""
    tokenizer = byte_level_tokenizer()
    model = write_tiny_llama(
        folder,
        vocab_size=len(tokenizer),
        max_position_embeddings=1024,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
    )
    tokenizer.save_pretrained(folder)
    return model
