import itertools
import re
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from student_trainer.comparison.figures import Mean
from student_trainer.comparison.plots import (
    COLOURS,
    Course,
    Panel,
    bar_plot,
    dot_plot,
    line_plot,
)

SVG = "{http://www.w3.org/2000/svg}"


def test_every_line_has_its_band_its_name_and_its_look() -> None:
    courses = [
        Course(f"method {index}", [(0, Mean(0.4, 0.1, 3)), (10, Mean(0.5 + index / 50, 0.1, 3))])
        for index in range(9)
    ]
    picture = ElementTree.fromstring(line_plot("Accuracy", courses))
    lines = picture.findall(f"{SVG}polyline")
    looks = {(line.get("stroke"), line.get("stroke-dasharray")) for line in lines}
    assert len(looks) == len(lines) == len(picture.findall(f"{SVG}polygon")) == 9
    assert {line.get("stroke") for line in lines} == set(COLOURS[:9])
    names = {text.text: float(text.get("y", "")) for text in picture.findall(f"{SVG}text")}
    heights = sorted(y for name, y in names.items() if name and name.startswith("method"))
    assert all(below - above >= 12.9 for above, below in itertools.pairwise(heights))
    assert heights[-1] < 360


def test_a_band_is_one_standard_error_to_each_side() -> None:
    picture = line_plot("x", [Course("a", [(0, Mean(1.0, 0.5, 2)), (4, Mean(1.0, None, 1))])])
    found = re.search(r'<polygon points="([^"]*)"', picture)
    assert found is not None
    heights = [float(place.split(",")[1]) for place in found[1].split()]
    line = re.search(r'<polyline[^>]* points="([^"]*)"', picture)
    assert line is not None
    middle = float(line[1].split()[0].split(",")[1])
    assert heights[0] - middle == pytest.approx(middle - heights[-1], abs=0.11)
    assert heights[0] > middle
    assert heights[1] == heights[2] == middle  # a single run has no band


numbers = st.floats(-1e6, 1e6, allow_nan=False)
means = st.builds(Mean, numbers, st.none() | st.floats(0, 1e3), st.just(2))


@given(
    st.lists(means, min_size=1, max_size=9),
    st.text(st.characters(codec="utf-8", exclude_categories=["Cc", "Cs"]), max_size=8),
)
def test_whatever_the_figures_the_pictures_are_well_formed(values: list[Mean], name: str) -> None:
    courses = [Course(f"{index}{name}", [(1, value)]) for index, value in enumerate(values)]
    rows = [course.name for course in courses]
    panel = Panel(name, {row: {"style": value} for row, value in zip(rows, values, strict=True)})
    sized = Panel(
        name,
        {
            row: {"task": Mean(abs(value.mean), value.stderr, 2)}
            for row, value in zip(rows, values, strict=True)
        },
    )
    for picture in (
        line_plot(name, courses),
        dot_plot(panel, rows, ("style", "task"), reference=0.5),
        bar_plot([sized, Panel(name, {})], rows),
    ):
        ElementTree.fromstring(picture)


def test_a_row_without_figures_says_so() -> None:
    panel = Panel("|e_ctr|", {"rlcsd": {"style": Mean(0.02, 0.01, 3)}})
    picture = bar_plot([panel], ["rlcsd", "opsd"])
    assert picture.count(">none<") == 1
    assert ">0.02<" in picture
