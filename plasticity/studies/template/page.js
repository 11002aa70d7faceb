"use strict";
// The page of a study's report. All numbers are those of summary.csv and of the curves; what is computed
// here are means, intervals and differences of them.

const data = JSON.parse(document.getElementById("data").textContent);
const at = (id) => document.getElementById(id);

// --- reading

async function unpacked(id) {
  const bytes = Uint8Array.from(atob(at(id).textContent), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  return new Uint8Array(await new Response(stream).arrayBuffer());
}

// Of all numbers the first bytes come first, then the second ones, and so on.
function numbersOf(planes) {
  const count = planes.length / 4, bytes = new Uint8Array(planes.length);
  for (let plane = 0; plane < 4; plane++)
    for (let k = 0; k < count; k++) bytes[4 * k + plane] = planes[plane * count + k];
  const view = new DataView(bytes.buffer), numbers = new Float32Array(count);
  for (let k = 0; k < count; k++) numbers[k] = view.getFloat32(4 * k, true);
  return numbers;
}

function linesOf(csv) {
  const [head, ...lines] = csv.trim().split(/\r?\n/).map((line) => {
    const cells = [], cell = /("(?:[^"]|"")*"|[^,]*)(?:,|$)/y;
    while (cell.lastIndex <= line.length) {
      const found = cell.exec(line);
      if (!found) break;
      cells.push(found[1].startsWith('"') ? found[1].slice(1, -1).replace(/""/g, '"') : found[1]);
      if (!found[0].endsWith(",")) break;
    }
    return cells;
  });
  return lines.map((cells) => Object.fromEntries(head.map((name, k) => [name, cells[k] ?? ""])));
}

// --- statistics, as in plasticity.statistics

const mean = (values) => values.reduce((sum, value) => sum + value, 0) / values.length;

function interval(values) { // Student's 95 % interval of the mean, or null
  const t = data.quantiles[values.length];
  if (values.length < 2 || !t) return null;
  const m = mean(values);
  const half = t * Math.sqrt(values.reduce((sum, v) => sum + (v - m) ** 2, 0) / (values.length - 1) / values.length);
  return [m - half, m + half];
}

function runningMean(values, width) { // centered; shorter at both ends; without what is undefined
  const before = Math.floor((width - 1) / 2);
  return values.map((_, k) => {
    const near = values.slice(Math.max(0, k - before), k - before + width).filter(Number.isFinite);
    return near.length ? mean(near) : NaN;
  });
}

function curveOf(arm, name) { // {tasks, runs: one array a seed}, or null
  const place = data.places[arm]?.[name];
  if (!place) return null;
  const [start, some] = place;
  const tasks = some ?? Array.from({length: data.study.tasks}, (_, k) => k);
  const seeds = data.arms[arm].seeds;
  return {tasks, runs: seeds.map((_, row) => Array.from(values.subarray(start + row * tasks.length, start + (row + 1) * tasks.length)))};
}

// --- words

const summary = linesOf(data.summary);
const rowOf = Object.fromEntries(summary.map((row) => [row.arm, row]));
const labelOf = Object.fromEntries(data.columns.map((column) => [column.name, column.label]));
const number = (text) => (text === "" || text === undefined || text === null ? NaN : Number(text));
const isAccuracy = (name) => ["early", "level", "late", "drop", "slope", "gap", "deficit"].includes(name)
  || name === data.study.score;
const UNITS = {early: "early (%)", level: "late = level (%)", drop: "drop (points)", deficit: "deficit (points)",
  slope: "slope (points per 100 tasks)", gap: "gap to fresh (points)", log_growth: "growth of the norm (log)",
  log_growth_in_all: "growth of the norm in all (log)"};

function labeled(name) {
  if (UNITS[name]) return UNITS[name];
  const end = /^(.*)_(first|last)$/.exec(name);
  if (end && labelOf[end[1]]) return `${labelOf[end[1]]}, ${end[2]} tenth`;
  return labelOf[name] ?? name.replace(/_/g, " ");
}

