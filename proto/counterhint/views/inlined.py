"""Scripts and styles as one text each, for a page that stands by itself.

A module imports only its neighbours and the views here, by lines of the form
`import { a, b as c } from "./other.js";`, and exports declarations. Each becomes a function that
returns its exports, in the order in which they need one another.
"""

import re
from pathlib import Path

from counterhint.views import FOLDER

_IMPORT = re.compile(r'^import \{([^}]*)\} from "\./([a-z_]+)\.js";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export ((?:async )?function|class|const) (\w+)", re.MULTILINE)


def inlined_script(entry: Path) -> str:
    """A module with all that it imports, for one `<script>`.

    Args:
        entry: its file; what it imports stands beside it or among the views.

    Raises:
        ValueError: a module imports or exports in another form.
    """
    parts: dict[str, str] = {}
    _add_module(entry.stem, (entry.parent, FOLDER), parts)
    return '"use strict";\n' + "\n".join(parts.values())


def inlined_styles(*names: str) -> str:
    """Style sheets of the views as one text, for one `<style>`."""
    return "\n".join((FOLDER / name).read_text(encoding="utf-8") for name in names)


def _add_module(stem: str, folders: tuple[Path, ...], parts: dict[str, str]) -> None:
    """Adds a module after those that it imports."""
    files = [folder / f"{stem}.js" for folder in folders]
    text = next(file for file in files if file.is_file()).read_text(encoding="utf-8")
    for _, other in _IMPORT.findall(text):
        if other not in parts:
            _add_module(other, folders, parts)
    exported = [name for _, name in _EXPORT.findall(text)]
    body = _IMPORT.sub(_constants, _EXPORT.sub(r"\1 \2", text))
    if left := re.search(r"^(import|export)\b.*", body, re.MULTILINE):
        raise ValueError(f"{stem}.js: {left[0]!r} is of a form that cannot be inlined")
    returned = ", ".join(exported)
    parts[stem] = f"const module_{stem} = (() => {{\n{body}return {{ {returned} }};\n}})();"


def _constants(match: re.Match[str]) -> str:
    return f"const {{{match[1].replace(' as ', ': ')}}} = module_{match[2]};\n"
