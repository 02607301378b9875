// The plots, by Vega-Lite, whose script lies inert in the page until the first of them is drawn. Colours are variables
// of the style sheet, so that they follow the theme and the printer. `ast`: expressions are interpreted, not compiled,
// as the content security policy forbids `eval`.

const INK = (name) => `var(--${name})`;
const AXIS = { labelColor: INK("dim"), titleColor: INK("dim"), gridColor: INK("line"), domainColor: INK("line"), tickColor: INK("line"),
  titleFontWeight: 400, labelFontSize: 11, titleFontSize: 11, gridOpacity: 0.7 };
const CONFIG = { background: null, font: "system-ui, sans-serif", axis: AXIS, view: { stroke: null }, aria: false,
  text: { font: "system-ui, sans-serif", fontSize: 11 } };

function vega() {
  if (!window.vegaEmbed) document.head.append(make("script", {}, byId("vega").textContent));
  return window.vegaEmbed;
}

async function plot(place, spec) {
  const options = { mode: "vega-lite", renderer: "svg", actions: false, ast: true, defaultStyle: false,
    tooltip: { disableDefaultStyle: true } };
  const { view } = await vega()(place, { width: "container", autosize: { type: "fit-x", contains: "padding" }, config: CONFIG, ...spec }, options);
  return view;
}

function figureOf(title, said) {
  const canvas = make("div", { class: "canvas", role: "img", "aria-label": said });
  return { canvas, figure: make("figure", { class: "plot" }, make("figcaption", {}, title), canvas) };
}

async function drawErrors(place, model, draw) {
  place.replaceChildren(make("p", { class: "small" }, "Modules in the order in which they complete, on one example in eval mode; a logarithmic scale. A point is a module: choose one to see it in the tree. The line is the noise floor, the original's own error there. What is exact stands at the lower edge."),
    make("ul", { class: "legend" }, LEVELS.slice(1).map((label, i) => make("li", {}, dot(i + 1), label)), make("li", {}, make("span", { class: "dash" }), "noise floor")));
  for (const [key, title] of [["forward", "Forward: error of the module's output"], ["gradient", "Gradient: error of what arrives at the module's output"]]) {
    const rows = errorRows(model, key);
    if (!rows.length) continue;
    const over = rows.filter((row) => row.level > 1).length;
    const { canvas, figure: box } = figureOf(title, `${title}, ${counted(rows.length, "module")}, ${over} above 2 times the floor. The tree of modules holds the figures.`);
    place.append(box);
    const view = await plot(canvas, errorSpec(rows, model.order.length));
    view.addEventListener("click", (_, item) => item?.datum?.path !== undefined && (draw.ready("tree"), draw.select(item.datum.path)));
  }
}

// A logarithm has no place for 0 and infinity: they stand at the edges, and the tooltip says what they are.
function errorRows(model, key) {
  const known = model.order.map((node, at) => ({ node, at, ...node[key] })).filter(({ error }) => error !== null);
  const positive = known.flatMap(({ error, floor }) => [error, floor]).filter((value) => value > 0 && Number.isFinite(value));
  const [low, high] = [positive.reduce((a, b) => Math.min(a, b), 1), positive.reduce((a, b) => Math.max(a, b), 1e-18)];
  const place = (value) => (value === null ? null : value === 0 ? low / 10 : Number.isFinite(value) ? value : high * 10);
  return known.map(({ node, at, error, floor, ratio }) => ({
    at, path: node.path, module: node.path || "(model)", class: node.kind, y: place(error), f: place(floor), error: figure(error), floor: figure(floor),
    ratio: times(ratio), level: levelOf(ratio), parts: node.located.includes(key === "forward" ? "forward" : "backward"),
  }));
}

function errorSpec(rows, modules) {
  const last = Math.max(1, modules - 1);
  const powers = powersAround(rows.flatMap((row) => [row.y, row.f]).filter((value) => value !== null));
  const x = { field: "at", type: "quantitative", title: "module, in order", scale: { domain: [-0.5, last + 0.5], nice: false, zero: false }, axis: { grid: false, tickMinStep: 1, format: "d" } };
  const y = (field) => ({ field, type: "quantitative", title: "error, relative to scale", scale: { type: "log", nice: false, domain: [powers[0], powers[powers.length - 1]] }, axis: { format: ".0e", values: thinned(powers, 8) } });
  const small = rows.length > 300;
  const level = { field: "level", type: "nominal", legend: null };
  const tooltip = ["module", "class", "error", "floor", "ratio"].map((field) => ({ field, type: "nominal", title: field === "ratio" ? "× floor" : field }));
  const marked = { data: { values: rows.filter((row) => row.parts) }, encoding: { x } };
  return {
    height: 240,
    data: { values: rows },
    layer: [
      ...(rows.some((row) => row.f !== null) ? [{ mark: { type: "line", color: INK("floor"), strokeWidth: small ? 1 : 1.5 }, encoding: { x, y: y("f") } }] : []),
      { ...marked, mark: { type: "rule", color: INK("bad"), strokeDash: [3, 3] } },
      { ...marked, mark: { type: "text", color: INK("bad"), baseline: "bottom", y: -3, text: "parts here" } },
      {
        mark: { type: "point", filled: true, opacity: 1, size: small ? 18 : 55, cursor: "pointer" },
        encoding: { x, y: y("y"), tooltip,
          color: { ...level, scale: { domain: [0, 1, 2, 3, 4], range: [0, 1, 2, 3, 4].map((n) => INK(`l${n}`)) } },
          shape: { ...level, scale: { domain: [0, 1, 2, 3, 4], range: ["circle", "circle", "circle", "square", "diamond"] } } },
      },
    ],
  };
}

