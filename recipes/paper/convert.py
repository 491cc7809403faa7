"""Converts the RLCSD authors' Parquet files into the JSONL files that these recipes name.

    python recipes/paper/convert.py data/verl data/paper

reads `data/verl/NAME/train.parquet` and `data/verl/NAME/val.parquet`, as their `download_data.py`
leaves them, and writes one file a data set: `data/paper/NAME.jsonl` of a `train.parquet`, and
`data/paper/SOURCE.jsonl` for each `data_source` of a `val.parquet`.
"""

import argparse
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq


def convert(source: Path, target: Path) -> dict[Path, int]:
    """Converts every file; returns the problems in each file that was written."""
    rows: defaultdict[str, list[dict[str, str]]] = defaultdict(list)
    files = sorted([*source.glob("*/train.parquet"), *source.glob("*/val.parquet")])
    if not files:
        raise SystemExit(f"{source} holds no NAME/train.parquet or NAME/val.parquet")
    for file in files:
        for record in pq.read_table(file).to_pylist():
            name = file.parent.name if file.stem == "train" else record["data_source"]
            rows[name].append(problem_of(record))
    target.mkdir(parents=True, exist_ok=True)
    written = {}
    for name, problems in rows.items():
        path = target / f"{name}.jsonl"
        lines = (json.dumps(problem, ensure_ascii=False) + "\n" for problem in problems)
        path.write_text("".join(lines), encoding="utf-8")
        written[path] = len(problems)
    return written


def problem_of(record: dict[str, Any]) -> dict[str, str]:
    """The problem of one record of theirs.

    Its text is `extra_info.problem`; where that is missing, the last message of `prompt`, which
    ends with their line on how to answer.
    """
    extra = record.get("extra_info") or {}
    problem = {
        "problem": extra.get("problem") or record["prompt"][-1]["content"],
        "answer": str(record["reward_model"]["ground_truth"]),
    }
    if extra.get("solution"):
        problem["solution"] = extra["solution"]
    return problem


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("source", type=Path, help="folder of NAME/train.parquet, NAME/val.parquet")
    parser.add_argument("target", type=Path, help="folder for NAME.jsonl")
    arguments = parser.parse_args()
    for path, count in convert(arguments.source, arguments.target).items():
        print(f"{path}: {count} problems")