function shown(value, name) {
  if (!Number.isFinite(value)) return "";
  if (name === "slope") return (100 * value).toFixed(3);
  if (isAccuracy(name)) return (100 * value).toFixed(2);
  return value === 0 ? "0" : Math.abs(value) >= 1e4 || Math.abs(value) < 1e-3 ? value.toExponential(2) : String(Number(value.toPrecision(3)));
}

// Intervals end where there is no further value: an accuracy is from 0 to 1, a difference from -1 to 1.
function clipped(ends, name) {
  if (!ends || !ends.every(Number.isFinite)) return null;
  const least = ["early", "level", "late", data.study.score].includes(name) ? 0 : isAccuracy(name) && name !== "slope" ? -1 : -Infinity;
  const greatest = isAccuracy(name) && name !== "slope" ? 1 : Infinity;
  return ends.map((end) => Math.min(Math.max(end, least), greatest));
}
const endsOf = (row, name) => clipped([number(row[name + "_low_95"]), number(row[name + "_high_95"])], name);
function withEnds(row, name) {
  const value = shown(number(row[name]), name), ends = endsOf(row, name);
  return value && ends ? `${value} [${shown(ends[0], name)}, ${shown(ends[1], name)}]` : value;
}

function familyOf(arm) {
  const [network, ...remedies] = arm.replace(/^fresh:/, "").split("+");
  if (arm.startsWith("fresh:")) return "fresh";
  return network.split("-")[0] + (remedies.length ? " with a remedy" : "");
}

// --- pieces of the page

function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties))
    name.includes("-") || name === "scope" ? element.setAttribute(name, value) : (element[name] = value);
  element.append(...children);
  return element;
}

function fill(select, options, chosen) {
  select.replaceChildren(...options.map(([value, text]) => make("option", {value, textContent: text})));
  if (options.some(([value]) => value === chosen)) select.value = chosen;
}

const colors = () => {
  const style = getComputedStyle(document.documentElement);
  return Object.fromEntries(["back", "fore", "soft", "line", "first", "second", "keeps", "loses", "less"].map((name) => [name, style.getPropertyValue("--" + name).trim()]));
};

function layout(more) {
  const c = colors();
  const axis = {gridcolor: c.line, zerolinecolor: c.soft, linecolor: c.soft, automargin: true};
  const narrow = window.innerWidth < 600;
  return {paper_bgcolor: c.back, plot_bgcolor: c.back, font: {color: c.fore, size: narrow ? 11 : 12},
    margin: {l: 10, r: 10, t: 10, b: 10}, hovermode: "closest", legend: {orientation: "h", y: -0.2},
    hoverlabel: {bgcolor: c.back, font: {color: c.fore}}, ...more,
    xaxis: {...axis, ...more.xaxis, title: {text: more.x}}, yaxis: {...axis, ...more.yaxis, title: {text: more.y}}};
}
const CONFIG = {responsive: true, displaylogo: false, modeBarButtonsToRemove: ["select2d", "lasso2d"]};

// --- verdicts

const state = {sort: null, descending: false};
let values = null;

const wordClass = (verdict) => verdict === "keeps" ? "keeps" : /^loses[, ]+less/.test(verdict) ? "less" : verdict === "loses" ? "loses" : "";
const estimates = () => Object.keys(summary[0] ?? {}).filter((name) => `${name}_sd` in summary[0]);

function tableColumns() {
  const there = (name) => name in (summary[0] ?? {});
  const names = ["arm", ...(there("verdict") ? ["verdict"] : []), "n", ...["early", "level", "deficit", "drop", "slope", "gap"].filter(there)];
  const beside = at("beside").value;
  if (beside && !names.includes(beside)) names.push(beside);
  return names;
}

function rowsShown() {
  const search = at("search").value.toLowerCase(), family = at("family").value, verdict = at("verdict").value;
  const rows = summary.filter((row) => row.arm.toLowerCase().includes(search)
    && (!family || familyOf(row.arm) === family) && (!verdict || (row.verdict || "none") === verdict));
  const name = state.sort;
  if (!name) return rows; // as in the report
  const words = name === "arm" || name === "verdict" || rows.every((row) => Number.isNaN(number(row[name])));
  const sign = state.descending ? -1 : 1;
  return [...rows].sort((a, b) => {
    if (words) return sign * (a[name] ?? "").localeCompare(b[name] ?? "");
    const [x, y] = [number(a[name]), number(b[name])];
    return Number.isNaN(x) || Number.isNaN(y) ? Number.isNaN(x) - Number.isNaN(y) : sign * (x - y);
  });
}

