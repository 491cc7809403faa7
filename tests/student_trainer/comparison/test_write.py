import json
import re
from pathlib import Path

import pytest

from counterhint.command_line import EXIT_BAD_INPUT, EXIT_DONE, run_command
from counterhint.errors import InputError
from student_trainer.cli import Report
from student_trainer.comparison import write_comparison

PLOTS = ["accuracy", "reward", "length", "entropy", "signals", "auc"]


def test_everything_is_written(folders: list[Path], tmp_path: Path) -> None:
    out = tmp_path / "out" / "here"
    assert write_comparison(folders, out) == out / "comparison.html"
    files = {"comparison.html", "comparison.json", "comparison.md", "report.html"}
    assert {file.name for file in out.iterdir()} == files | {f"{name}.svg" for name in PLOTS}


def test_the_json_holds_every_figure_by_method_and_seed(
    folders: list[Path], tmp_path: Path
) -> None:
    write_comparison(folders, tmp_path / "out")
    comparison = json.loads((tmp_path / "out" / "comparison.json").read_text())
    grpo, opsd, _ = comparison["methods"]
    assert [run["figures"]["accuracy_after"] for run in grpo["runs"]] == [0.6, 0.8]
    assert [run["folder"] for run in grpo["runs"]] == ["../grpo/seed-0", "../grpo/seed-1"]
    assert grpo["figures"]["accuracy_after"]["n"] == 2
    assert (grpo["accuracy_to_first"], grpo["teacher"]) == (None, None)
    assert opsd["accuracy_to_first"]["mean"] == pytest.approx(-0.35)
    assert [point["step"] for point in opsd["curves"]["accuracy"]] == [0, 4]


def test_the_tables_are_sound_markdown(folders: list[Path], tmp_path: Path) -> None:
    write_comparison(folders, tmp_path / "out")
    text = (tmp_path / "out" / "comparison.md").read_text()
    tables = re.findall(r"(?:^\|.*\|\n)+", text, re.MULTILINE)
    for table in tables:
        columns = {len(re.findall(r"(?<!\\)\|", line)) for line in table.splitlines()}
        assert len(columns) == 1
    assert "| opsd | 2 | 0.350 ± 0.050 | −0.350 ± 0.050 |" in tables[0]
    assert "| opsd | 0.800 ± 0.000 | 0.050 ± 0.000 | 75% | – | – | – |" in tables[1]
    assert "grpo" not in tables[1]  # it has no teacher
    assert all(f"![{name}]({name}.svg)" in text for name in PLOTS)


def test_the_page_needs_no_other_file(folders: list[Path], tmp_path: Path) -> None:
    page = write_comparison(folders, tmp_path / "out").read_text()
    sources = re.findall(r'src="([^"]*)"', page)
    assert len(sources) == len(PLOTS)
    assert all(source.startswith("data:image/svg+xml;base64,") for source in sources)
    assert not re.search(r'<link|@import|src="http', page)


def test_runs_without_signals_are_compared_without_them(
    folders: list[Path], tmp_path: Path
) -> None:
    page = write_comparison(folders[:1], tmp_path / "out").read_text()
    assert "No run has a teacher’s signal." in page
    assert not (tmp_path / "out" / "signals.svg").exists()


def test_a_file_is_no_folder(folders: list[Path], tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(InputError, match="is a file"):
        write_comparison(folders, tmp_path / "out")


def test_the_command_compares_several_runs_in_a_folder(
    folders: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [str(folder) for folder in folders]
    assert run_command(Report, "counterhint report", words) == EXIT_BAD_INPUT
    assert "6 runs: say where their page goes with --out FILE.html" in capsys.readouterr().err
    words += ["--out", str(tmp_path / "out")]
    assert run_command(Report, "counterhint report", words) == EXIT_DONE
    assert capsys.readouterr().out == f"Wrote {tmp_path / 'out' / 'comparison.html'}\n"
