// The tree of modules (role=tree): rows are built when they come into view of the reader, that is, when expanded.

const FIRST_ROWS = 60; // opened at the beginning, as far as whole levels fit
const MOST_ROWS = 3000; // built at once; a filter brings the rest

function drawTree(place, model, draw) {
  const state = { model, open: new Set([""]), focus: "", chosen: null, rows: [], filter: null };
  const tree = make("div", { class: "tree", role: "tree", "aria-label": "Modules" });
  const panel = make("div", { class: "module card", role: "region", "aria-label": "The chosen module" });
  const count = make("p", { role: "status" });
  Object.assign(state, { tree, panel, count });
  const filters = treeFilters(state);
  place.replaceChildren(
    filters,
    legend(),
    make("div", { class: "workbench" },
      make("div", {}, make("p", { class: "heads", "aria-hidden": "true" },
        make("span", {}, "module"), make("span", {}, "forward"), make("span", {}, "gradient")), tree),
      panel),
    omitted(model) ?? "",
  );
  openFirst(state);
  tree.addEventListener("click", (event) => clicked(state, event));
  tree.addEventListener("dblclick", (event) => toggle(state, nodeOf(state, event.target)));
  tree.addEventListener("keydown", (event) => pressed(state, event));
  state.select = (path) => reveal(state, path);
  draw.select = state.select;
  refresh(state);
  choose(state, [...model.nodes.values()].find((node) => node.located.length) ?? model.nodes.get(""));
  const row = state.chosen.row;
  tree.scrollTop = row.offsetTop - tree.offsetTop - tree.clientHeight / 2; // without moving the page
}

function treeFilters(state) {
  const text = make("input", { type: "search", placeholder: "path, class or parameter", autocomplete: "off", spellcheck: "false" });
  const over = make("select", {},
    [["", "any error"], ["1", "over the floor (above 1×)"], ["2", "above 2×"], ["8", "above 8×"], ["32", "above 32×"]]
      .map(([value, label]) => make("option", { value }, label)));
  const errors = make("input", { type: "checkbox" });
  const apply = () => {
    const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
    const active = words.length || over.value || errors.checked;
    state.filter = active ? { words, over: over.value ? Number(over.value) : null, errors: errors.checked } : null;
    refresh(state);
  };
  text.addEventListener("input", settled(apply));
  over.addEventListener("change", apply);
  errors.addEventListener("change", apply);
  const all = (open) => () => {
    state.open = new Set(open ? [...state.model.nodes.keys()] : [""]);
    refresh(state);
  };
  return make("div", { class: "filters tree-filters", role: "search", "aria-label": "Filter the modules" },
    make("label", { class: "grow" }, make("span", {}, "Find"), text),
    make("label", {}, make("span", {}, "Error against the floor"), over),
    make("label", { class: "chip" }, errors, "only with errors"),
    make("button", { type: "button", onclick: all(true) }, "Expand all"),
    make("button", { type: "button", onclick: all(false) }, "Collapse all"),
    state.count);
}

const omitted = ({ data }) => data.omitted
  ? make("p", { class: "small" }, `${counted(data.omitted, "line")} of evidence, those nearest to the original, are left out here; the JSON record holds them.`)
  : null;

function legend() {
  return make("ul", { class: "legend", "aria-label": "Colours: error in units of the noise floor" },
    LEVELS.map((label, level) => make("li", {}, dot(level), label)));
}

const dot = (level, hollow = false) =>
  make("span", { class: `dot level-${level}${hollow || level === 0 ? " hollow" : ""}`, "aria-hidden": "true" });

// Whole levels, breadth first, while they are few; and the way to where the models part.
function openFirst(state) {
  let level = [state.model.nodes.get("")];
  let rows = 1;
  while (level.length) {
    const next = level.flatMap((node) => node.children);
    rows += next.length;
    if (rows > FIRST_ROWS) break;
    level.forEach((node) => state.open.add(node.path));
    level = next;
  }
  for (const node of state.model.nodes.values()) if (node.located.length) openAbove(state, node);
}

function openAbove(state, node) {
  for (let above = node.parent; above; above = above.parent) state.open.add(above.path);
}

function matches(node, { words, over, errors }) {
  if (over !== null && !(node.ratio !== null && !(node.ratio <= over))) return false;
  if (errors && node.level !== 4) return false;
  if (!words.length) return true;
  const said = [node.path, node.kind, ...node.owns, ...node.arrays.keys()].join(" ").toLowerCase();
  return words.every((word) => said.includes(word));
}

// The rows to show, in order: with a filter, what matches and the way to it.
function visible({ model, open, filter }) {
  const found = [];
  let hits = 0;
  const walk = (node) => {
    const at = found.push({ node, hit: true, expanded: false }) - 1;
    const hit = !filter || matches(node, filter);
    hits += hit;
    let below = false;
    if (filter || open.has(node.path)) for (const child of node.children) below = walk(child) || below;
    if (filter && !hit && !below) {
      found.length = at;
      return false;
    }
    Object.assign(found[at], { hit, expanded: filter ? below : open.has(node.path) && node.children.length > 0 });
    return true;
  };
  walk(model.nodes.get(""));
  return { found, hits };
}

