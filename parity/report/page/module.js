// What is known of one module: its errors against the floor, what the location of the difference measured, its arrays.

const WORST = 6; // listed of what lies below a module

function modulePage(node, select) {
  const facts = [node.kind, node.counterpart && `counterpart ${node.counterpart}`, node.never && "never ran"].filter(Boolean);
  const found = [
    make("h4", { class: "name" }, node.path || "(model)"),
    make("p", { class: "small" }, facts.join(" · ") || "no class is known"),
    figuresTable(node),
    errorsTable(node),
    ...worstBelow(node, select),
    evidenceTable(node),
  ];
  return found.filter(Boolean);
}

const head = (...labels) =>
  make("thead", {}, make("tr", {}, labels.map((label, i) => make("th", { scope: "col", class: i ? "number" : null }, label))));
const numbers = (...texts) => texts.map((text) => make("td", { class: "number" }, text));

function figuresTable(node) {
  const rows = [["forward", node.forward], ["gradient", node.gradient]].filter(([, said]) => said.error !== null);
  if (!rows.length) return make("p", { class: "small" }, "Its errors were not measured against the floor.");
  return make("table", {}, head("Error", "measured", "floor", "× floor"), make("tbody", {}, rows.map(([name, said]) =>
    make("tr", {}, make("th", { scope: "row" }, dot(levelOf(said.ratio)), ` ${name}`),
      numbers(figure(said.error), figure(said.floor), times(said.ratio))))));
}

function errorsTable(node) {
  if (!node.errors.length) return null;
  return make("table", {}, head("Located in float64", "own", "accumulated", "allowed"), make("tbody", {}, node.errors.map((said) =>
    make("tr", { class: said.local > said.tolerance ? "bad" : null },
      make("th", { scope: "row" }, said.direction + (node.located.includes(said.direction) ? ": parts here" : "")),
      numbers(figure(said.local), figure(said.accumulated), figure(said.tolerance))))));
}

// Links to the worst of what lies below: how a reader gets from a model to the module at fault.
function worstBelow(node, select) {
  const found = [];
  const walk = (at) => at.children.forEach((child) => (found.push(child), walk(child)));
  walk(node);
  const bad = found.filter((below) => below.level > 1);
  if (!bad.length) return found.length ? [make("p", { class: "small" }, `${counted(found.length, "module")} below, all at the floor or not measured.`)] : [];
  bad.sort((a, b) => b.located.length - a.located.length || b.level - a.level || (b.ratio ?? 0) - (a.ratio ?? 0));
  return [
    make("p", { class: "small" }, `${counted(bad.length, "module")} of ${found.length.toLocaleString("en")} below above 2×, the worst:`),
    make("ul", { class: "legend" }, bad.slice(0, WORST).map((below) => make("li", {}, dot(below.level),
      make("button", { type: "button", class: "name", onclick: () => select(below.path) }, below.path), times(below.ratio)))),
  ];
}

// In the precision stage a single example beyond what is allowed is a vote, not a failure.
function outcome({ compared, failed, inconclusive, vacuous, differs }) {
  if (failed) return `${failed} of ${compared} ${differs ? "failed" : "above, tolerated"}`;
  const judged = compared - inconclusive - vacuous;
  if (!judged) return vacuous === compared ? "empty" : "unclear";
  return `${judged} equal`;
}

function evidenceTable(node) {
  const owned = node.owns.filter((name) => ![...node.arrays.keys()].some((title) => title.endsWith(` ${name}`)));
  const rest = owned.length ? make("p", { class: "small" }, `Without evidence: ${owned.join(", ")}`) : null;
  if (!node.arrays.size) return rest;
  const rows = [...node.arrays].flatMap(([title, lines]) => [
    make("tr", { class: "array" }, make("th", { scope: "colgroup", colspan: 6 }, title)),
    ...lines.map((line) => make("tr", { class: line.differs ? "bad" : null },
      make("th", { scope: "row" }, `${line.stage}, ${line.mode}, ${line.dtype}`),
      numbers(figure(line.error), figure(line.tolerance), figure(line.floor), times(line.ratio), outcome(line)))),
  ]);
  const table = make("table", {}, head("Worst of its arrays", "error", "allowed", "floor", "× own", "compared"), make("tbody", {}, rows));
  return make("div", { class: "scroll" }, table, rest ?? "");
}
