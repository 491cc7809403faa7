"""Seeded fuzzing of the real servers, and of what decodes their messages.

`python -m tests.fuzz --inputs 100000 --seed 0` runs a campaign against processes of its own; the
tests here run short ones. Input `number` of a campaign depends on its seed and its number alone, so
that `--only NUMBER` sends one input again.
"""
