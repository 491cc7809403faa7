"""Figures as people read them: 4 significant digits, thousands separators, a real minus sign."""

import math

_DIGITS = 4


def number(value: float) -> str:
    """A number; whole numbers are shown whole, trailing zeros left out."""
    if value == int(value):
        text = f"{int(value):,}"
    else:
        decimals = _DIGITS - 1 - math.floor(math.log10(abs(value)))
        if decimals > 2 * _DIGITS:
            text = f"{value:.{_DIGITS - 1}e}"
        else:
            text = f"{round(value, decimals):,.{max(decimals, 0)}f}"
            text = text.rstrip("0").rstrip(".") if decimals > 0 else text
    return text.replace("-", "−")


def counted(value: float, unit: str) -> str:
    """A number with its unit, in the plural unless it is 1."""
    return f"{number(value)} {unit}" if value == 1 else f"{number(value)} {unit}s"


def percent(share: float) -> str:
    """A share of 1 in per cent, to a tenth."""
    return f"{share * 100:.1f}%".replace("-", "−")


def duration(seconds: float) -> str:
    """A time span."""
    if seconds < 60:
        return f"{number(round(seconds, 1))} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if hours else f"{minutes} min {rest} s"
