"""The scores of a file, kept in parts until all is done, so that a stop costs little."""

import json
import shutil
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from counterhint.errors import InputError

_FLOATS = pa.list_(pa.float32())
SCHEMA = pa.schema(
    {
        "line": pa.int64(),
        "problem_id": pa.string(),
        "correct": pa.bool_(),
        "advantage": pa.float64(),
        "token_ids": pa.list_(pa.int32()),
        "tokens": pa.list_(pa.string()),
        "student": _FLOATS,
        "correct_hint": _FLOATS,
        "wrong_hints": pa.list_(_FLOATS),
        "e_c": _FLOATS,
        "e_ctr": _FLOATS,
        "residual": _FLOATS,
        "selected": pa.list_(pa.bool_()),
        "modulated": _FLOATS,
        "weights_revision": pa.string(),
        "reason": pa.string(),
    }
)
"""A row a rollout, its lists `[T]`; `line` is that of the input, from 1. What does not apply is
null, and a token without a number is null. `reason` says why a rollout has no scores at all."""


class ScoreParts:
    """Parts of the output beside the file that they become.

    Args:
        out: the file at the end.
        settings: all that scores depend on; parts of other settings are not gone on with.

    Raises:
        InputError: the file is there already, or parts of other settings are.
    """

    def __init__(self, out: Path, settings: Mapping[str, Any]) -> None:
        if out.exists():
            raise InputError(f"--out {out} is there already: remove it, or give another name")
        if not out.parent.is_dir():
            raise InputError(f"--out {out}: there is no folder {out.parent}")
        self._out = out
        self._folder = out.with_name(f"{out.name}.parts")
        self._folder.mkdir(exist_ok=True)
        self._keep(dict(settings))
        self._done = len(list(self._folder.glob("*.parquet")))

    @property
    def done(self) -> int:
        """How many parts there are."""
        return self._done

    def add(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """Keeps one more part."""
        aside = self._folder / "part.new"
        pq.write_table(pa.Table.from_pylist(list(rows), schema=SCHEMA), aside)
        aside.replace(self._folder / f"{self._done:06}.parquet")
        self._done += 1

    def finish(self) -> None:
        """Makes one file of all parts, and removes them."""
        aside = self._out.with_name(f"{self._out.name}.new")
        with pq.ParquetWriter(aside, SCHEMA) as writer:
            for part in sorted(self._folder.glob("*.parquet")):
                writer.write_table(pq.read_table(part, schema=SCHEMA))
        aside.replace(self._out)
        shutil.rmtree(self._folder)

    def _keep(self, settings: dict[str, Any]) -> None:
        file = self._folder / "settings.json"
        if not file.exists():
            aside = self._folder / "settings.new"
            aside.write_text(json.dumps(settings, indent=2))
            aside.replace(file)
            return
        kept = json.loads(file.read_text())
        if other := _differing(kept, settings):
            raise InputError(
                f"{self._folder} holds parts that were scored with "
                f"{', '.join(f'{name}={kept.get(name)}' for name in other)}, not with "
                f"{', '.join(f'{name}={settings.get(name)}' for name in other)}: remove the "
                "folder to begin anew, or give the same again to go on"
            )


def _differing(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterable[str]:
    return sorted(name for name in {*one, *other} if one.get(name) != other.get(name))