function refresh(state) {
  const { found, hits } = visible(state);
  state.rows = found.slice(0, MOST_ROWS);
  if (!state.rows.some(({ node }) => node.path === state.focus)) state.focus = state.rows[0]?.node.path ?? "";
  const focused = state.tree.contains(document.activeElement);
  state.tree.replaceChildren(...state.rows.map((row) => rowOf(state, row)));
  const total = counted(state.model.nodes.size, "module");
  const cut = found.length > MOST_ROWS ? `; the first ${MOST_ROWS.toLocaleString("en")} rows are shown` : "";
  state.count.textContent = state.filter ? `${hits.toLocaleString("en")} of ${total}${cut}` : total + cut;
  if (focused) focusOn(state, state.focus);
}

function rowOf(state, { node, hit, expanded }) {
  const inner = node.children.length > 0;
  const shown = inner && !expanded ? Math.max(node.level, node.below) : node.level;
  const where = node.located.length ? `parts here, ${node.located.join(" and ")}` : node.never ? "never ran" : "";
  const row = make("div", {
    class: `row${hit ? "" : " quiet"}`, role: "treeitem", "aria-level": node.depth + 1, "aria-expanded": inner ? expanded : null,
    "aria-selected": node === state.chosen, tabindex: node.path === state.focus ? 0 : -1, "data-id": node.id,
    "aria-label": [node.path || "the model", node.kind, LEVELS[node.level], where].filter(Boolean).join(", "),
  },
    make("span", { class: "twist", "aria-hidden": "true" }, inner ? (expanded ? "▾" : "▸") : ""),
    dot(shown, shown !== node.level),
    make("span", { class: "name", title: node.path }, node.label),
    make("span", { class: "kind" }, node.kind),
    where ? make("span", { class: "mark" }, node.located.length ? "parts here" : where) : null,
    ratioCell(node.forward.ratio), ratioCell(node.gradient.ratio));
  row.style.paddingInlineStart = `${0.5 + 0.95 * node.depth}rem`;
  node.row = row;
  return row;
}

const ratioCell = (ratio) => make("span", { class: `ratio${ratio !== null && !(ratio <= 8) ? " hot" : ""}` }, times(ratio));

function nodeOf(state, target) {
  const row = target.closest(".row");
  return row ? state.rows.find(({ node }) => String(node.id) === row.dataset.id)?.node : undefined;
}

function clicked(state, event) {
  const node = nodeOf(state, event.target);
  if (!node) return;
  if (event.target.closest(".twist")) toggle(state, node);
  focusOn(state, node.path);
  choose(state, node);
}

function toggle(state, node) {
  if (!node?.children.length || state.filter) return;
  if (!state.open.delete(node.path)) state.open.add(node.path);
  refresh(state);
}

function choose(state, node) {
  state.chosen?.row?.setAttribute("aria-selected", "false");
  state.chosen = node;
  node.row?.setAttribute("aria-selected", "true");
  state.panel.replaceChildren(...modulePage(node, state.select));
}

function focusOn(state, path) {
  state.tree.querySelector('[tabindex="0"]')?.setAttribute("tabindex", "-1");
  state.focus = path;
  const row = state.model.nodes.get(path)?.row;
  if (!row?.isConnected) return;
  row.setAttribute("tabindex", "0");
  row.focus({ preventScroll: true });
  row.scrollIntoView({ block: "nearest" });
}

// From a plot or a link: opened, chosen and in view of the tree, without a filter that hides it.
function reveal(state, path) {
  const node = state.model.nodes.get(path);
  if (!node) return;
  openAbove(state, node);
  if (state.filter && !state.rows.some((row) => row.node === node)) {
    state.filter = null;
    for (const field of state.tree.closest(".lazy").querySelectorAll(".tree-filters input, .tree-filters select")) {
      if (field.type === "checkbox") field.checked = false;
      else field.value = "";
    }
  }
  refresh(state);
  focusOn(state, path);
  choose(state, node);
}

// The keys of a tree view, as the ARIA practices name them.
function pressed(state, event) {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const at = state.rows.findIndex(({ node }) => node.path === state.focus);
  const row = state.rows[at];
  if (!row) return;
  const go = (index) => focusOn(state, state.rows[Math.max(0, Math.min(state.rows.length - 1, index))].node.path);
  const keys = {
    ArrowDown: () => go(at + 1),
    ArrowUp: () => go(at - 1),
    Home: () => go(0),
    End: () => go(state.rows.length - 1),
    PageDown: () => go(at + 15),
    PageUp: () => go(at - 15),
    ArrowRight: () => (row.node.children.length && !row.expanded ? toggle(state, row.node) : row.expanded && go(at + 1)),
    ArrowLeft: () => (row.expanded && !state.filter ? toggle(state, row.node) : row.node.parent && focusOn(state, row.node.parent.path)),
    Enter: () => choose(state, row.node),
    " ": () => choose(state, row.node),
    "*": () => {
      (row.node.parent?.children ?? [row.node]).forEach((node) => node.children.length && state.open.add(node.path));
      refresh(state);
    },
  };
  if (keys[event.key]) keys[event.key]();
  else if (event.key.length === 1 && !typeAhead(state, at, event.key)) return;
  event.preventDefault();
}

function typeAhead(state, at, key) {
  const order = [...state.rows.slice(at + 1), ...state.rows.slice(0, at + 1)];
  const found = order.find(({ node }) => node.label.toLowerCase().startsWith(key.toLowerCase()));
  if (found) focusOn(state, found.node.path);
  return Boolean(found);
}
