/** Tabs after the ARIA pattern: arrow keys move, Home and End go to the ends. */

/** @param {Element} tablist whose tabs name their panels by aria-controls. */
export function makeTabs(tablist) {
  const tabs = () => [...tablist.querySelectorAll('[role="tab"]')].filter((tab) => !tab.hidden);
  tablist.addEventListener("click", (event) => {
    const tab = event.target.closest('[role="tab"]');
    if (tab) selectTab(tab);
  });
  tablist.addEventListener("keydown", (event) => {
    const all = tabs();
    const here = all.indexOf(document.activeElement);
    const targets = { ArrowLeft: here - 1, ArrowRight: here + 1, Home: 0, End: all.length - 1 };
    if (!(event.key in targets)) return;
    event.preventDefault();
    const tab = all[(targets[event.key] + all.length) % all.length];
    selectTab(tab);
    tab.focus();
  });
}

/** Shows a tab's panel and hides those of the others. */
export function selectTab(tab) {
  for (const other of tab.closest('[role="tablist"]').querySelectorAll('[role="tab"]')) {
    const chosen = other === tab;
    other.setAttribute("aria-selected", String(chosen));
    other.tabIndex = chosen ? 0 : -1;
    document.getElementById(other.getAttribute("aria-controls")).hidden = !chosen;
  }
}
