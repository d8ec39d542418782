"use strict";
// The page of a report: data in, elements out. Names from results become text (textContent, attributes), never markup.

const read = (id) => JSON.parse(document.getElementById(id).textContent);
const data = read("data");
const main = document.getElementById("main");
const PAGE = 50; // rows of a table at a time

function el(tag, attributes = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value === true) made.setAttribute(name, "");
    else if (value !== false && value !== null && value !== undefined) made.setAttribute(name, value);
  }
  made.append(...children.flat().filter((c) => c !== null && c !== undefined).map((c) => (c instanceof Node ? c : String(c))));
  return made;
}

function svg(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
  made.append(...children);
  return made;
}

// ---------------------------------------------------------------- numbers and words

const isNumber = (v) => typeof v === "number" && Number.isFinite(v);
const fixed = (v, digits = 1) => (isNumber(v) ? v.toFixed(digits) : "–");
const signed = (v) => (isNumber(v) ? (v > 0 ? "+" : v < 0 ? "−" : "±") + Math.abs(v).toFixed(1) : "–");
const whole = (v) => (isNumber(v) ? Math.round(v).toLocaleString("en") : "–");
const chance = (v) => (!isNumber(v) ? "–" : v < 1e-4 ? "< 0.0001" : v.toPrecision(2));
const seconds = (v) => (!isNumber(v) ? "–" : v < 0.1 ? v.toPrecision(2) : v.toFixed(v < 10 ? 2 : 0));
const shotsOf = (k) => (k < 1 ? "all" : String(k));
const plural = (n, word) => `${n.toLocaleString("en")} ${word}${n === 1 ? "" : "s"}`;
const order = new Intl.Collator("en", { numeric: true, sensitivity: "base" });

function compare(a, b) { // missing values last, whichever way
  if (typeof a === "number" && typeof b === "number") return a - b;
  return order.compare(String(a), String(b));
}

