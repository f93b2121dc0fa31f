// What the pages do beyond being read: ages, choosers, comparisons, and a cell's chart. Every figure comes from the page's own
// tables or from data/*.js, which hold the stored ones.
"use strict";
(() => {
  const one = (selector, of = document) => of.querySelector(selector);
  const all = (selector, of = document) => [...of.querySelectorAll(selector)];
  const make = (tag, attributes = {}, ...children) => {
    const element = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes)) if (value !== null && value !== undefined) element.setAttribute(name, value);
    element.append(...children);
    return element;
  };
  const query = () => new URLSearchParams(location.search);
  const remember = (values, hash = location.hash) => {
    const words = query();
    for (const [name, value] of Object.entries(values)) value ? words.set(name, value) : words.delete(name);
    const text = words.toString();
    history.replaceState(null, "", `${location.pathname}${text ? `?${text}` : ""}${hash}`);
  };
  const unknown = (text) => { const place = one(".unknown"); place.textContent = text; place.hidden = !text; };
  const chooser = (name, values, chosen, changed, words = {}) => {
    const select = make("select", { name });
    for (const value of values) select.append(make("option", { value }, words[value] ?? value));
    select.value = chosen;
    select.addEventListener("change", () => changed(select.value));
    return make("label", {}, `${name} `, select);
  };
  // As tlbench.site.words.spelled: three digits, whole numbers whole.
  const spelled = (value) => {
    if (value === "∞" || value === Infinity) return "∞";
    if (Number.isInteger(value) && Math.abs(value) < 1e6) return String(value);
    const power = Number(value.toExponential(2).split("e")[1]);
    const text = power < -4 || power >= 3 ? value.toExponential(2).replace(/\.?0+e/, "e").replace("e+", "e") : String(Number(value.toPrecision(3)));
    return text.replaceAll("-", "−");
  };
  const breakable = (name) => name.split(/(?<=_)/).flatMap((part) => [part, make("wbr")]);
  const short = (wrapper) => wrapper.replace("HookedTransformer", "Hooked").replace("TransformerBridge", "Bridge");

  // How old the results are, today.
  for (const time of all("time[data-age]")) {
    const days = Math.floor(Date.now() / 864e5) - Math.floor(Date.parse(time.dateTime) / 864e5);
    if (days >= 0) time.textContent += days === 0 ? " (today)" : ` (${days} ${days === 1 ? "day" : "days"} ago)`;
    if (time.dataset.oldDays && days > Number(time.dataset.oldDays)) one(".old").hidden = false;
    if (time.dataset.oldHours && Date.now() - Date.parse(time.dateTime) > Number(time.dataset.oldHours) * 36e5) one(".silent").hidden = false;
  }

  // A figure says all its digits, and a cell its words, under the pointer.
  document.addEventListener("mouseover", ({ target }) => {
    const found = target.closest?.("data[value]:not([title]), .cell[aria-label]:not([title])");
    if (found) found.title = [found.getAttribute("value") ?? found.getAttribute("aria-label"), found.closest("td[title]")?.title].filter(Boolean).join("; ");
  });

  // A grid is one tab stop, in which the arrow keys move; a table that does not scroll is none.
  const fade = (scroll) => scroll.classList.toggle("more", getComputedStyle(scroll).direction === "ltr" && scroll.scrollLeft + scroll.clientWidth < scroll.scrollWidth - 1);
  const stops = () => {
    for (const scroll of all(".scroll")) scroll.scrollWidth > scroll.clientWidth + 1 ? scroll.setAttribute("tabindex", "0") : scroll.removeAttribute("tabindex");
    all(".scroll").forEach(fade);
    for (const grid of all(".grid")) { const links = all("a", grid); if (links.length && !links.some((link) => link.tabIndex < 0)) for (const link of links) link.tabIndex = link === one("tbody td a", grid) ? 0 : -1; }
  };
  document.addEventListener("focusin", ({ target }) => {
    const grid = target.closest(".grid");
    if (grid && target.matches("a")) for (const link of all("a[tabindex='0']", grid)) link.tabIndex = link === target ? 0 : -1;
    if (grid && target.matches("a")) target.tabIndex = 0;
  });
  document.addEventListener("keydown", (event) => {
    const [down, right] = { ArrowUp: [-1, 0], ArrowDown: [1, 0], ArrowLeft: [0, -1], ArrowRight: [0, 1] }[event.key] ?? [0, 0];
    const from = event.target.closest(".grid th, .grid td"), rows = from?.closest("table").rows;
    if (!from || (!down && !right)) return;
    event.preventDefault();
    let [row, column] = [from.parentElement.rowIndex + down, from.cellIndex + right], next;
    for (; rows[row]?.cells[column]; row += down, column += right) if ((next = one("a", rows[row].cells[column]))) break;
    next?.focus();
  });
  document.addEventListener("scroll", ({ target }) => target.matches?.(".scroll") && fade(target), true);
  addEventListener("resize", stops);
  document.addEventListener("toggle", stops, true);
  stops();

  // Links into a page open what they point at.
  const reveal = () => { const target = location.hash && document.getElementById(location.hash.slice(1)); if (target) for (const details of all("details", target)) details.open = true; };
  addEventListener("hashchange", reveal);
  reveal();

  // "Is it safe?" on the first page, and the answer on a model's.
  const effectOf = (text) => { const match = /^\s*(\d*\.?\d+(?:e[-+]?\d+)?)\s*(nats?|bits?|)\s*$/i.exec(text.replace(",", ".")); const size = match ? Number(match[1]) * (/^bit/i.test(match[2]) ? Math.LN2 : 1) : 0; return size > 0 && size < Infinity ? size : null; };
  one(".effect-form")?.addEventListener("submit", (event) => {
    event.preventDefault();
    const form = event.target;
    location.href = `model/${encodeURIComponent(form.model.value)}.html?effect=${encodeURIComponent(form.effect.value)}&dtype=${encodeURIComponent(form.dtype.value)}`;
  });
  one(".effect-form")?.addEventListener("input", ({ currentTarget: form }) => {
    const effect = effectOf(form.effect.value);
    one("code", form).textContent = effect === null ? "Write a positive number of nats, such as 0.01." : `tlbench advise ${form.model.value} --effect ${effect}nats --dtype ${form.dtype.value}`;
  });
  const here = one(".effect-here");
  if (here) {
    const input = here.effect, chosen = here.dtype, answer = one(".answer");
    const use = (row, effect) => (row.dataset.safeFrom === undefined ? one(".use", row).textContent : Number(row.dataset.safeFrom) <= effect ? "safe" : "not safe");
    const style = (element, text) => { element.textContent = text; element.className = `use u-${text.split(" with ")[0].replaceAll(" ", "-")}`; };
    const tell = () => {
      const effect = effectOf(input.value), said = [];
      answer.hidden = false;
      if (effect === null) { answer.textContent = "Write a positive number of nats, such as 0.01."; return; }
      for (const row of all(".advice tbody tr")) style(one(".use", row), use(row, effect));
      const size = `${input.value.trim()}${/[a-z]/i.test(input.value) ? "" : " nats"}`;
      for (const row of all(".answers tbody tr")) {
        const { dtype } = row.dataset, isAsked = !chosen.value || dtype === chosen.value;
        row.classList.toggle("here", Boolean(chosen.value) && isAsked);
        for (const cell of all("td", row)) {
          const rows = all(`.advice[data-wrapper="${cell.dataset.wrapper}"] tbody tr`).filter((one) => one.dataset.cell.split(" ")[1] === dtype);
          if (!rows.length) continue;
          const uses = rows.map((row) => use(row, effect)), safe = rows.filter((_, i) => uses[i] === "safe").map((row) => row.dataset.cell.split(" ")[2]);
          const worst = ["do not use", "not measured", "not safe", "safe"].find((word) => uses.includes(word));
          style(one(".use", cell), safe.length && worst !== "safe" ? `safe with ${safe.join(", ")} only` : worst);
        }
        // The first column is the newest wrapper's.
        const cell = one("td", row), from = cell.dataset.safeFrom;
        if (isAsked) said.push(`${dtype}: ${one(".use", cell)?.textContent ?? "not measured"} for ${size}${from ? `; safe from ${spelled(Number(from))} nats` : ""}.`);
      }
      for (const head of all("th .effect")) head.textContent = size;
      answer.replaceChildren(said[0] ?? "", make("small", {}, ` ${one(".answers thead th:nth-child(2)").textContent}, any option`));
      answer.hidden = !chosen.value;
      remember({ effect: input.value, dtype: chosen.value });
    };
    here.addEventListener("submit", (event) => { event.preventDefault(); tell(); });
    here.addEventListener("input", tell);
    if (query().get("effect")) input.value = query().get("effect");
    if (query().get("dtype")) chosen.value = query().get("dtype");
    tell();
  }
  if (location.pathname.endsWith("models.html") && query().get("model")) {
    const link = all("main a").find((a) => a.getAttribute("href") === `model/${query().get("model")}.html`);
    if (link) location.replace(`${link.getAttribute("href")}?effect=${encodeURIComponent(query().get("effect") ?? "")}&dtype=${encodeURIComponent(query().get("dtype") ?? "")}`);
    else one(".lead").after(make("p", { class: "loud" }, `No model is called ${query().get("model")}: choose one below.`));
  }

  const commitNamed = (name) => TL.commits.findIndex((commit) => commit.name === name || `v${commit.name}` === name || (name?.length >= 7 && commit.hash.startsWith(name)));
  const stateAt = (cell, commit) => {
    const runs = cell[5];
    let number = runs[1];
    for (let i = 0; i < runs.length && runs[i] <= commit; i += 2) number = runs[i + 1];
    return [cell[4][number], number];
  };
  const verdictOf = (state) => TL.cells.verdicts[state[0]];
  const hasRun = (state) => !["n/a", "not measured"].includes(verdictOf(state)[0]);
  const FIGURES = { verdict: 0, mean: 1, max: 2, "bits lost": 3, R: 4 }, UNITS = { mean: "nats", max: "nats", "bits lost": "bits", R: "× HuggingFace's error" };
  const commitWords = () => Object.fromEntries(TL.commits.map((commit) => [commit.name, `${commit.name} · ${commit.date}${commit.subject && !commit.release ? ` · ${commit.subject.slice(0, 50)}` : ""}`]));
  const newestFirst = () => TL.commits.map((commit) => commit.name).reverse();

  // The matrix of any commit.
  const matrix = one("#matrix");
  if (matrix && window.TL) {
    const state = { commit: query().get("commit"), wrapper: query().get("wrapper") ?? "", figure: query().get("figure") ?? "verdict" };
    const OPTIONS = [["unprocessed", "none"], ["fold_ln", "fold LN"], ["center_writing_weights", "center W"], ["center_unembed", "center U"], ["fold_value_biases", "fold b_V"], ["all_options", "all"]];
    const DTYPES = ["float32", "float16", "bfloat16"];
    const draw = () => {
      let at = state.commit ? commitNamed(state.commit) : TL.commits.length - 1;
      unknown(at < 0 ? `No measured commit is called ${state.commit}: this is the newest one.` : "");
      if (at < 0) at = TL.commits.length - 1;
      const figure = state.figure in FIGURES ? state.figure : "verdict";
      const wrappers = ["HookedTransformer", "TransformerBridge"].filter((wrapper) => (!state.wrapper || wrapper === state.wrapper) && TL.cells.cells.some((cell) => cell[3] === wrapper && hasRun(stateAt(cell, at)[0])));
      matrix.replaceChildren(...wrappers.map((wrapper) => {
        const rows = new Map();
        for (const cell of TL.cells.cells) if (cell[3] === wrapper) { if (!rows.has(cell[0])) rows.set(cell[0], new Map()); rows.get(cell[0]).set(`${cell[1]}.${cell[2]}`, cell); }
        const head = make("tr", {}, make("td"));
        const top = make("tr", {}, make("td"));
        for (const dtype of DTYPES) { top.append(make("th", { colspan: OPTIONS.length, scope: "colgroup" }, dtype)); for (const [option, label] of OPTIONS) head.append(make("th", { scope: "col", class: option === "unprocessed" ? "first" : null }, make("abbr", { title: option }, label))); }
        const body = make("tbody");
        for (const [model, cells] of rows) {
          const row = make("tr", {}, make("th", { scope: "row" }, make("a", { href: `model/${model}.html` }, model)));
          for (const dtype of DTYPES) for (const [option] of OPTIONS) {
            const cell = cells.get(`${dtype}.${option}`), first = option === "unprocessed" ? "first" : null;
            if (!cell) { row.append(make("td", { class: first }, make("span", { class: "cell v-not-measured", role: "img", "aria-label": `${model} ${dtype} ${option}: not measured` }))); continue; }
            const found = stateAt(cell, at)[0], [word, symbol, style] = verdictOf(found), value = found[FIGURES[figure]];
            const shown = figure === "verdict" ? symbol : value === null || value === undefined ? symbol : spelled(value);
            row.append(make("td", { class: first }, make("a", { class: `cell ${style}`, href: `history/${model}.html?commit=${TL.commits[at].name}#${dtype}.${option}`, "aria-label": `${model} ${dtype} ${option}: ${word}${figure !== "verdict" && value !== null ? `, ${figure} ${spelled(value)} ${UNITS[figure]}` : ""}`, "data-value": figure === "verdict" ? null : value, title: word }, figure === "verdict" ? shown : make("span", { class: "value" }, shown))));
          }
          body.append(row);
        }
        const caption = `${wrapper} ${TL.commits[at].name}${figure === "verdict" ? "" : `: ${figure}, ${UNITS[figure]}`}`;
        return make("section", {}, make("h2", {}, caption), make("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": caption }, make("table", { class: "grid matrix", "data-wrapper": wrapper, "data-commit": TL.commits[at].hash.slice(0, 8) }, make("caption", {}, caption), make("thead", {}, top, head), body)));
      }));
      stops();
      if (!wrappers.length) matrix.append(make("p", {}, `Nothing of ${state.wrapper || "either wrapper"} was measured at ${TL.commits[at].name}.`));
    };
    const bar = one("#matrix-chooser");
    const set = (name) => (value) => { state[name] = value; remember({ [name]: value === "verdict" ? "" : value }); draw(); };
    const at = state.commit ? commitNamed(state.commit) : -1;
    bar.append(
      chooser("figure", Object.keys(FIGURES), state.figure, set("figure"), { mean: "mean, nats", max: "max, nats", "bits lost": "bits lost", R: "R, error over HuggingFace's" }),
      chooser("commit", newestFirst(), TL.commits[at < 0 ? TL.commits.length - 1 : at].name, set("commit"), commitWords()),
      chooser("wrapper", ["", "HookedTransformer", "TransformerBridge"], state.wrapper, set("wrapper"), { "": "both" }),
    );
    bar.hidden = false;
    if (location.search) draw();
  }

  // Any two commits, by the rule of tlbench.metrics.change in the words of tlbench.site.changes.
  const CHANGES = ["error grew", "newly failing", "wrong when first measured", "failing when first measured", "error fell", "mended", "still failing", "other rounding", "same bits", "first measured", "no longer applicable", "no longer measured"];
  const WRONG = { worse: 1, broken: 2 }, FIRST_FAULTS = { failed: "failing when first measured", worse: "wrong when first measured", broken: "wrong when first measured" };
  const ALWAYS_COUNTED = ["error grew", "newly failing", "error fell", "mended", "other rounding", "same bits"];
  const ENDED = ["no longer applicable", "no longer measured"], MOST_SAME = 20;
  const changeOf = (before, after, same) => {
    const was = verdictOf(before)[0], now = verdictOf(after)[0];
    if (!hasRun(before) || !hasRun(after)) return [hasRun(after) ? "first measured" : hasRun(before) ? ENDED[now === "n/a" ? 0 : 1] : null, null];
    if (now === "failed") return [was === "failed" ? "still failing" : "newly failing", null];
    if (same) return ["same bits", 0];
    if (was === "failed") return [WRONG[now] ? "error grew" : "mended", null];
    const floor = Math.max(before[5], after[5]); // HuggingFace's own error: below it every error counts as that
    const [old, fresh] = [before[1], after[1]].map((value) => (value === "∞" ? Infinity : value === null ? null : Math.max(value, floor)));
    const bits = old === null || fresh === null ? null : old === fresh ? 0 : !old || !fresh ? (fresh ? Infinity : -Infinity) : Math.log2(fresh / old);
    const wrong = [WRONG[was] ?? 0, WRONG[now] ?? 0];
    if (wrong[1] > wrong[0]) return ["error grew", bits];
    const passes = [before, after].map((state) => verdictOf(state)[3]);
    if (wrong[1] < wrong[0]) return [passes[1] ? "mended" : "error fell", bits];
    if (passes[0] !== passes[1]) return [passes[1] ? "error fell" : "error grew", bits];
    if (bits === null || (!Number.isFinite(bits) && passes[0])) return ["other rounding", null];
    if (Math.abs(bits) < 0.5) return ["other rounding", bits];
    return [bits > 0 ? "error grew" : "error fell", bits];
  };
  const compared = (earlier, later) => {
    const ran = [earlier, later].map((at) => new Set(TL.cells.cells.filter((cell) => hasRun(stateAt(cell, at)[0])).map((cell) => cell[3])));
    const followed = ran[0].size && ran[1].size && ![...ran[0]].some((wrapper) => ran[1].has(wrapper));
    const key = (cell) => `${cell[0]} ${cell[1]} ${cell[2]}`;
    const before = new Map(followed ? TL.cells.cells.filter((cell) => ran[0].has(cell[3])).map((cell) => [key(cell), cell]) : []);
    const found = [];
    for (const cell of TL.cells.cells) {
      if (followed && !ran[1].has(cell[3])) continue;
      const was = followed ? before.get(key(cell)) ?? cell : cell;
      const [a, i] = stateAt(was, earlier), [b, j] = stateAt(cell, later);
      const same = was === cell ? i === j : JSON.stringify(a) === JSON.stringify(b);
      const [kind, bits] = changeOf(a, b, same);
      if (kind) found.push({ kind: kind === "first measured" ? FIRST_FAULTS[verdictOf(b)[0]] ?? kind : kind, bits, was, cell, before: a, after: b });
    }
    return found;
  };
  const comparison = one("#compare");
  if (comparison && window.TL) {
    const explained = JSON.parse(comparison.dataset.explained), words = query();
    const last = TL.commits.length - 1, releases = TL.commits.map((commit, i) => (commit.release ? i : -1)).filter((i) => i >= 0 && i < last);
    const before = releases.at(-1) ?? Math.max(last - 1, 0);
    const state = { from: words.get("from"), to: words.get("to"), model: words.get("model") ?? "", dtype: words.get("dtype") ?? "", option: words.get("option") ?? "", wrapper: words.get("wrapper") ?? "" };
    const word = (found) => { const [name, symbol, style] = verdictOf(found); return make("span", { class: `word ${style}` }, make("span", { class: "sym", "aria-hidden": "true" }, symbol), ` ${name}`); };
    const unmoved = (row) => row.kind === "other rounding" && row.before[2] === 0 && row.after[2] === 0;
    const figure = (value) => (value === null || value === undefined ? "" : make("data", { value }, spelled(value)));
    const draw = () => {
      let from = state.from ? commitNamed(state.from) : before, to = state.to ? commitNamed(state.to) : last;
      unknown([from < 0 && state.from, to < 0 && state.to].filter(Boolean).map((name) => `No measured commit is called ${name}.`).join(" "));
      if (from < 0) from = before;
      if (to < 0) to = last;
      const wanted = (row) => ["model", "dtype", "option", "wrapper"].every((name, i) => !state[name] || row.cell[i] === state[name]);
      const rows = compared(from, to).filter(wanted), [a, b] = [TL.commits[from], TL.commits[to]];
      const counts = make("dl", { class: "counts" });
      const groups = [];
      for (const kind of CHANGES) {
        const every = rows.filter((row) => row.kind === kind), own = ENDED.includes(kind) ? every.filter((row) => !verdictOf(row.before)[3]) : every, id = kind.replaceAll(" ", "-");
        if (every.length || ALWAYS_COUNTED.includes(kind)) counts.append(make("div", { title: explained[kind] }, make("dt", {}, make("a", { href: `#${id}` }, kind)), make("dd", { "data-count": kind }, String(every.length))));
        if (!every.length || (kind === "same bits" && own.length > MOST_SAME)) continue;
        const right = every.length - own.length;
        const body = make("tbody");
        for (const row of own) {
          const [model, dtype, option, wrapper] = row.cell;
          body.append(make("tr", {}, make("th", { scope: "row" }, make("a", { href: `history/${model}.html?commit=${b.name}#${dtype}.${option}` }, `${model} ${dtype} `, ...breakable(option))), make("td", { class: "num" }, unmoved(row) || row.bits === null ? "" : Number.isFinite(row.bits) ? `${row.bits > 0 ? "+" : ""}${row.bits.toFixed(2)}`.replace("-", "−") : row.bits > 0 ? "+∞" : "−∞"), ...[row.before, row.after].map((state) => make("td", {}, word(state), make("span", { class: "sub" }, figure(state[1])))), make("td", {}, row.was[3] === wrapper ? short(wrapper) : `${short(row.was[3])} → ${short(wrapper)}`), make("td", { class: "reason" }, unmoved(row) ? "HuggingFace's own bits moved, and these with them" : "")));
        }
        const head = make("tr", {}, ...["cell", "change, bits", a.name, b.name, "wrapper", "note"].map((name, i) => make("th", { scope: "col", class: i === 1 ? "num" : null }, name, ...([2, 3].includes(i) ? [make("span", { class: "sub" }, "mean, nats")] : []))));
        const table = make("div", { class: "scroll", role: "region", tabindex: "0", "aria-label": kind }, make("table", { class: "plain" }, make("thead", {}, head), body));
        const [model, dtype, option] = every[0].cell;
        const reproduce = make("p", { class: "run" }, "Reproduce the first: ", make("code", {}, `tlbench verify ${model} --tl ${b.name} --dtype ${dtype} --option ${option}`));
        const open = ["error grew", "newly failing", "wrong when first measured", "failing when first measured"].includes(kind) || own.length <= 20;
        groups.push(make("section", { class: "group", id }, make("h3", {}, kind, " ", make("small", {}, `${every.length} ${every.length === 1 ? "cell" : "cells"}`)), make("p", { class: "note" }, `${explained[kind]}.${right ? ` ${right} of them ${right === 1 ? "was" : "were"} right in ${a.name}${own.length ? "; these were not, and nobody mended them" : ""}.` : ""}`), !own.length ? "" : make("details", open ? { open: "" } : {}, make("summary", {}, "Each cell"), table, reproduce)));
      }
      const changed = Object.keys(b.environment).filter((name) => a.environment[name] !== b.environment[name]).map((name) => `${name} ${[a, b].map((commit) => (name === "probe" ? commit.environment[name].slice(0, 8) : commit.environment[name]) || "none").join(" → ")}`);
      const moved = changed.length ? `The environment changed too: ${changed.join(", ")}.` : "Both were measured with the same libraries and arithmetic.";
      if (from === to) comparison.replaceChildren(make("h2", {}, `${a.name} → ${b.name}`), make("p", {}, "This is the same commit twice: choose another one."));
      else comparison.replaceChildren(make("h2", {}, `${a.name} → ${b.name}`), counts, make("p", { class: "note" }, moved), ...groups);
      stops();
    };
    const set = (name) => (value) => { state[name] = value; remember({ [name]: value }); draw(); };
    const bar = one("#compare-chooser");
    const name = (text, otherwise) => { const at = text ? commitNamed(text) : otherwise; return TL.commits[at < 0 ? otherwise : at].name; };
    const different = (i) => ["", ...new Set(TL.cells.cells.map((cell) => cell[i]))];
    const filters = make("details", innerWidth > 720 || ["model", "dtype", "option", "wrapper"].some((kind) => state[kind]) ? { open: "" } : {}, make("summary", {}, "Filter"), ...["model", "dtype", "option", "wrapper"].map((kind, i) => chooser(kind, different(i), state[kind], set(kind), { "": "all" })));
    bar.append(chooser("from", newestFirst(), name(state.from, before), set("from"), commitWords()), chooser("to", newestFirst(), name(state.to, last), set("to"), commitWords()), filters);
    bar.hidden = false;
    if (location.search) draw();
  }

  // One configuration's history, with its chart. The table below it is the data.
  const sections = all(".cell-history");
  if (sections.length && window.TL && window.uPlot) {
    document.body.classList.add("one");
    const bar = one(".chooser"), styles = getComputedStyle(document.documentElement), css = (name) => styles.getPropertyValue(name).trim();
    const NAMES = ["max", "mean", "median", "std"], DRAWN = ["max", "mean"], COLOURS = Object.fromEntries(DRAWN.map((name) => [name, css(`--${name}`)]));
    const WORST_FIRST = ["v-broken", "v-failed", "v-worse", "v-unjudged", "v-benign", "v-same-rounding", "v-exact", "v-no-op", "v-absent"];
    const rank = (word) => WORST_FIRST.findIndex((style) => word.classList.contains(style)), newest = new Map();
    let plots = [];
    const chosen = () => { const id = decodeURIComponent(location.hash.slice(1)); return sections.find((section) => section.id === id); };
    const draw = () => {
      const hash = decodeURIComponent(location.hash.slice(1)), found = chosen(), section = found ?? sections[0];
      const wanted = query().get("wrapper") ?? "", name = query().get("commit"), marked = name ? commitNamed(name) : -1;
      unknown([hash && !found && hash !== "main" ? `There is no configuration ${hash}: this is the first one.` : "", name && marked < 0 ? `No measured commit is called ${name}.` : ""].filter(Boolean).join(" "));
      for (const one of sections) one.classList.toggle("chosen", one === section);
      for (const link of all("nav.cells a")) link.getAttribute("href") === `#${section.id}` ? link.setAttribute("aria-current", "true") : link.removeAttribute("aria-current");
      one("nav.cells .at").textContent = marked < 0 ? "newest" : TL.commits[marked].name;
      for (const link of all("nav.cells a")) {
        // The worst word of each configuration at the marked commit, as the grid was written for the newest one.
        newest.set(link, newest.get(link) ?? [link.className, link.textContent, link.getAttribute("aria-label")]);
        const id = link.getAttribute("href").slice(1), at = sections.find((one) => one.id === id);
        const words = all("tbody tr", at).filter((row) => Number(row.dataset.first) <= marked && marked <= Number(row.dataset.last) && (!wanted || row.dataset.wrapper === wanted)).map((row) => one(".word", row)).sort((a, b) => rank(a) - rank(b));
        const shown = marked < 0 ? newest.get(link) : words.length ? [words[0].className.replace("word", "cell"), one(".sym", words[0]).textContent, `${id.replace(".", " ")}, ${words[0].textContent.trim().split(" ").slice(1).join(" ")} at ${TL.commits[marked].name}`] : ["cell v-not-measured", "", `${id.replace(".", " ")}, not measured at ${TL.commits[marked].name}`];
        [link.className, link.textContent] = shown;
        link.setAttribute("aria-label", shown[2]);
        link.removeAttribute("title");
      }
      const rows = all("tbody tr", section);
      for (const row of rows) {
        row.hidden = Boolean(wanted) && row.dataset.wrapper !== wanted;
        row.classList.toggle("here", marked >= Number(row.dataset.first) && marked <= Number(row.dataset.last) && marked >= 0);
      }
      const [dtype, option] = section.id.split("."), ids = sections.map((one) => one.id.split("."));
      const go = (id) => { location.hash = id; };
      bar.replaceChildren(
        chooser("dtype", [...new Set(ids.map((id) => id[0]))], dtype, (value) => go(`${value}.${ids.some((id) => id[0] === value && id[1] === option) ? option : ids.find((id) => id[0] === value)[1]}`)),
        chooser("option", [...new Set(ids.map((id) => id[1]))], option, (value) => go(`${ids.some((id) => id[1] === value && id[0] === dtype) ? dtype : ids.find((id) => id[1] === value)[0]}.${value}`)),
        chooser("wrapper", ["", ...new Set(rows.map((row) => row.dataset.wrapper))], wanted, (value) => { remember({ wrapper: value }); draw(); }, { "": "both" }),
        chooser("commit", ["", ...newestFirst()], marked < 0 ? "" : TL.commits[marked].name, (value) => { remember({ commit: value }); draw(); }, { ...commitWords(), "": "mark none" }),
      );
      bar.hidden = false;
      for (const plot of plots) plot.destroy();
      plots = [];
      const told = marked < 0 ? [] : rows.filter((row) => !row.hidden && row.classList.contains("here") && row.dataset.verdict !== "not measured").flatMap((row) => {
        const mean = one('data[data-track="accuracy.Logit.track_mean"]', row), value = mean && make("data", { value: mean.value }, mean.textContent);
        return [`${TL.commits[marked].name}, ${row.dataset.wrapper}: `, one(".word", row).cloneNode(true), ...(value ? [", mean error ", value, " nats"] : []), ". "];
      });
      one(".here-first", section).replaceChildren(...told);
      picture(section, rows.filter((row) => !row.hidden), marked);
      stops();
    };
    // The names of commits below a chart: from the newest back, those that have room.
    const named = (plot, splits) => {
      let free = Infinity;
      const names = [...splits].reverse().map((i) => {
        const name = TL.commits[i]?.name ?? "", half = 4 * name.length + 4, x = plot.valToPos(i, "x");
        if (x + half > free) return "";
        free = x - half;
        return name;
      });
      return names.reverse();
    };
    const picture = (section, rows, marked) => {
      const figure = one(".chart", section);
      figure.replaceChildren();
      const n = TL.commits.length, xs = TL.commits.map((_, i) => i), series = [], data = [xs];
      const wrappers = [...new Set(rows.map((row) => row.dataset.wrapper))];
      const positive = rows.flatMap((row) => all("data", row).filter((d) => d.dataset.track.startsWith("accuracy.Logit.")).map((d) => Number(d.value))).filter((value) => value > 0 && Number.isFinite(value));
      const floor = positive.length ? 10 ** (Math.floor(Math.log10(Math.min(...positive))) - 1) : 1e-9;
      const known = new Map();
      for (const wrapper of wrappers) for (const name of DRAWN) {
        const ys = new Array(n).fill(null), values = new Array(n).fill(null);
        for (const row of rows) if (row.dataset.wrapper === wrapper) {
          const stored = one(`data[data-track="accuracy.Logit.track_${name}"]`, row);
          if (!stored || !Number.isFinite(Number(stored.value))) continue;
          for (let i = Number(row.dataset.first); i <= Number(row.dataset.last); i++) { values[i] = Number(stored.value); ys[i] = values[i] > 0 ? values[i] : floor; }
        }
        if (values.every((value) => value === null)) continue;
        const before = wrapper === "HookedTransformer" && wrappers.length > 1;
        series.push({ label: `${name}, ${wrapper}`, stroke: COLOURS[name], width: name === "mean" ? 2.5 : 1.5, dash: before ? [6, 4] : undefined, points: { show: true, fill: css("--paper"), size: 5 }, spanGaps: false });
        data.push(ys);
        known.set(data.length - 1, values);
      }
      if (!series.length) { figure.append(make("p", { class: "note" }, "No figure to draw: this configuration was never measured with one. The table has the reasons.")); figure.hidden = false; return; }
      // The noise floor of each wrapper is drawn over the commits that have it.
      const bands = all(".floor", section).map((floor) => ({ value: Number(one("data", floor).value), ran: rows.filter((row) => row.dataset.wrapper === floor.dataset.wrapper && one("td data", row)) })).filter(({ value, ran }) => value > 0 && ran.length);
      const say = make("p", { class: "say", "aria-live": "polite" }, "Hover, or focus the chart and use the arrow keys: it names the commit, its subject, its date and what it was measured with.");
      const place = make("div", { class: "plot", tabindex: "0", role: "img", "aria-label": `Error of the logits in nats by commit, on a logarithmic axis; the table below has every figure.` });
      const keys = make("ul", { class: "keys" }, ...DRAWN.map((name) => { const line = make("i"); line.style.color = COLOURS[name]; return make("li", {}, line, name); }), ...(wrappers.length > 1 ? [make("li", {}, make("i", { class: "dash" }), "HookedTransformer"), make("li", {}, make("i"), "TransformerBridge")] : [make("li", {}, wrappers[0])]), ...(bands.length ? [make("li", {}, make("span", { class: "band noise" }), "noise floor, each wrapper's own")] : []), ...(rows.some((row) => row.dataset.verdict === "failed") ? [make("li", {}, make("b", {}, "!"), " failed")] : []));
      figure.append(place, keys, say);
      figure.hidden = false;
      const zero = [...known.values()].some((values) => values.includes(0));
      const ink = css("--soft"), grid = { stroke: css("--line"), width: 1 };
      const hooks = { draw: [(plot) => {
        const { ctx, bbox } = plot;
        ctx.save();
        for (const { value, ran } of bands) {
          const y = plot.valToPos(value, "y", true), [from, to] = [Math.min(...ran.map((row) => Number(row.dataset.first))) - 0.4, Math.max(...ran.map((row) => Number(row.dataset.last))) + 0.4].map((x) => Math.min(Math.max(plot.valToPos(x, "x", true), bbox.left), bbox.left + bbox.width));
          if (y < bbox.top + bbox.height) { ctx.fillStyle = ink; ctx.globalAlpha = 0.15; ctx.fillRect(from, Math.max(y, bbox.top), to - from, bbox.top + bbox.height - Math.max(y, bbox.top)); }
        }
        ctx.globalAlpha = 1;
        for (const row of rows) if (row.dataset.verdict === "failed") { ctx.fillStyle = css("--alarm"); ctx.textAlign = "center"; ctx.font = `bold ${13 * devicePixelRatio}px sans-serif`; for (let i = Number(row.dataset.first); i <= Number(row.dataset.last); i++) ctx.fillText("!", plot.valToPos(i, "x", true), bbox.top + 14 * devicePixelRatio); }
        if (marked >= 0) { const x = plot.valToPos(marked, "x", true); ctx.strokeStyle = css("--accent"); ctx.lineWidth = 1.5 * devicePixelRatio; ctx.setLineDash([2, 3]); ctx.beginPath(); ctx.moveTo(x, bbox.top); ctx.lineTo(x, bbox.top + bbox.height); ctx.stroke(); }
        ctx.restore();
      }], setCursor: [(plot) => { if (plot.cursor.idx !== null && plot.cursor.idx !== undefined) tell(plot.cursor.idx); }] };
      const tell = (i) => {
        const commit = TL.commits[i];
        const told = wrappers.map((wrapper) => {
          const row = rows.find((r) => r.dataset.wrapper === wrapper && Number(r.dataset.first) <= i && i <= Number(r.dataset.last));
          if (!row) return `${wrapper}: not measured. `;
          const figures = NAMES.map((name) => [name, one(`data[data-track="accuracy.Logit.track_${name}"]`, row)]).filter(([, d]) => d).map(([name, d]) => `${name} ${d.textContent}`);
          const reason = figures.length ? [] : [...one(".reason", row).childNodes].flatMap((node) => (node.nodeName === "BR" ? [] : ["; ", node.cloneNode(true)]));
          return make("span", {}, `${wrapper}: ${row.dataset.verdict}${figures.length ? `, ${figures.join(", ")} nats` : ""}`, ...reason, ". ");
        });
        say.replaceChildren(make("b", {}, commit.page ? make("a", { href: `../${commit.page}` }, commit.name) : commit.name), ` ${commit.subject ? `“${commit.subject}”, ` : ""}${commit.date}${commit.versions ? `, ${commit.versions}` : ""}. `, ...told, ...(commit.page ? [" ", make("a", { href: `../${commit.page}#inside` }, "Inside the network at this commit")] : []));
      };
      const decades = (from, to) => {
        const [first, last] = [Math.ceil(Math.log10(from)), Math.floor(Math.log10(to))], step = Math.max(1, Math.ceil((last - first) / 8));
        return Array.from({ length: Math.floor((last - first) / step) + 1 }, (_, i) => 10 ** (first + i * step));
      };
      const every = Math.max(1, Math.ceil(n / Math.max(1, Math.floor(place.clientWidth / 70))));
      const releases = TL.commits.map((commit, i) => (commit.release ? i : -1)).filter((i) => i >= 0);
      const ticks = n <= 24 ? xs.filter((i) => (n - 1 - i) % every === 0) : releases;
      let [low, high] = [zero ? floor : Math.min(...positive, ...bands.map(({ value }) => value)), Math.max(...positive)];
      if (decades(low / 1.6, high * 2).length < 2) [low, high] = [10 ** Math.floor(Math.log10(low)), 10 ** Math.ceil(Math.log10(high))];
      const plot = new uPlot({
        width: place.clientWidth, height: 300, legend: { show: false }, hooks,
        cursor: { y: false, drag: { x: false, y: false } },
        scales: { x: { time: false, range: [-0.4, n - 0.6] }, y: { distr: 3, range: [low / 1.6, high * 2] } },
        axes: [
          { stroke: ink, grid, ticks: grid, splits: () => ticks, values: named, rotate: 0 },
          { stroke: ink, grid, ticks: grid, size: 76, label: "nats", labelSize: 18, splits: () => decades(low / 1.6, high * 2), filter: (_, splits) => splits, values: (_, splits) => splits.map((v) => (zero && v <= floor * 1.001 ? "0" : spelled(Number(v.toPrecision(3))))) },
        ],
        series: [{}, ...series.map((one) => ({ ...one, paths: uPlot.paths.stepped({ align: 1 }) }))],
      }, data, place);
      plots.push(plot);
      let at = marked >= 0 ? marked : n - 1;
      place.addEventListener("keydown", (event) => {
        const step = { ArrowLeft: -1, ArrowRight: 1, Home: -n, End: n }[event.key];
        if (!step) return;
        event.preventDefault();
        at = Math.min(Math.max(at + step, 0), n - 1);
        plot.setCursor({ left: plot.valToPos(at, "x"), top: 10 });
        tell(at);
      });
      if (marked >= 0) tell(marked);
      bitsPicture(figure, place, rows, wrappers, { stroke: ink, grid, ticks: grid }, ticks);
    };
    // Bits lost, with what HuggingFace itself loses as a band.
    const bitsPicture = (figure, above, rows, wrappers, axis, ticks) => {
      const n = TL.commits.length, xs = TL.commits.map((_, i) => i);
      const line = (wrapper, track) => {
        const values = new Array(n).fill(null);
        for (const row of rows) {
          const stored = one(`data[data-track="${track}"]`, row);
          if ((wrapper && row.dataset.wrapper !== wrapper) || !stored || !Number.isFinite(Number(stored.value))) continue;
          for (let i = Number(row.dataset.first); i <= Number(row.dataset.last); i++) values[i] = Number(stored.value);
        }
        return values;
      };
      const reference = line("", "truth.HuggingFace.track_bits_lost");
      const own = wrappers.map((wrapper) => [wrapper, line(wrapper, "truth.TransformerLens.track_bits_lost")]).filter(([, values]) => values.some((value) => value !== null));
      if (!own.length) return;
      const place = make("div", { class: "plot", role: "img", "aria-label": "Bits lost by commit, beside HuggingFace's own; the table has every figure." });
      const keys = make("ul", { class: "keys" }, make("li", {}, make("span", { class: "band" }), "bits that HuggingFace itself loses"), make("li", {}, make("i"), "bits that TransformerLens loses"));
      one(".say", figure).before(place, keys);
      const highest = Math.max(...own.flatMap(([, values]) => values), ...reference, 1);
      plots.push(new uPlot({
        width: above.clientWidth, height: 170, legend: { show: false }, cursor: { show: false },
        scales: { x: { time: false, range: [-0.4, n - 0.6] }, y: { range: [0, highest * 1.1] } },
        axes: [
          { ...axis, splits: () => ticks, values: named },
          { ...axis, size: 76, label: "bits", labelSize: 18 },
        ],
        series: [{}, { stroke: "transparent", fill: css("--band"), paths: uPlot.paths.stepped({ align: 1 }), points: { show: false } }, ...own.map(([wrapper]) => ({ stroke: css("--accent"), width: 2, dash: wrapper === "HookedTransformer" && wrappers.length > 1 ? [6, 4] : undefined, paths: uPlot.paths.stepped({ align: 1 }), points: { show: true, size: 5, fill: css("--paper") } }))],
      }, [xs, reference, ...own.map(([, values]) => values)], place));
    };
    addEventListener("hashchange", draw);
    let width = innerWidth;
    addEventListener("resize", () => { if (innerWidth !== width) { width = innerWidth; draw(); } });
    draw();
  }
})();
