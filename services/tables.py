"""Tables of figures on the terminal."""

from rich.console import Console
from rich.table import Table


def print_table(table: Table) -> None:
    """Prints a table as wide as its content: a terminal folds its lines, but no figure is cut."""
    console = Console()
    whole = console.options.update(max_width=100_000)
    console.width = max(console.width, console.measure(table, options=whole).maximum)
    console.print(table, soft_wrap=True)