async function unpacked(text) { // base64 of gzip
  const bytes = Uint8Array.from(atob(text), (c) => c.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Response(stream).text();
}

let details = null; // of all runs, unpacked when the first is opened
const behind = () => (details ??= unpacked(read("details")).then(JSON.parse));

// ---------------------------------------------------------------- a table that sorts, and pages where it is long
// columns: [{title, value(row), text(row), cell(td, row), number, first}]; rows: any values

let tables = 0;

function grid({ caption, columns, rows, sorted = null, page = PAGE }) {
  const id = `table-${++tables}`;
  let shown = rows, at = 0, by = sorted;
  const body = el("tbody"), said = el("p", { role: "status" });
  const back = el("button", { type: "button", onclick: () => turn(-1) }, "Previous");
  const on = el("button", { type: "button", onclick: () => turn(1) }, "Next");
  const heads = columns.map((column, k) => el("th", { scope: "col", class: column.number ? "number" : null },
    el("button", { type: "button", onclick: () => sort(k) }, column.title)));
  const words = el("p", { class: "caption", id: `${id}-words` }, caption); // not a <caption>: it would scroll away with a wide table
  const table = el("table", { "aria-labelledby": `${id}-words` }, el("thead", {}, el("tr", {}, heads)), body);
  const pager = el("div", { class: "pager" }, back, on, said);
  const scroll = el("div", { class: "scroll", tabindex: "0", role: "region", "aria-labelledby": `${id}-words` }, table);

  function sort(k) {
    by = by && by[0] === k ? [k, -by[1]] : [k, columns[k].number ? -1 : 1];
    at = 0;
    arrange();
  }
  function arrange() {
    if (by) {
      const [k, way] = by, key = columns[k].value;
      const keyed = shown.map((row, i) => [key(row), i, row]);
      const missing = (v) => v === null || v === undefined || v === "";
      keyed.sort((a, b) => missing(a[0]) - missing(b[0]) || (missing(a[0]) ? 0 : way * compare(a[0], b[0])) || a[1] - b[1]);
      shown = keyed.map((k3) => k3[2]);
    }
    heads.forEach((head, k) => {
      if (by && by[0] === k) head.setAttribute("aria-sort", by[1] > 0 ? "ascending" : "descending");
      else head.removeAttribute("aria-sort");
    });
    fill();
  }
  function turn(step) {
    at += step * page;
    fill();
    scroll.scrollTop = 0;
  }
  function fill() {
    body.replaceChildren(...shown.slice(at, at + page).map((row) => el("tr", {}, columns.map((column, k) => {
      const cell = k === 0 ? el("th", { scope: "row" }) : el("td", { class: column.number ? "number" : null });
      if (column.cell) column.cell(cell, row);
      else cell.textContent = column.text ? column.text(row) : column.value(row);
      return cell;
    }))));
    const last = Math.min(at + page, shown.length);
    back.disabled = at === 0;
    on.disabled = last >= shown.length;
    const range = shown.length ? `${(at + 1).toLocaleString("en")}–${last.toLocaleString("en")} of ${shown.length.toLocaleString("en")}` : "no rows";
    if (said.textContent !== range) said.textContent = range;
    pager.hidden = rows.length <= page && shown.length === rows.length;
  }
  arrange();
  return {
    element: el("div", { class: "grid" }, words, scroll, pager),
    show(some) { shown = some; at = 0; arrange(); },
  };
}

function choice(title, options, onchange, all = null) { // a labelled select; options: [value, text]
  const select = el("select", { onchange: () => onchange(select.value) },
    all === null ? [] : el("option", { value: "" }, all), options.map(([value, text]) => el("option", { value }, text)));
  return { element: el("label", {}, title, select), select };
}

function search(title, onchange) {
  let timer = 0;
  const input = el("input", { type: "search", oninput: () => { clearTimeout(timer); timer = setTimeout(() => onchange(input.value), 80); } });
  return { element: el("label", {}, title, input), input };
}

const link = (id, title) => document.querySelector("nav").append(el("a", { href: `#${id}` }, title));

function part(id, title, ...children) {
  const made = el("section", { "aria-labelledby": `${id}-title` }, el("h2", { id: `${id}-title` }, title), ...children);
  link(`${id}-title`, title);
  main.append(made);
  return made;
}

// ---------------------------------------------------------------- the answer

function verdict(answer) {
  const made = el("p", { class: "verdict" }), others = answer.same.length;
  const known = answer.of - 1 - answer.unknown.length;
  if (!known) made.append(el("b", {}, answer.top), " is highest; it could not be compared with any other row.");
  else if (others === known) made.append("No method can be told apart from the highest, ", el("b", {}, answer.top), ".");
  else if (!others) made.append(el("b", {}, answer.top), " is best: it is told apart from every method it was compared with.");
  else made.append(el("b", {}, answer.top), " is highest; ", el("b", {}, plural(others, "other")), ` of ${known} can't be told apart from it: ${answer.same.join(", ")}.`);
  if (answer.unknown.length && known) made.append(` Not compared: ${answer.unknown.join(", ")}.`);
  return made;
}

function cheapest(panel) {
  const row = panel.rows.find((r) => r.label === panel.answer.cheapest);
  if (panel.rows.length < 2 || !row) return null;
  const step = isNumber(row.step) ? `, ${seconds(row.step)} s a training step` : "";
  return el("p", {}, "Cheapest of these: ", el("b", {}, row.label), ` (${whole(row.learned)} learned numbers${step}).`);
}

function interval(row, low, high) { // difference from the highest, drawn; the numbers stand beside it
  const x = (v) => 6 + (188 * (v - low)) / (high - low || 1);
  const kind = row.top ? "top" : row.apart ? "apart" : "same";
  const made = svg("svg", { class: "plot", viewBox: "0 0 200 22", preserveAspectRatio: "none", "aria-hidden": "true" });
  made.append(svg("line", { class: "zero", x1: x(0), x2: x(0), y1: 0, y2: 22 }));
  if (isNumber(row.low)) made.append(svg("line", { class: `ci ${kind}`, x1: x(row.low), x2: x(row.high), y1: 11, y2: 11 }));
  if (row.top || isNumber(row.difference)) made.append(svg("circle", { class: kind, cx: x(row.top ? 0 : row.difference), cy: 11, r: 4 }));
  return made;
}

function ranking(table, panel) {
  const ends = panel.rows.flatMap((r) => [0, r.low, r.high]).filter(isNumber);
  const [low, high] = [Math.min(...ends), Math.max(...ends)];
  const state = (r) => (r.top ? "highest" : r.apart === null ? "not compared" : r.apart ? "worse" : "not told apart");
  return grid({
    caption: `${panel.title}: ${table.figure}, percent, and the difference from the highest on the seeds both have, with its 95 % interval. Verdicts are corrected for the number of pairs (Holm, 5 %), so an interval without 0 may not suffice.`,
    rows: panel.rows,
    columns: [
      { title: "method", value: (r) => r.label },
      { title: table.figure, number: true, value: (r) => r.value, text: (r) => fixed(r.value) + (r.seeds > 1 ? ` ± ${fixed(r.deviation)}` : "") },
      { title: "verdict", value: state, cell: (td, r) => td.append(el("span", { class: r.top || r.apart === false ? "tag is-best" : "tag" }, state(r))) },
      { title: "difference", number: true, value: (r) => (r.top ? 0 : r.difference), text: (r) => (r.top || !isNumber(r.difference) ? "–" : `${signed(r.difference)} (${signed(r.low)} to ${signed(r.high)})`) },
      { title: "interval", value: (r) => (r.top ? 0 : r.difference), cell: (td, r) => td.append(interval(r, low, high)) },
      { title: "Holm p", number: true, value: (r) => r.holm, text: (r) => chance(r.holm) },
      { title: "learned", number: true, value: (r) => r.learned, text: (r) => whole(r.learned) },
      { title: "s/step", number: true, value: (r) => r.step, text: (r) => seconds(r.step) },
    ],
  }).element;
}

function overview(open) {
  const rows = data.tables.flatMap((table, t) => table.panels.map((panel, p) => ({ table, panel, t, p })));
  return grid({
    caption: "The highest method of each table, and how many can't be told apart from it",
    rows, page: 12,
    columns: [
      { title: "table", value: (r) => r.t, cell: (th, r) => th.append(el("button", { type: "button", class: "open", onclick: () => open(r.t, r.p) }, `${r.table.dataset}, ${r.table.protocol}`)) },
      { title: "of", value: (r) => r.panel.title },
      { title: "highest", value: (r) => r.panel.answer.top },
      { title: "figure", number: true, value: (r) => r.panel.rows[0].value, text: (r) => fixed(r.panel.rows[0].value) },
      { title: "not told apart", number: true, value: (r) => r.panel.answer.same.length, text: (r) => `${r.panel.answer.same.length} of ${r.panel.answer.of - 1}` },
      { title: "cheapest of these", value: (r) => r.panel.answer.cheapest },
      { title: "seeds", number: true, value: (r) => r.panel.rows[0].seeds },
      { title: "backbone", value: (r) => r.table.backbone },
    ],
  }).element;
}

function study(table, chosen, place) { // all that one table says
  const holder = el("div");
  const show = (p) => {
    chosen = p;
    const panel = table.panels[p];
    buttons.forEach((b, i) => b.setAttribute("aria-pressed", i === p));
    holder.replaceChildren(...(panel ? [verdict(panel.answer), cheapest(panel), ranking(table, panel)] : [el("p", {}, "One method alone: nothing to compare.")]).filter(Boolean));
  };
  const buttons = table.panels.map((panel, p) => el("button", { type: "button", onclick: () => show(p) }, panel.title));
  const warnings = table.notes.filter((n) => /^(Demo|Random|Rows differ|Fewer|One seed|Where rows|Unreadable)|confounded/.test(n));
  const made = el("div", { class: "card" },
    el("h3", {}, table.title),
    buttons.length > 1 ? el("div", { class: "tools", role: "group", "aria-label": "Column" }, buttons) : null,
    holder,
    warnings.length ? el("ul", { class: "warn" }, warnings.map((n) => el("li", {}, n))) : null,
    el("details", {}, el("summary", {}, "What this rests on"),
      el("ul", { class: "plain" }, [...table.sentences, ...table.notes].map((n) => el("li", {}, n)))));
  show(Math.max(0, Math.min(chosen, table.panels.length - 1)));
  place.replaceChildren(made,
    el("section", { "aria-labelledby": "table-title" }, el("h3", { id: "table-title" }, "The table"), ...wholeTable(table).filter(Boolean)), gallery(table.pictures, "pictures-title"), pairsOf(table));
}

function wholeTable(table) { // header, rows of cells, marks: as the report's files have it
  const marks = new Map(table.marks.map(([i, k, mark]) => [`${i} ${k}`, mark]));
  const number = (text) => { const v = parseFloat(String(text).replaceAll(",", "")); return Number.isNaN(v) ? null : v; };
  const rows = table.rows.map((cells, i) => ({ cells, i }));
  const made = grid({
    caption: table.title + (table.marks.length ? ". Green: can't be told apart from the best of its column; underlined: the next figure." : ""),
    rows,
    columns: table.header.map((title, k) => ({
      title, number: k > 0,
      value: (r) => (k ? number(r.cells[k]) : r.cells[k]),
      cell: (cell, r) => { cell.textContent = r.cells[k]; const mark = marks.get(`${r.i} ${k}`); if (mark) cell.classList.add(mark); },
    })),
  });
  const find = search("Find in the table", (text) => {
    const words = text.toLowerCase().split(/\s+/).filter(Boolean);
    made.show(rows.filter((r) => words.every((w) => r.cells.join(" ").toLowerCase().includes(w))));
  });
  return [rows.length > 20 ? el("div", { class: "tools" }, find.element) : null, made.element];
}

function gallery(pictures, id) {
  if (!pictures.length) return "";
  const seen = new IntersectionObserver((entries) => entries.filter((e) => e.isIntersecting).forEach(async ({ target }) => {
    seen.unobserve(target);
    const text = await unpacked(pictures[target.dataset.place].svg);
    target.src = "data:image/svg+xml;charset=utf-8," + encodeURIComponent(text);
  }), { rootMargin: "600px" });
  return el("section", { "aria-labelledby": id }, el("h3", { id }, "Pictures"), el("div", { class: "pictures" }, pictures.map((p, i) => {
    const image = el("img", { alt: p.alt, "data-place": i, width: p.width, height: p.height }); // nothing moves when it comes
    seen.observe(image);
    return el("figure", {}, image, el("figcaption", {}, el("b", {}, p.title), ` · ${p.file}.svg, .png`));
  })));
}

function pairsOf(table) {
  if (!table.pairs.length) return "";
  const rows = table.pairs.map(([shots, column, a, b, difference, low, high, holm, claim, seeds, units, unit]) => ({ shots, column, a, b, difference, low, high, holm, claim, seeds, units, unit }));
  const holder = el("details", { ontoggle: () => fill() }, el("summary", {}, `All ${plural(rows.length, "pair")} of ${table.figure}`));
  let filled = false;
  const fill = () => {
    if (filled) return;
    filled = true;
    const made = grid({
      caption: "Differences of the first method from the second, percentage points, 95 % intervals, Holm-corrected p",
      rows, page: 25,
      columns: [
        { title: "method", value: (r) => r.a }, { title: "less", value: (r) => r.b },
        { title: "of", value: (r) => [r.shots, r.column].filter(Boolean).join(", ") },
        { title: "difference", number: true, value: (r) => r.difference, text: (r) => `${signed(r.difference)} (${signed(r.low)} to ${signed(r.high)})` },
        { title: "Holm p", number: true, value: (r) => r.holm, text: (r) => chance(r.holm) },
        { title: "false claim", number: true, value: (r) => r.claim, text: (r) => chance(r.claim) },
        { title: "seeds", number: true, value: (r) => r.seeds },
        { title: "units", number: true, value: (r) => r.units, text: (r) => plural(r.units, r.unit) },
      ],
    });
    const names = [...new Set(rows.flatMap((r) => [r.a, r.b]))].sort(order.compare).map((n) => [n, n]);
    const want = ["", ""];
    const apply = () => made.show(rows.filter((r) => want.every((w) => !w || w === r.a || w === r.b)));
    const selects = want.map((_, i) => choice(i ? "and" : "With", names, (v) => { want[i] = v; apply(); }, "any method").element);
    holder.append(el("div", { class: "tools" }, selects), made.element);
  };
  return holder;
}

function answers() {
  const place = el("div", { id: "study", tabindex: "-1" });
  const section = part("answer", "The answer");
  if (!data.tables.length) section.append(el("p", {}, "No table could be made of these runs."));
  if (data.tables.length > 1) {
    const pick = choice("Table", data.tables.map((t, i) => [i, t.title]), (i) => study(data.tables[i], 0, place));
    const open = (t, p) => { pick.select.value = t; study(data.tables[t], p, place); place.focus(); place.scrollIntoView(); };
    section.append(overview(open), el("h3", {}, "One table"), el("div", { class: "tools" }, pick.element));
  }
  section.append(place);
  if (data.tables.length) study(data.tables[0], data.tables[0].panels.length - 1, place);
  if (data.left.length) section.append(el("h3", {}, "No table"), el("ul", { class: "plain" }, data.left.map((l) => el("li", {}, `${l.title}: ${l.why.replaceAll("**", "")}`))));
}

function overSets() {
  if (!data.over.length) return;
  const section = part("sets", "Over data sets, and cost");
  for (const one of data.over) {
    section.append(el("h3", {}, one.title));
    if (one.table) section.append(...wholeTable({ title: one.title, ...one.table }).filter(Boolean));
    if (one.notes.length) section.append(el("ul", { class: "plain note" }, one.notes.map((n) => el("li", {}, n))));
    for (const block of one.blocks) {
      section.append(grid({
        caption: `${block.title}, ${plural(block.sets.length, "data set")}: ${block.sets.join(", ")}`, rows: block.rows,
        columns: [{ title: "method", value: (r) => r[0] },
          { title: "average", number: true, value: (r) => r[1], text: (r) => fixed(r[1]) },
          { title: "average rank", number: true, value: (r) => r[2], text: (r) => fixed(r[2], 2) }],
      }).element, ...block.notes.map((n) => el("p", { class: "note" }, n)),
      ...Object.entries(block.lacking).map(([m, sets]) => el("p", { class: "note" }, `Left out, as sets lack it: ${m} (${sets.join(", ")}).`)));
    }
    if (one.pictures.length) section.append(gallery(one.pictures, `pictures-of-sets-${data.over.indexOf(one)}`));
  }
}

// ---------------------------------------------------------------- every run

const words = data.runs.words, columns = data.runs.rows, count = columns.id.length;
const word = (name, i) => words[name][columns[name][i]];
const METRICS = [["accuracy", "accuracy"], ["balanced_accuracy", "balanced"], ["macro_f1", "F1"], ["auroc", "AUROC"], ["ece", "ECE"]];

function runs() {
  const section = part("runs", "Every run");
  const all = Array.from({ length: count }, (_, i) => i), chosen = {};
  let text = "", index = null;
  const lines = () => (index ??= all.map((i) => ["method", "dataset", "protocol", "backbone", "part"].map((n) => word(n, i)).join(" ").toLowerCase() + ` seed ${word("seed", i)} shots ${shotsOf(word("shots", i))}`));
  const numbers = (name, title, show) => ({ title, number: true, value: (i) => columns[name][i], text: (i) => show(columns[name][i]) });
  const table = grid({
    caption: "Every run; a method's name opens the run", rows: all,
    columns: [
      { title: "method", value: (i) => word("method", i), cell: (th, i) => th.append(el("button", { type: "button", class: "open", "data-run": columns.id[i], onclick: () => { location.hash = `run=${columns.id[i]}`; } }, word("method", i))) },
      { title: "data set", value: (i) => word("dataset", i) },
      { title: "protocol", value: (i) => word("protocol", i) },
      { title: "part", value: (i) => word("part", i) },
      { title: "shots", number: true, value: (i) => (word("shots", i) < 1 ? Infinity : word("shots", i)), text: (i) => shotsOf(word("shots", i)) },
      { title: "seed", number: true, value: (i) => word("seed", i) },
      ...METRICS.map(([name, title]) => numbers(name, title, fixed)),
      numbers("n", "images", whole), numbers("trainable_parameters", "learned", whole), numbers("train_seconds", "train s", seconds),
      { title: "backbone", value: (i) => word("backbone", i) },
    ],
  });
  const apply = () => {
    const wanted = text.toLowerCase().split(/\s+/).filter(Boolean), names = Object.entries(chosen).filter(([, v]) => v !== "");
    table.show(all.filter((i) => names.every(([n, v]) => columns[n][i] === Number(v)) && wanted.every((w) => lines()[i].includes(w))));
  };
  const find = search("Find", (t) => { text = t; apply(); });
  const titles = { protocol: "Protocol", dataset: "Data set", method: "Method", backbone: "Backbone", part: "Part", shots: "Shots", seed: "Seed" };
  const selects = Object.entries(titles).filter(([n]) => words[n].length > 1).map(([n, title]) => {
    const options = words[n].map((v, k) => [k, n === "shots" ? shotsOf(v) : String(v)]).sort((a, b) => order.compare(a[1], b[1]));
    return choice(title, options, (v) => { chosen[n] = v; apply(); }, "all");
  });
  const clear = el("button", { type: "button", onclick: () => {
    for (const n of Object.keys(chosen)) delete chosen[n];
    selects.forEach((s) => { s.select.value = ""; });
    find.input.value = text = "";
    apply();
  } }, "Clear");
  section.append(el("div", { class: "tools", role: "search" }, find.element, selects.map((s) => s.element), clear), table.element);
}

// ---------------------------------------------------------------- one run

const dialog = document.getElementById("run");

async function openRun(id) {
  const i = columns.id.indexOf(id);
  if (i < 0) return;
  const rest = await behind();
  const [classes, sparse, ci, setting, fact, folder, wrong] = rest.runs[i];
  const names = rest.classes[classes], facts = rest.facts[fact];
  const title = `${word("method", i)} on ${word("dataset", i)}`;
  const sub = `${word("protocol", i)}, ${word("part", i)}, ${shotsOf(word("shots", i))} shots, seed ${word("seed", i)}, ${word("backbone", i)}`;
  dialog.replaceChildren(
    el("div", { class: "head" }, el("div", {}, el("h2", { id: "run-title", tabindex: "-1" }, title), el("p", {}, sub)),
      el("button", { type: "button", onclick: () => dialog.close() }, "Close")),
    el("div", { class: "inside" }, figures(i, ci), ...confusionOf(names, sparse), ...worst(names, wrong, rest.images, i),
      ...saidOf(rest.said, i, facts, names), ...configuration(rest, setting, facts, folder)));
  if (!dialog.open) dialog.showModal();
  dialog.scrollTop = 0;
  document.getElementById("run-title").focus();
}

function figures(i, ci) {
  const c = (name) => columns[name][i];
  const list = METRICS.map(([name, title]) => [title, name === "accuracy" && ci ? `${fixed(c(name))} (${fixed(ci[0])}–${fixed(ci[1])})` : fixed(c(name))]);
  list.push(["test images", whole(c("n"))], ["learned numbers", whole(c("trainable_parameters"))], ["steps", isNumber(c("steps")) ? whole(c("steps")) : c("steps") ?? "–"],
    ["training, s", seconds(c("train_seconds"))], ["s a step", seconds(c("seconds_per_step"))], ["peak memory, MiB", whole(c("peak_memory_mib"))]);
  return el("dl", { class: "facts" }, list.map(([k, v]) => el("div", {}, el("dt", {}, k), el("dd", {}, v))));
}

function confusionOf(names, sparse) {
  if (!sparse || !names.length) return [];
  const n = names.length, counts = new Array(n * n).fill(0);
  for (let k = 0; k < sparse.length; k += 2) counts[sparse[k]] = sparse[k + 1];
  const at = (i, j) => counts[i * n + j];
  const sum = (f) => names.reduce((total, _, j) => total + f(j), 0);
  const rows = names.map((name, i) => {
    const truth = sum((j) => at(i, j)), answered = sum((j) => at(j, i)), hits = at(i, i);
    const share = (a, b) => (b ? (100 * a) / b : null);
    return { name, i, truth, recall: share(hits, truth), precision: share(hits, answered), f1: truth + answered ? (200 * hits) / (truth + answered) : null };
  });
  const perClass = grid({
    caption: "Of each class, percent", rows,
    columns: [
      { title: "class", value: (r) => r.name },
      { title: "images", number: true, value: (r) => r.truth },
      { title: "recall", number: true, value: (r) => r.recall, text: (r) => fixed(r.recall) },
      { title: "recall, drawn", value: (r) => r.recall, cell: (td, r) => { td.className = "barred"; const b = el("span", { class: "bar", "aria-hidden": "true" }); b.style.width = `${r.recall ?? 0}%`; td.append(b); } },
      { title: "precision", number: true, value: (r) => r.precision, text: (r) => fixed(r.precision) },
      { title: "F1", number: true, value: (r) => r.f1, text: (r) => fixed(r.f1) },
    ],
  });
  return [el("h3", {}, "Classes"), perClass.element, el("h3", {}, "Confusion"), n <= 30 ? matrix(names, at, rows) : confused(names, at, rows)];
}

function matrix(names, at, rows) {
  const caption = "Counts: a row is the true class, a column the answer";
  const table = el("table", { class: "matrix", "aria-labelledby": "matrix-words" },
    el("thead", {}, el("tr", {}, el("th", { scope: "col" }, "true class"), names.map((name) => el("th", { scope: "col" }, el("span", {}, name))))),
    el("tbody", {}, rows.map((row) => el("tr", {}, el("th", { scope: "row" }, row.name), names.map((_, j) => {
      const cell = el("td", { class: row.i === j ? "right" : null }, at(row.i, j) || "");
      cell.style.setProperty("--share", row.truth ? at(row.i, j) / row.truth : 0);
      return cell;
    })))));
  return el("div", {}, el("p", { class: "caption", id: "matrix-words" }, caption),
    el("div", { class: "scroll", tabindex: "0", role: "region", "aria-labelledby": "matrix-words" }, table));
}

function confused(names, at, rows) { // too many classes for a matrix: the errors that occur
  const errors = rows.flatMap((row) => names.map((said, j) => ({ truth: row.name, said, n: at(row.i, j), j, i: row.i }))).filter((e) => e.n && e.i !== e.j);
  return grid({ caption: "What is taken for what", rows: errors, sorted: [2, -1], page: 20,
    columns: [{ title: "true class", value: (e) => e.truth }, { title: "answer", value: (e) => e.said }, { title: "images", number: true, value: (e) => e.n }] }).element;
}

function worst(names, wrong, images, i) {
  if (!wrong.length) return [];
  const items = wrong.map(([place, truth, said, sure]) => {
    const picture = images.pictures[place];
    return el("li", {}, picture ? el("img", { src: `data:image/jpeg;base64,${picture}`, alt: `test image of ${names[truth] ?? truth}`, width: 96, height: 96 }) : null,
      el("b", {}, names[said] ?? said), ` (${(sure / 10).toFixed(1)} %), but it is `, el("b", {}, names[truth] ?? truth), el("br"), el("code", {}, images.names[place]));
  });
  return [el("h3", {}, "Worst mistakes"), el("p", { class: "note" }, `Wrong answers, the surest first. ${images.licences[word("dataset", i)] ?? ""}`), el("ul", { class: "wrong" }, items)];
}

function saidOf(said, i, facts, names) {
  const found = said[[word("dataset", i), facts.llm, facts.method].join("|")];
  if (!found) return [];
  return [el("h3", {}, "What the language model said"), el("p", { class: "note" }, found.note),
    el("details", {}, el("summary", {}, plural(names.length, "class").replace("classs", "classes")),
      el("dl", { class: "said" }, names.filter((n) => found.classes[n]).flatMap((n) => [el("dt", {}, n), el("dd", {}, found.classes[n])])))];
}

function configuration(rest, setting, facts, folder) {
  const [changed, absent] = rest.settings[setting];
  const line = ([k, v]) => el("li", {}, el("code", {}, `${k} ${v}`));
  const rows = Object.entries(facts).filter(([k]) => !["versions", "method", "source_note"].includes(k));
  const everything = Object.entries({ ...rest.usual, ...changed }).filter(([k]) => !absent.includes(k)).sort();
  return [el("h3", {}, "Configuration"),
    facts.source_note ? el("p", { class: "note" }, facts.source_note) : "",
    el("p", { class: "note" }, "Folder: ", el("code", {}, folder)),
    el("dl", { class: "facts" }, [...rows, ...Object.entries(facts.versions)].map(([k, v]) => el("div", {}, el("dt", {}, k.replaceAll("_", " ")), el("dd", {}, String(v))))),
    el("details", { open: true }, el("summary", {}, "Unlike most runs here"), el("ul", { class: "settings" }, Object.entries(changed).sort().map(line)), Object.keys(changed).length ? "" : el("p", {}, "Nothing.")),
    el("details", {}, el("summary", {}, `All ${everything.length} settings`), el("ul", { class: "settings" }, everything.map(line)))];
}

let opener = null;
dialog.addEventListener("close", () => {
  if (location.hash.startsWith("#run=")) history.pushState(null, "", location.pathname + location.search);
  opener?.isConnected && opener.focus({ preventScroll: true });
});
dialog.addEventListener("click", (event) => { if (event.target === dialog) dialog.close(); });

function follow() {
  const match = /^#run=(.+)$/.exec(location.hash);
  if (match) {
    opener = document.activeElement === document.body ? opener : document.activeElement;
    openRun(decodeURIComponent(match[1]));
  } else if (dialog.open) dialog.close();
}

// ---------------------------------------------------------------- the page

const summary = [plural(count, "run"), plural(data.methods, "method"), plural(words.dataset.length, "data set"), `seeds ${[...words.seed].sort((a, b) => a - b).join(" ")}`];
document.getElementById("summary").textContent = summary.join(" · ");
answers();
if (data.tables.length) link("table-title", "Table");
if (data.tables.some((t) => t.pictures.length)) link("pictures-title", "Pictures");
overSets();
runs();
window.addEventListener("hashchange", follow);
follow();