function drawTable() {
  const names = tableColumns(), rows = rowsShown();
  const head = make("tr", {}, ...names.map((name) => {
    const button = make("button", {type: "button", textContent: labeled(name)});
    button.addEventListener("click", () => {
      state.descending = state.sort === name && !state.descending;
      state.sort = name;
      drawTable();
      at("table").querySelector(`th[data-name="${CSS.escape(name)}"] button`)?.focus();
    });
    const order = state.sort === name ? (state.descending ? "descending" : "ascending") : "none";
    return make("th", {scope: "col", "aria-sort": order, "data-name": name, className: name === "verdict" ? "word" : ""}, button);
  }));
  const body = rows.map((row) => {
    const cells = names.map((name) => {
      if (name === "arm") {
        const button = make("button", {type: "button", textContent: row.arm});
        button.addEventListener("click", () => choose(row.arm));
        return make("td", {}, button);
      }
      if (name === "verdict") {
        const word = make("abbr", {textContent: row.verdict || "no verdict", title: data.explained[row.verdict] ?? "", className: wordClass(row.verdict)});
        return make("td", {className: "word"}, word, row.fragile === "True" ? ", fragile" : "");
      }
      return make("td", {textContent: name === "early" ? shown(number(row.early), name) : estimates().includes(name) ? withEnds(row, name) : row[name]});
    });
    return make("tr", {className: row.arm === at("first").value ? "chosen" : ""}, ...cells);
  });
  at("table").replaceChildren(make("thead", {}, head), make("tbody", {}, ...body));
  at("count").textContent = `${rows.length} of ${summary.length} arms`;
}

