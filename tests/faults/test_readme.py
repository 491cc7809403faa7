"""The table of faults names tests that exist."""

import ast
import re
from pathlib import Path

HERE = Path(__file__).parent
FAULTS = 22


def test_every_row_names_tests_that_exist() -> None:
    rows = re.findall(r"^\| (?!fault |-).*$", (HERE / "README.md").read_text(), re.MULTILINE)
    assert len(rows) == FAULTS
    for row in rows:
        named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", row)
        assert named, row
        for file, name in named:
            tree = ast.parse((HERE.parents[1] / file).read_text(encoding="utf-8"))
            assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}


def test_every_test_of_this_folder_is_named() -> None:
    table = (HERE / "README.md").read_text()
    about_the_tests = {"test_readme.py", "test_the_clock_of_these_processes_is_really_off"}
    tests = {
        (file.name, node.name)
        for file in HERE.glob("test_*.py")
        for node in ast.parse(file.read_text(encoding="utf-8")).body
        if isinstance(node, ast.FunctionDef) and node.name.startswith("test_")
    }
    for file, name in tests:
        assert about_the_tests & {file, name} or f"{file}::{name}`" in table