// Powers of ten from below the least to above the greatest, at least two of them.
function powersAround(values) {
  const logs = values.map(Math.log10);
  const low = Math.floor(logs.reduce((a, b) => Math.min(a, b)));
  const high = Math.max(low + 2, Math.ceil(logs.reduce((a, b) => Math.max(a, b))));
  return Array.from({ length: high - low + 1 }, (_, i) => Number(`1e${low + i}`));
}

// Every n-th, so that at most so many are left.
const thinned = (values, most) => values.filter((_, i) => i % Math.ceil(values.length / most) === 0);

async function drawDistributions(place, model) {
  const grid = make("div", { class: "small-multiples" });
  place.replaceChildren(
    make("p", { class: "small" }, "Elements by the size of their error, over all examples. Counts are on a logarithmic scale, so that a few bad elements are seen among many. The outermost bins hold what lies beyond them, too."),
    make("ul", { class: "legend" }, make("li", {}, dot(1), "converted model"), make("li", {}, make("span", { class: "dash" }), "the original's own error")),
    grid);
  for (const said of model.data.distributions) {
    const elements = said.counts.reduce((a, b) => a + b, 0);
    const title = `${said.quantity}, ${said.stage} (${said.dtype})`;
    const exact = said.exact ? `; ${said.exact.toLocaleString("en")} more are exact` : "";
    const { canvas, figure: box } = figureOf(make("span", {}, title, make("span", { class: "small" }, ` ${counted(elements, "element")}${exact}`)), `Histogram of errors: ${title}, ${elements} elements${exact}`);
    grid.append(box);
    await plot(canvas, histogramSpec(said));
  }
}

function histogramSpec({ edges, counts, floor }) {
  const rows = counts.map((count, i) => ({ from: edges[i], to: edges[i + 1], count, floor: floor[i] ?? null,
    range: `1e${edges[i]} to 1e${edges[i + 1]}` }));
  const filled = rows.map((row) => Boolean(row.count || row.floor));
  const seen = rows.slice(Math.max(0, filled.indexOf(true)), filled.lastIndexOf(true) + 1);
  const domain = seen.length ? [seen[0].from, seen[seen.length - 1].to] : [edges[0], edges[edges.length - 1]];
  const line = [...seen, ...seen.slice(-1).map((row) => ({ ...row, from: row.to }))]; // the last step has an end, too
  const integers = Array.from({ length: Math.floor(domain[1]) - Math.ceil(domain[0]) + 1 }, (_, i) => Math.ceil(domain[0]) + i);
  const scale = { domain, nice: false, zero: false };
  const x = { field: "from", type: "quantitative", bin: "binned", scale, title: "error relative to scale, power of ten", axis: { grid: false, format: "d", values: thinned(integers, 8), labelFlush: false } };
  const y = (field) => ({ field, type: "quantitative", title: "elements", scale: { type: "symlog" }, axis: { labelExpr: "format(datum.value, '~s')", values: decades(rows) } });
  const tooltip = [["range", "error"], ["count", "converted"], ["floor", "original"]].map(([field, title]) => ({ field, title, type: "nominal" }));
  return {
    height: 130,
    data: { values: seen },
    layer: [
      { mark: { type: "bar", color: INK("l1"), opacity: 0.75 }, encoding: { x, x2: { field: "to" }, y: y("count"), tooltip } },
      ...(floor.length ? [{ data: { values: line }, mark: { type: "line", interpolate: "step-after", color: INK("floor"), strokeWidth: 1.75 },
        encoding: { x: { field: "from", type: "quantitative", scale }, y: y("floor") } }] : []),
    ],
  };
}

function decades(rows) {
  const most = Math.max(1, ...rows.map((row) => Math.max(row.count, row.floor ?? 0)));
  const step = most > 1e4 ? 100 : 10;
  const found = [0];
  for (let value = step === 100 ? 100 : 1; value <= most * 2; value *= step) found.push(value);
  return found;
}
