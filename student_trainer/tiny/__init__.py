"""Tiny models made on the spot: a tokenizer, demonstrations to imitate, and the warm-up on them."""
