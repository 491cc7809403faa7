"""Verifiers: how the final answer of a response is found and compared with the reference."""
