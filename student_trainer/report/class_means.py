"""On which tokens the signals fall: means by token class over all rollouts that a run kept."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from student_trainer.report.bars import bar
from student_trainer.report.formatting import number, percent

OTHER = "other"
"""Name of the class of the tokens that no other class has."""


@dataclass(frozen=True, slots=True)
class ClassMean:
    """The signals on the tokens of one class."""

    name: str
    tokens: int
    """Tokens that have the one-sided signal."""
    one_sided: float
    """Mean |e_c| per token."""
    one_sided_share: float
    """Share of the sum of |e_c| over all tokens that falls on this class."""
    contrast: float | None
    """Mean |e_ctr| per token; None where the method has no contrast."""
    contrast_share: float | None
    """Share of the sum of |e_ctr|."""


def class_means(rows: Iterable[Mapping[str, Any]]) -> list[ClassMean]:
    """The signals by token class, over the tokens that have the signal.

    Args:
        rows: Rollouts, with the class of each token.

    Returns:
        One entry for each class that has a signal, `OTHER` last; empty without any signal.
    """
    sizes: dict[str, dict[str, list[float]]] = {"e_c": {}, "e_ctr": {}}
    for row in rows:
        classes = row.get("token_classes") or [OTHER] * len(row["tokens"])
        for signal, by_class in sizes.items():
            for name, value in zip(classes, row.get(signal) or (), strict=False):
                if value is not None:
                    by_class.setdefault(name, []).append(abs(value))
    totals = {signal: sum(map(sum, found.values())) or 1.0 for signal, found in sizes.items()}
    means = []
    for name in sorted(sizes["e_c"], key=lambda name: name == OTHER):
        one_sided, contrast = sizes["e_c"][name], sizes["e_ctr"].get(name)
        means.append(
            ClassMean(
                name,
                len(one_sided),
                sum(one_sided) / len(one_sided),
                sum(one_sided) / totals["e_c"],
                sum(contrast) / len(contrast) if contrast else None,
                sum(contrast) / totals["e_ctr"] if contrast else None,
            )
        )
    return means


def has_signal(rows: Iterable[Mapping[str, Any]], signal: str) -> bool:
    """Whether any of the rollouts carries a signal."""
    return any(value is not None for row in rows for value in row.get(signal) or ())


def class_means_html(rows: Sequence[Mapping[str, Any]]) -> str:
    """The means in words and as a table; empty for rollouts without a signal."""
    means = class_means(rows)
    if not means:
        return ""
    contrasts = [mean.contrast for mean in means if mean.contrast is not None]
    heads = ["tokens", "number"]
    heads += ["mean |e_ctr|", "share"] if contrasts else []
    heads += ["mean |e_c|", "share"]
    top_contrast = max(contrasts, default=None)
    top_one_sided = max(mean.one_sided for mean in means)
    return (
        f"<p>{_in_words(means)} Means per token over all rollouts kept, and each kind’s share of a "
        'signal’s total:</p><div class="scroll"><table><thead><tr>'
        + "".join(f'<th scope="col">{head}</th>' for head in heads)
        + "</tr></thead><tbody>"
        + "".join(_row(mean, top_contrast, top_one_sided) for mean in means)
        + "</tbody></table></div>"
    )


def _in_words(means: Sequence[ClassMean]) -> str:
    named = [mean for mean in means if mean.name != OTHER] or means
    if any(mean.contrast is not None for mean in means):
        main = max(named, key=lambda mean: mean.contrast_share or 0.0)
        return (
            f"{percent(main.contrast_share or 0.0)} of the contrast falls on {escape(main.name)} "
            f"tokens, against {percent(main.one_sided_share)} of the one-sided signal."
        )
    main = max(named, key=lambda mean: mean.one_sided_share)
    return (
        f"{percent(main.one_sided_share)} of the one-sided signal falls on "
        f"{escape(main.name)} tokens."
    )


def _row(mean: ClassMean, top_contrast: float | None, top_one_sided: float) -> str:
    def cells(value: float | None, share: float | None, top: float) -> str:
        if value is None or share is None:
            return "<td>–</td><td>–</td>"
        return f"<td>{bar(number(value), value, top)}</td><td>{percent(share)}</td>"

    contrast = (
        "" if top_contrast is None else cells(mean.contrast, mean.contrast_share, top_contrast)
    )
    return (
        f'<tr><th scope="row">{escape(mean.name)}</th><td>{number(mean.tokens)}</td>'
        f"{contrast}{cells(mean.one_sided, mean.one_sided_share, top_one_sided)}</tr>"
    )
