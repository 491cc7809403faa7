"""Seeded random campaign: whole systems of real processes under faults, and a history checker.

`python -m tests.campaign --seeds 200` runs it; docs/reliability.md says what it tries and promises.
"""
