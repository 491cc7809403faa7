"""What people see of scores and runs: token view, charts, groups of rollouts, tiles.

The scripts and style sheets here are the one form of each view. The gateway's pages load them as
modules, the report has them inlined (`inlined`); both give them the same JSON (`rollouts`).
"""

from pathlib import Path

FOLDER = Path(__file__).parent
"""Where the scripts and style sheets are."""
