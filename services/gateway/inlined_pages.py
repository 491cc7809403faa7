"""Scripts and styles of `pages/` as one text each, for a file that stands by itself.

A module of `pages/` imports only its neighbours, by lines of the form
`import { a, b as c } from "./other.js";`, and exports declarations. Each becomes a function that
returns its exports, in the order in which they need one another.
"""

import re
from pathlib import Path

_FOLDER = Path(__file__).with_name("pages")
_IMPORT = re.compile(r'^import \{([^}]*)\} from "\./([a-z_]+)\.js";\n', re.MULTILINE)
_EXPORT = re.compile(r"^export ((?:async )?function|class|const) (\w+)", re.MULTILINE)


def inlined_script(entry: str, names: tuple[str, ...], folder: Path = _FOLDER) -> str:
    """A module with all that it imports, for one `<script>`.

    Args:
        entry: its file, such as `token_view.js`.
        names: of its exports, which the script then has as constants.
        folder: where the modules are.

    Raises:
        ValueError: a module imports or exports in another form, or has no such export.
    """
    parts: dict[str, str] = {}
    exported = _add_module(Path(entry).stem, folder, parts)
    if unknown := set(names) - exported:
        raise ValueError(f"{entry} does not export {', '.join(sorted(unknown))}")
    script = "\n".join(parts.values())
    return f'"use strict";\n{script}\nconst {{ {", ".join(names)} }} = {_variable(entry)};\n'


def inlined_styles(*names: str, folder: Path = _FOLDER) -> str:
    """Style sheets as one text, for one `<style>`."""
    return "\n".join((folder / name).read_text(encoding="utf-8") for name in names)


def _add_module(stem: str, folder: Path, parts: dict[str, str]) -> set[str]:
    """Adds a module after those that it imports; gives the names of its exports."""
    text = (folder / f"{stem}.js").read_text(encoding="utf-8")
    exported = {name for _, name in _EXPORT.findall(text)}
    for _, other in _IMPORT.findall(text):
        if other not in parts:
            _add_module(other, folder, parts)
    body = _IMPORT.sub(_constants, _EXPORT.sub(r"\1 \2", text))
    if left := re.search(r"^(import|export)\b.*", body, re.MULTILINE):
        raise ValueError(f"{stem}.js: {left[0]!r} is of a form that cannot be inlined")
    returned = ", ".join(sorted(exported))
    parts[stem] = f"const {_variable(stem)} = (() => {{\n{body}return {{ {returned} }};\n}})();"
    return exported


def _constants(match: re.Match[str]) -> str:
    return f"const {{{match[1].replace(' as ', ': ')}}} = {_variable(match[2])};\n"


def _variable(name: str) -> str:
    return f"module_{Path(name).stem}"