function download() {
  const link = make("a", {href: URL.createObjectURL(new Blob([data.summary], {type: "text/csv"})), download: `${data.study.name}-summary.csv`});
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

// --- one number against another

function drawScatter() {
  const [across, up] = [at("across").value, at("up").value], c = colors();
  const scale = (name) => (isAccuracy(name) ? 100 : 1);
  const rows = rowsShown().filter((row) => Number.isFinite(number(row[across])) && Number.isFinite(number(row[up])));
  const words = [...new Set(rows.map((row) => row.verdict || "no verdict"))];
  const bars = (of, name) => {
    const ends = of.map((row) => endsOf(row, name) ?? [number(row[name]), number(row[name])]);
    return {type: "data", symmetric: false, thickness: 1, width: 0,
      array: of.map((row, k) => scale(name) * (ends[k][1] - number(row[name]))),
      arrayminus: of.map((row, k) => scale(name) * (number(row[name]) - ends[k][0]))};
  };
  const traces = words.map((word, k) => {
    const of = rows.filter((row) => (row.verdict || "no verdict") === word);
    const color = c[wordClass(word)] ?? c.soft;
    return {type: "scatter", mode: rows.length > 15 ? "markers" : "markers+text", textposition: "top right", texttemplate: "%{customdata}", name: `${word} (${of.length})`, customdata: of.map((row) => row.arm),
      x: of.map((row) => scale(across) * number(row[across])), y: of.map((row) => scale(up) * number(row[up])),
      error_x: {...bars(of, across), color}, error_y: {...bars(of, up), color},
      text: of.map((row) => `<b>${row.arm}</b><br>${labeled(across)}: ${withEnds(row, across)}<br>${labeled(up)}: ${withEnds(row, up)}<br>n = ${row.n}, ${row.verdict || "no verdict"}`),
      hovertemplate: "%{text}<extra></extra>",
      marker: {size: 10, color, symbol: ["circle", "square", "triangle-down", "diamond", "cross", "x"][k % 6], line: {color: c.back, width: 1},
        opacity: of.map((row) => (row.arm === at("first").value || row.arm === at("second").value ? 1 : 0.75))}};
  });
  const marked = [at("first").value, at("second").value].map((arm) => rowOf[arm]).filter((row) => rows.includes(row));
  const annotations = rows.length > 15 ? marked.map((row) => ({x: scale(across) * number(row[across]), y: scale(up) * number(row[up]), text: row.arm,
    showarrow: true, arrowhead: 0, ax: 25, ay: -25, font: {color: c.fore}, arrowcolor: c.soft})) : [];
  const shapes = [[across, "x"], [up, "y"]].filter(([name]) => name === "drop").map(([name, axis]) => ({
    type: "line", [axis + "0"]: 100 * data.study.drop_margin, [axis + "1"]: 100 * data.study.drop_margin,
    [(axis === "x" ? "y" : "x") + "ref"]: "paper", [(axis === "x" ? "y" : "x") + "0"]: 0, [(axis === "x" ? "y" : "x") + "1"]: 1, line: {dash: "dot", width: 1, color: c.soft}}));
  Plotly.react("scatter", traces, layout({x: labeled(across), y: labeled(up), annotations, shapes}), CONFIG);
}

// --- arms

function chosenArms() {
  const [first, second] = [at("first").value, at("second").value];
  return second && second !== first ? [first, second] : [first];
}

function drawCurves() {
  const name = at("column").value, c = colors(), scale = name === data.study.score ? 100 : 1;
  const width = Math.max(1, Math.round(Number(at("window").value)) || 1), traces = [];
  chosenArms().forEach((arm, k) => {
    const curve = curveOf(arm, name), color = [c.first, c.second][k];
    if (!curve) return;
    const dense = curve.tasks.length === data.study.tasks;
    const runs = curve.runs.map((run) => (dense ? runningMean(run, width) : run).map((value) => scale * value));
    const across = curve.tasks.map((_, j) => runs.map((run) => run[j]).filter(Number.isFinite));
    const ends = across.map((of) => interval(of));
    if (ends.some(Boolean)) {
      const clip = (value) => (name === data.study.score ? Math.min(Math.max(value, 0), 100) : value);
      traces.push({x: curve.tasks, y: ends.map((e) => (e ? clip(e[0]) : null)), mode: "lines", line: {width: 0}, hoverinfo: "skip", showlegend: false});
      traces.push({x: curve.tasks, y: ends.map((e) => (e ? clip(e[1]) : null)), mode: "lines", line: {width: 0}, fill: "tonexty", fillcolor: color + "30", hoverinfo: "skip", showlegend: false});
    }
    if (at("seeds").checked)
      runs.forEach((run, row) => traces.push({x: curve.tasks, y: run, mode: dense ? "lines" : "lines+markers", line: {width: 0.8, color}, marker: {size: 4}, opacity: 0.5, showlegend: false,
        name: `${arm}, seed ${data.arms[arm].seeds[row]}`, hovertemplate: "task %{x}: %{y:.4g}<extra>%{fullData.name}</extra>"}));
    traces.push({x: curve.tasks, y: across.map((of) => (of.length ? mean(of) : null)), mode: dense ? "lines" : "lines+markers", line: {width: 2.5, color}, name: `${arm}, n = ${runs.length}`,
      hovertemplate: "task %{x}: %{y:.4g}<extra>%{fullData.name}</extra>"});
  });
  const label = name === data.study.score ? `${data.study.score_words} (%)` : labeled(name);
  Plotly.react("curves", traces, layout({x: "task", y: label, yaxis: {type: at("logarithmic").checked ? "log" : "linear"}}), CONFIG);
  const without = chosenArms().filter((arm) => !curveOf(arm, name));
  at("about-curves").textContent = "Thick: mean over seeds; shaded: its 95 % interval; thin: single seeds. "
    + (name === data.study.score ? "" : "Numbers of this column have three digits here; the records have all. ")
    + (without.length ? `No such column: ${without.join(", ")}.` : "");
}

function drawSeeds() {
  const arms = chosenArms(), c = colors();
  const seeds = [...new Set(arms.flatMap((arm) => data.arms[arm].seeds))].sort((a, b) => a - b);
  const names = ["early", "level", "drop"];
  const value = (arm, name, seed) => data.arms[arm].of_seeds[name]?.[data.arms[arm].seeds.indexOf(seed)] ?? NaN;
  const two = arms.length === 2;
  const head = make("tr", {}, make("th", {scope: "col", textContent: "seed"}),
    ...arms.flatMap((arm) => names.map((name) => make("th", {scope: "col", textContent: `${arm}: ${labeled(name)}`}))),
    ...(two ? ["level", "drop"].map((name) => make("th", {scope: "col", textContent: `difference: ${labeled(name)}`})) : []));
  const body = seeds.map((seed) => make("tr", {}, make("td", {textContent: seed}),
    ...arms.flatMap((arm) => names.map((name) => make("td", {textContent: shown(value(arm, name, seed), name)}))),
    ...(two ? ["level", "drop"].map((name) => make("td", {textContent: shown(value(arms[0], name, seed) - value(arms[1], name, seed), name)})) : [])));
  const total = (of, name) => {
    const finite = of.filter(Number.isFinite), ends = interval(finite);
    return finite.length ? shown(mean(finite), name) + (ends ? ` [${shown(ends[0], name)}, ${shown(ends[1], name)}]` : "") : "";
  };
  body.push(make("tr", {className: "differs"}, make("td", {textContent: "mean"}),
    ...arms.flatMap((arm) => names.map((name) => make("td", {textContent: total(seeds.map((seed) => value(arm, name, seed)), name)}))),
    ...(two ? ["level", "drop"].map((name) => make("td", {textContent: total(seeds.map((seed) => value(arms[0], name, seed) - value(arms[1], name, seed)), name)})) : [])));
  at("of-seeds").replaceChildren(make("thead", {}, head), make("tbody", {}, ...body));
  const traces = arms.map((arm, k) => ({type: "scatter", mode: "markers", name: arm, x: seeds.map(String), y: seeds.map((seed) => 100 * value(arm, "drop", seed)),
    marker: {size: 10, color: [c.first, c.second][k], symbol: ["circle", "square"][k]}, hovertemplate: "seed %{x}: %{y:.2f}<extra>%{fullData.name}</extra>"}));
  Plotly.react("pairs", traces, layout({x: "seed", y: "drop (points)", xaxis: {type: "category"}}), CONFIG);
}

function drawOptions() {
  const arms = chosenArms();
  const names = [...new Set(arms.flatMap((arm) => Object.keys(data.options[arm])))];
  const head = make("tr", {}, make("th", {scope: "col", textContent: "option"}), ...arms.map((arm) => make("th", {scope: "col", textContent: arm})));
  const body = names.map((name) => {
    const of = arms.map((arm) => data.options[arm][name] ?? "");
    return make("tr", {className: of.every(Boolean) && new Set(of).size > 1 ? "differs" : ""}, make("td", {textContent: name}), ...of.map((text) => make("td", {textContent: text})));
  });
  at("options").replaceChildren(make("thead", {}, head), make("tbody", {}, ...body));
  const row = Object.fromEntries(arms.map((arm) => [arm, rowOf[arm] ?? {}]));
  const columns = data.columns.map((column) => column.name).filter((name) => arms.some((arm) => row[arm][`${name}_first`]));
  at("metrics").replaceChildren(
    make("thead", {}, make("tr", {}, make("th", {scope: "col", textContent: "column"}), ...arms.flatMap((arm) => ["first", "last"].map((end) => make("th", {scope: "col", textContent: `${arm}, ${end} tenth`}))))),
    make("tbody", {}, ...columns.map((name) => make("tr", {}, make("td", {title: name, textContent: labeled(name)}),
      ...arms.flatMap((arm) => ["first", "last"].map((end) => make("td", {textContent: withEnds(row[arm], `${name}_${end}`)})))))));
}

function drawArms() {
  drawCurves();
  drawSeeds();
  drawOptions();
  drawTable();
  drawScatter();
}

function choose(arm) {
  at("first").value = arm;
  drawArms();
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  at("arms").scrollIntoView({behavior: still ? "auto" : "smooth"});
}

// --- all of it

function drawAll() {
  drawArms();
}

function writeHead() {
  const study = data.study;
  at("name").textContent = study.name;
  at("question").textContent = study.question;
  const facts = [["protocol", study.protocol], ["options of all arms", study.options || "as the preset says"], ["seeds", study.seeds.join(", ")],
    ["margin of the drop", `${100 * study.drop_margin} points`], ["margin of the slope", `${100 * study.slope_margin} points per 100 tasks`],
    ["pairs that were declared", study.compared.map(([arm, other]) => `${arm} against ${other}`).join("; ") || "none"],
    ["digest of the study", study.digest], ["digest of the numbers", study.numbers], ["program", `quantum-plasticity ${study.version}`],
    ["trained by", study.commands[0]], ["written again by", study.commands[1]],
    ["not complete", study.missing.map(([arm, seed, count]) => `${arm} seed ${seed} (${count < 0 ? "cannot be read" : `${count} of ${study.tasks} tasks`})`).join("; ") || "nothing: all cells are complete"]];
  at("provenance").replaceChildren(...facts.flatMap(([name, text]) => [make("dt", {textContent: name}), make("dd", {textContent: text})]));
  const said = new Set(summary.map((row) => row.verdict));
  at("explained").replaceChildren(...Object.entries(data.explained).filter(([word]) => said.has(word)).flatMap(([word, text]) => [make("dt", {textContent: word}), make("dd", {textContent: text})]));
}

function writeControls() {
  const arms = summary.map((row) => row.arm), reference = data.study.compared[0];
  const unique = (of) => [...new Set(of)].map((name) => [name, name]);
  fill(at("family"), [["", "all"], ...unique(arms.map(familyOf).sort())]);
  fill(at("verdict"), [["", "all"], ...unique(summary.map((row) => row.verdict || "none"))]);
  const options = estimates().map((name) => [name, labeled(name)]);
  fill(at("beside"), [["", "nothing"], ...options]);
  fill(at("across"), options, "drop");
  fill(at("up"), options, "level");
  const trained = arms.filter((arm) => data.arms[arm].seeds.length);
  fill(at("first"), (trained.length ? trained : arms).map((arm) => [arm, arm]), reference?.[0]);
  fill(at("second"), [["", "no other"], ...trained.map((arm) => [arm, arm])], reference?.[1]);
  fill(at("column"), data.columns.map((column) => [column.name, column.label]), data.study.score);
  at("window").value = Math.max(1, Math.round(data.study.tasks / 20));
  for (const id of ["search", "family", "verdict"]) at(id).addEventListener("input", () => { drawTable(); drawScatter(); });
  at("beside").addEventListener("input", drawTable);
  for (const id of ["across", "up"]) at(id).addEventListener("input", drawScatter);
  for (const id of ["first", "second"]) at(id).addEventListener("input", drawArms);
  for (const id of ["column", "window", "seeds", "logarithmic"]) at(id).addEventListener("input", drawCurves);
  at("csv").addEventListener("click", download);
  at("theme").addEventListener("click", () => {
    const root = document.documentElement, dark = matchMedia("(prefers-color-scheme: dark)").matches;
    root.dataset.theme = (root.dataset.theme ?? (dark ? "dark" : "light")) === "dark" ? "light" : "dark";
    drawAll();
  });
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", drawAll);
}

async function main() {
  writeHead();
  const [program, planes] = await Promise.all([unpacked("plotly"), unpacked("values")]);
  document.head.append(make("script", {textContent: new TextDecoder().decode(program)}));
  values = numbersOf(planes);
  writeControls();
  document.querySelector("main").hidden = false;
  drawAll();
  at("scatter").on("plotly_click", (event) => choose(event.points[0].customdata));
  at("message").hidden = true;
  document.documentElement.dataset.ready = "yes";
}

main().catch((error) => {
  at("message").textContent = `This browser cannot show the page (${error.message}). report.md beside it has the same numbers.`;
  throw error;
});
