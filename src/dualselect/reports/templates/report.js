"use strict";
(() => {
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const remembered = (() => { try { return localStorage.getItem("dualselect-theme"); } catch { return null; } })();
  if (remembered === "light" || remembered === "dark") root.dataset.theme = remembered;
  document.getElementById("theme").addEventListener("click", () => {
    const now = root.dataset.theme || (dark.matches ? "dark" : "light");
    root.dataset.theme = now === "dark" ? "light" : "dark";
    try { localStorage.setItem("dualselect-theme", root.dataset.theme); } catch { /* it lasts for this page alone */ }
  });

  const links = new Map([...document.querySelectorAll(".top nav a")].map(a => [a.hash.slice(1), a]));
  const here = new IntersectionObserver(entries => {
    for (const entry of entries) {
      if (!entry.isIntersecting) continue;
      for (const [id, link] of links) {
        if (id === entry.target.id) link.setAttribute("aria-current", "true");
        else link.removeAttribute("aria-current");
      }
      const link = links.get(entry.target.id), bar = link.closest("nav");
      bar.scrollLeft = link.offsetLeft - bar.clientWidth / 2 + link.offsetWidth / 2;
    }
  }, { rootMargin: "-20% 0px -75% 0px" });
  for (const id of links.keys()) here.observe(document.getElementById(id));

  // Boxes that scroll sideways must be reachable with the keyboard, but only while they do.
  const boxes = [...document.querySelectorAll(".scroll")];
  const mark = () => boxes.forEach(box => {
    if (box.scrollWidth > box.clientWidth) { box.tabIndex = 0; box.setAttribute("role", "region"); box.setAttribute("aria-label", "Table, scrolls sideways"); }
    else { box.removeAttribute("tabindex"); box.removeAttribute("role"); box.removeAttribute("aria-label"); }
  });
  mark();
  addEventListener("resize", mark);

  const list = document.getElementById("rows");
  if (!list) return;
  const { models, rows, texts, tones } = JSON.parse(document.getElementById("data").textContent);
  const perPage = 10;
  const byId = id => document.getElementById(id);
  const inputs = { q: byId("q"), suite: byId("f-suite"), category: byId("f-category"), verdict: byId("f-verdict"), changed: byId("f-changed") };
  const unfold = byId("unfold");
  let found = rows, page = 0;

  // Texts come from models and data sets: they only ever enter the page as text.
  const make = (tag, name, text) => {
    const element = document.createElement(tag);
    if (name) element.className = name;
    if (text !== undefined) element.textContent = text;
    return element;
  };
  const labelsOf = row => row.answers.flatMap(answer => answer ? answer.verdicts.map(v => `${v.judge}: ${v.label}`) : []);
  const options = (select, values) => {
    for (const value of [...new Set(values)].filter(Boolean).sort()) {
      const option = make("option", "", value);
      option.value = value;
      select.append(option);
    }
    select.parentElement.hidden = select.options.length < 3;
  };
  options(inputs.suite, rows.map(row => row.suite));
  options(inputs.category, rows.map(row => row.category));
  options(inputs.verdict, rows.flatMap(labelsOf));
  inputs.verdict.parentElement.hidden = inputs.verdict.options.length < 2;
  inputs.changed.parentElement.hidden = !rows.some(row => row.changed);

  const searched = new Map();
  const textOf = row => {
    if (!searched.has(row)) searched.set(row, [row.id, row.category, ...(texts ? [row.prompt, row.expected, ...row.answers.map(a => a ? a.text : "")] : labelsOf(row))].join("\n").toLowerCase());
    return searched.get(row);
  };
  const fold = (summary, ...content) => {
    const details = make("details", "fold");
    details.append(make("summary", "", summary), ...content);
    details.open = unfold !== null && unfold.checked;
    return details;
  };
  const passage = (text, name) => {
    const element = make("p", name, text);
    element.dir = "auto";
    return element;
  };
  const answerBox = (answer, model) => {
    const box = make("div", "answer");
    const head = make("div", "answer-head");
    const dot = make("span", `dot d${model.series}`);
    head.append(dot, make("b", "", model.name));
    for (const verdict of answer.verdicts) {
      const chip = make("span", `chip ${tones[verdict.label] || ""}`);
      if (answer.verdicts.length > 1) chip.append(make("i", "", `${verdict.judge} `));
      chip.append(verdict.label);
      chip.title = verdict.judge;
      head.append(chip);
    }
    box.append(head);
    if (!texts) return box;
    const reasons = answer.verdicts.filter(v => v.why).map(v => make("p", "why", `${v.judge}: ${v.why}`));
    const text = answer.text ? passage(answer.text, "text") : make("p", "text faint", "empty answer");
    if (answer.thought) box.append(fold("What it thought first", passage(answer.thought, "text")));
    box.append(...(answer.folded ? [fold("Answer that may harm", text, ...reasons)] : [text, ...reasons]));
    return box;
  };
  const rowBox = row => {
    const box = make("article", "qa");
    const head = make("header", "qa-head");
    head.append(make("span", "", row.suite), make("code", "", row.id));
    if (row.category && !row.id.startsWith(row.category)) head.append(make("span", "", row.category));
    if (row.changed) head.append(make("span", "chip changed", "verdicts differ"));
    const answers = make("div", "answers");
    row.answers.forEach((answer, place) => { if (answer) answers.append(answerBox(answer, models[place])); });
    box.append(head);
    if (texts) {
      const prompt = passage(row.prompt, "prompt");
      box.append(row.folded ? fold("Unsafe request", prompt) : prompt);
    }
    box.append(answers);
    if (row.expected) box.append(fold("Expected answer", passage(row.expected, "text")));
    return box;
  };
  const draw = () => {
    const pages = Math.max(1, Math.ceil(found.length / perPage));
    page = Math.min(Math.max(page, 0), pages - 1);
    list.replaceChildren(...found.slice(page * perPage, (page + 1) * perPage).map(rowBox));
    byId("count").textContent = `${found.length} of ${rows.length} prompts`;
    byId("page").textContent = `${page + 1} / ${pages}`;
    for (const button of document.querySelectorAll("[data-turn]")) {
      button.disabled = button.dataset.turn === "1" ? page >= pages - 1 : page === 0;
    }
  };
  const filter = () => {
    const words = inputs.q.value.toLowerCase().split(/\s+/).filter(Boolean);
    found = rows.filter(row =>
      (!inputs.suite.value || row.suite === inputs.suite.value) &&
      (!inputs.category.value || row.category === inputs.category.value) &&
      (!inputs.verdict.value || labelsOf(row).includes(inputs.verdict.value)) &&
      (!inputs.changed.checked || row.changed) &&
      words.every(word => textOf(row).includes(word)));
    page = 0;
    draw();
  };
  let waiting = 0;
  inputs.q.addEventListener("input", () => { clearTimeout(waiting); waiting = setTimeout(filter, 100); });
  for (const name of ["suite", "category", "verdict", "changed"]) inputs[name].addEventListener("change", filter);
  if (unfold) {
    unfold.parentElement.hidden = !rows.some(row => row.folded);
    unfold.addEventListener("change", draw);
  }
  for (const button of document.querySelectorAll("[data-turn]")) {
    button.addEventListener("click", () => {
      page += Number(button.dataset.turn);
      draw();
      byId("answers").scrollIntoView();
    });
  }
  for (const hidden of document.querySelectorAll(".filters, .pager")) hidden.hidden = false;
  byId("no-script").hidden = true;
  filter();
})();
