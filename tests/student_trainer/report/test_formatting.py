import pytest

from student_trainer.report.formatting import duration, number, percent


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (0.0, "0"),
        (12_345_678, "12,345,678"),
        (-3, "−3"),
        (3.14159, "3.142"),
        (0.5, "0.5"),
        (1234.56, "1,235"),
        (98765.4, "98,770"),
        (9999.96, "10,000"),
        (0.00012345, "0.0001234"),
        (-0.0871234, "−0.08712"),
        (1.5e-7, "1.500e−07"),
    ],
)
def test_numbers_have_four_significant_digits(value: float, text: str) -> None:
    assert number(value) == text


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.26, "0.3 s"), (59.9, "59.9 s"), (231.4, "3 min 51 s"), (3_720, "1 h 2 min")],
)
def test_durations(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_percent() -> None:
    assert percent(0.4478) == "44.8%"
    assert percent(-0.021) == "−2.1%"
