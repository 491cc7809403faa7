"use strict";
(() => {
  const SVG = "http://www.w3.org/2000/svg";
  const byId = (id) => document.getElementById(id);

  /** An element with properties and children; text is always set as text. */
  function element(name, properties = {}, ...children) {
    const made = Object.assign(document.createElement(name), properties);
    made.append(...children);
    return made;
  }

  /** 4 significant digits with thousands separators, or a dash for what is missing. */
  function number(value) {
    if (value === null || value === undefined) return "–";
    const small = value !== 0 && Math.abs(value) < 1e-5;
    const text = small
      ? value.toExponential(3)
      : value.toLocaleString("en", { maximumSignificantDigits: 4 });
    return text.replaceAll("-", "−");
  }

  // Charts: the step pointed at is shown in all of them.

  const charts = [...document.querySelectorAll(".chart")].map((figure) => ({
    figure,
    data: JSON.parse(figure.dataset.chart),
    output: figure.querySelector("output"),
    latest: figure.querySelector("output").textContent,
    cursor: figure.querySelector(".cursor"),
    box: figure.querySelector("svg"),
  }));
  const steps = [
    ...new Set(charts.flatMap((c) => c.data.series.flatMap((s) => s.points.map((p) => p[0])))),
  ].sort((a, b) => a - b);

  function showStep(step) {
    for (const { data, output, latest, cursor } of charts) {
      cursor.replaceChildren();
      if (step === null) {
        output.textContent = latest;
        continue;
      }
      const found = data.series
        .map((series, index) => [series.label, series.points.find((p) => p[0] === step), index])
        .filter(([, point]) => point);
      output.textContent = [`step ${number(step)}`]
        .concat(found.map(([label, point]) => `${label} ${number(point[1])}`))
        .join(" · ");
      if (found.length === 0) continue;
      const x = found[0][1][2];
      draw(cursor, "line", { x1: x, x2: x, y1: data.y[0], y2: data.y[1] });
      for (const [, point, index] of found) {
        draw(cursor, "circle", { class: `dot s${index}`, cx: x, cy: point[3], r: 4 });
      }
    }
  }

  function draw(parent, name, attributes) {
    const made = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
    parent.append(made);
  }

  function ownSteps(chart) {
    return chart.data.series.flatMap((series) => series.points.map((point) => point[0]));
  }

  for (const chart of charts) {
    let place = null;
    chart.figure.addEventListener("pointermove", (event) => {
      const box = chart.box.getBoundingClientRect();
      const [left, right] = chart.data.x;
      const x = ((event.clientX - box.left) / box.width) * chart.box.viewBox.baseVal.width;
      const wanted = ((x - left) / (right - left)) * chart.data.last;
      showStep(
        ownSteps(chart).reduce((a, b) => (Math.abs(b - wanted) < Math.abs(a - wanted) ? b : a)),
      );
    });
    chart.figure.addEventListener("pointerleave", () => showStep(null));
    chart.figure.addEventListener("blur", () => showStep(null));
    chart.figure.addEventListener("keydown", (event) => {
      const moves = { ArrowLeft: -1, ArrowRight: 1 };
      if (!(event.key in moves)) return;
      event.preventDefault();
      const from = place === null ? steps.length : place;
      place = Math.min(Math.max(from + moves[event.key], 0), steps.length - 1);
      showStep(steps[place]);
    });
  }

  // Rollouts.

  const { rollouts, scales } = JSON.parse(byId("data").textContent);
  if (rollouts.length === 0) return;
  // The signals that this run's rollouts carry; without any, the text stands in one plain panel.
  const SIGNALS = ["e_ctr", "e_c"].filter((signal) => scales[signal] !== null);
  const PANELS = SIGNALS.length ? SIGNALS : ["text"];
  for (const name of ["e_ctr", "e_c", "text"]) byId(`panel-${name}`).hidden = !PANELS.includes(name);
  byId("panels").classList.toggle("single", PANELS.length === 1);
  byId("scale-choice").hidden = SIGNALS.length < 2;
  byId("marks").hidden = SIGNALS.length === 0;
  const pick = {
    step: byId("pick-step"),
    outcome: byId("pick-outcome"),
    rollout: byId("pick-rollout"),
  };
  let current = 0;

  function chosen() {
    return rollouts
      .map((rollout, index) => ({ rollout, index }))
      .filter(({ rollout }) => pick.step.value === "all" || rollout.step === +pick.step.value)
      .filter(
        ({ rollout }) =>
          pick.outcome.value === "all" || rollout.correct === (pick.outcome.value === "right"),
      );
  }

  function listSteps() {
    const steps = [...new Set(rollouts.map((rollout) => rollout.step))];
    pick.step.replaceChildren(
      element("option", { value: "all" }, "all steps"),
      ...steps.map((step) => element("option", { value: step }, number(step))),
    );
  }

  function listRollouts() {
    const found = chosen();
    pick.rollout.replaceChildren(
      ...found.map(({ rollout, index }) =>
        element(
          "option",
          { value: index },
          `${rollout.correct ? "✓" : "✗"} step ${rollout.step}: ${rollout.problem}`.slice(0, 120),
        ),
      ),
    );
    if (found.length === 0) {
      pick.rollout.append(element("option", { value: "" }, "none such"));
      updateButtons();
      return;
    }
    show(found.some(({ index }) => index === current) ? current : found[0].index);
  }

  function show(index) {
    current = index;
    pick.rollout.value = index;
    const rollout = rollouts[index];
    byId("rollout-facts").replaceChildren(
      fact("Verdict", element("span", { className: `verdict ${rollout.correct ? "right" : "wrong"}` },
        rollout.correct ? "✓ right" : "✗ wrong")),
      fact("Its answer", rollout.response_answer ?? "none found"),
      fact("Reference answer", rollout.answer ?? "–"),
      fact("Advantage", number(rollout.advantage)),
      fact("Step", number(rollout.step)),
      fact("Problem id", rollout.problem_id ?? "–"),
      fact("Tokens", number(rollout.tokens.length)),
    );
    byId("problem").textContent = rollout.problem;
    byId("no-signal").hidden = SIGNALS.every((signal) => some(rollout[signal]));
    byId("no-signal").textContent =
      "The teacher did not score this rollout: there was no legal hint for it.";
    byId("mark-selected").hidden = !some(rollout.selected);
    for (const name of PANELS) showTokens(rollout, name);
    showHints(rollout);
    focusToken(strongest(rollout), null);
    const panel = byId(`tokens-${PANELS[0]}`);
    panel.scrollTop = panel.querySelector(".current").offsetTop - panel.clientHeight / 2;
    updateButtons();
  }

  function some(values) {
    return values.some((value) => value !== null);
  }

  function fact(name, value) {
    return element("div", {}, element("dt", {}, name), element("dd", {}, value));
  }

  function scaleOf(signal) {
    const known = SIGNALS.map((name) => scales[name]).filter((scale) => scale);
    return byId("one-scale").checked && known.length ? Math.max(...known) : scales[signal];
  }

  function showTokens(rollout, panel) {
    const coloured = SIGNALS.includes(panel);
    const scale = coloured ? scaleOf(panel) : null;
    if (coloured) {
      const [low, high] = byId(`legend-${panel}`).querySelectorAll("span");
      low.textContent = scale ? number(-scale) : "";
      high.textContent = scale ? `+${number(scale)}` : "";
    }
    byId(`tokens-${panel}`).replaceChildren(
      ...rollout.tokens.flatMap((text, index) => {
        const value = coloured ? rollout[panel][index] : 0;
        const shown = visible(text.replace(/^ +| +$/g, "") || text);
        const token = element("span", { className: "token", tabIndex: -1 }, shown);
        token.dataset.index = index;
        if (/^ +\S/.test(text)) token.classList.add("apart");
        if (value === null) token.classList.add("missing");
        else token.classList.add(value < 0 ? "negative" : "positive");
        if (rollout.selected[index]) token.classList.add("selected");
        const share = scale ? Math.min(Math.abs(value ?? 0) / scale, 1) : 0;
        token.style.setProperty("--share", `${(100 * share).toFixed(1)}%`);
        const name = text.trim() || "blank";
        token.setAttribute("aria-label", coloured ? `${name}: ${number(value)}` : name);
        token.setAttribute("role", "button");
        return text.includes("\n") ? [token, element("br")] : [token];
      }),
    );
  }

  /** A token's text with its line ends and outer blanks to be seen. */
  function visible(text) {
    const shown = text.replaceAll("\n", "↵").replaceAll("\t", "⇥");
    return shown.trim() === "" ? shown.replaceAll(" ", "␣") || "∅" : shown;
  }

  function strongest(rollout) {
    if (SIGNALS.length === 0) return 0;
    const sizes = rollout[SIGNALS[0]].map((value) => Math.abs(value ?? 0));
    return sizes.indexOf(Math.max(...sizes));
  }

  /** Shows a token's figures, marks it in both panels, and focuses it in `panel` if given. */
  function focusToken(index, panel) {
    const rollout = rollouts[current];
    for (const name of PANELS) {
      for (const token of byId(`tokens-${name}`).querySelectorAll(".token")) {
        const here = +token.dataset.index === index;
        token.classList.toggle("current", here);
        token.tabIndex = here ? 0 : -1;
        if (here && panel === byId(`tokens-${name}`)) token.focus();
      }
    }
    byId("token").replaceChildren(
      element(
        "h3", {},
        element("code", {}, visible(rollout.tokens[index])),
        ` token ${number(index + 1)} of ${number(rollout.tokens.length)}, id ${rollout.token_ids[index]}`,
      ),
      element("div", { className: "token-facts" }, branches(rollout, index), signals(rollout, index)),
    );
  }

  function branches(rollout, index) {
    const hinted = rollout.hints.correct !== null;
    const rows = [
      [hinted ? "student, no hint" : "student", rollout.student],
      [hinted ? "correct hint" : "teacher", rollout.correct_hint],
      ...rollout.wrong_hints.map((branch, k) => [`wrong hint ${k + 1}`, branch]),
    ].filter(([, branch]) => some(branch)).map(([name, branch]) => {
      const value = branch[index];
      const missing = value === null || value === undefined;
      const probability = missing ? 0 : 100 * Math.exp(value);
      const bar = element("span", { className: "bar" }, missing ? "–" : `${probability.toFixed(1)}%`);
      bar.style.setProperty("--w", `${probability.toFixed(1)}%`);
      return element("tr", {}, rowHead(name), cell(number(value)),
        element("td", { className: "probability" }, bar));
    });
    const head = ["read with", "log prob", "probability"].map((text) =>
      element("th", { scope: "col" }, text));
    return element("table", {}, element("thead", {}, element("tr", {}, ...head)),
      element("tbody", {}, ...rows));
  }

  function signals(rollout, index) {
    const selected = rollout.selected[index];
    const rows = [
      ["kind of token", rollout.token_classes[index] ?? "–", true],
      ["contrast e_ctr", number(rollout.e_ctr[index]), some(rollout.e_ctr)],
      ["one-sided e_c", number(rollout.e_c[index]), some(rollout.e_c)],
      ["advantage", number(rollout.advantage), true],
      ["changed by the signal", selected ? "yes" : "no", some(rollout.selected)],
      ["advantage, changed", number(rollout.modulated[index]), some(rollout.modulated)],
    ].filter(([, , applies]) => applies)
      .map(([name, value]) => element("tr", {}, rowHead(name), cell(value)));
    const head = element("tr", {}, element("th", { scope: "col" }, "signal"),
      element("th", { scope: "col" }, "value"));
    return element("table", {}, element("thead", {}, head), element("tbody", {}, ...rows));
  }

  function rowHead(text) {
    return element("th", { scope: "row" }, text);
  }

  function cell(text) {
    return element("td", {}, text);
  }

  function showHints(rollout) {
    const hints = [];
    if (rollout.hints.correct !== null) hints.push(["Correct hint", rollout.hints.correct]);
    rollout.hints.wrong.forEach((text, k) => hints.push([`Wrong hint ${k + 1}`, text]));
    byId("hints").replaceChildren(
      ...hints.map(([title, text]) =>
        element("details", {}, element("summary", {}, title), element("pre", {}, text))),
    );
  }

  function updateButtons() {
    const places = chosen().map(({ index }) => index);
    const place = places.indexOf(current);
    byId("previous").disabled = place <= 0;
    byId("next").disabled = place < 0 || place === places.length - 1;
  }

  function move(by) {
    const places = chosen().map(({ index }) => index);
    const target = places[places.indexOf(current) + by];
    if (target !== undefined) show(target);
  }

  for (const name of PANELS) {
    const panel = byId(`tokens-${name}`);
    // Both panels break their lines at the same places, so they can scroll as one.
    panel.addEventListener("scroll", () => {
      for (const other of PANELS) byId(`tokens-${other}`).scrollTop = panel.scrollTop;
    });
    const tokenOf = (event) => event.target.closest(".token");
    panel.addEventListener("pointerover", (event) => {
      if (tokenOf(event)) focusToken(+tokenOf(event).dataset.index, null);
    });
    panel.addEventListener("click", (event) => {
      if (tokenOf(event)) focusToken(+tokenOf(event).dataset.index, panel);
    });
    panel.addEventListener("keydown", (event) => {
      if (!tokenOf(event)) return;
      const last = rollouts[current].tokens.length - 1;
      const here = +tokenOf(event).dataset.index;
      const targets = { ArrowLeft: here - 1, ArrowRight: here + 1, Home: 0, End: last };
      if (!(event.key in targets)) return;
      event.preventDefault();
      focusToken(Math.min(Math.max(targets[event.key], 0), last), panel);
    });
  }
  byId("previous").addEventListener("click", () => move(-1));
  byId("next").addEventListener("click", () => move(1));
  byId("one-scale").addEventListener("change", () => show(current));
  pick.step.addEventListener("change", listRollouts);
  pick.outcome.addEventListener("change", listRollouts);
  pick.rollout.addEventListener("change", () => {
    if (pick.rollout.value !== "") show(+pick.rollout.value);
  });

  listSteps();
  listRollouts();
})();
