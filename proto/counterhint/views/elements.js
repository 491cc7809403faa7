/** Making elements. Text is only ever set as text, so nothing that is shown can become markup. */

const SVG = "http://www.w3.org/2000/svg";

/**
 * An HTML element.
 *
 * @param {string} name tag name.
 * @param {Object} attributes by name; true stands for an empty value, false and null for none.
 * @param {...(Node|string)} children text is escaped.
 */
export function element(name, attributes = {}, ...children) {
  return furnish(document.createElement(name), attributes, children);
}

/** An SVG element; arguments as for `element`. */
export function drawing(name, attributes = {}, ...children) {
  return furnish(document.createElementNS(SVG, name), attributes, children);
}

function furnish(made, attributes, children) {
  for (const [key, value] of Object.entries(attributes)) {
    if (value === false || value === null || value === undefined) continue;
    made.setAttribute(key, value === true ? "" : value);
  }
  made.append(...children);
  return made;
}

/** A table whose first column heads its rows. `rows` are lists of nodes or strings. */
export function table(caption, headings, rows) {
  return element(
    "table",
    {},
    element("caption", {}, caption),
    element(
      "thead",
      {},
      element("tr", {}, ...headings.map((text) => element("th", { scope: "col" }, text))),
    ),
    element(
      "tbody",
      {},
      ...rows.map(([head, ...cells]) =>
        element(
          "tr",
          {},
          element("th", { scope: "row" }, head),
          ...cells.map((cell) => element("td", {}, cell)),
        ),
      ),
    ),
  );
}

/** A number with a bar behind it; `share` is the bar's length, 0 to 1. */
export function bar(text, share, kind = "") {
  const made = element("span", { class: `bar ${kind}`.trim() }, text);
  made.style.setProperty("--length", `${(100 * Math.min(Math.max(share, 0), 1)).toFixed(1)}%`);
  return made;
}
