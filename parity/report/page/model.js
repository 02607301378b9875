// The data of one result (html_data.py) as a tree of modules, each with its figures, its evidence and its level.

const LEVELS = ["not measured", "at the floor, up to 2×", "up to 8×", "up to 32×", "beyond 32×, or failed"];
const BOUNDS = [2, 8, 32]; // 32: the tolerance of the precision stage, in units of the original's own error

const models = new Map();

function modelOf(index) {
  if (!models.has(index)) models.set(index, buildModel(JSON.parse(byId(`data-${index}`).textContent)));
  return models.get(index);
}

function buildModel(data) {
  const model = { data, nodes: new Map(), order: [], numbered: [] };
  nodeAt(model, "");
  (data.paths ?? []).forEach((path, index) => {
    const node = nodeAt(model, path);
    model.numbered[index] = node;
    Object.assign(node, {
      kind: data.kind[index],
      counterpart: data.counterpart[index],
      owns: data.owns[index].map((name) => fullName(name, path)),
      forward: measured(data.forward[index], data.forward_floor[index]),
      gradient: measured(data.gradient[index], data.gradient_floor[index]),
    });
  });
  model.order = (data.order ?? []).map((index) => model.numbered[index]);
  (data.never ?? []).forEach((index) => (model.numbered[index].never = true));
  addEvidence(model);
  addLocated(model);
  rate(model.nodes.get(""));
  return model;
}

// The node of a dotted path; those above it are made where nobody named them.
function nodeAt(model, path) {
  const found = model.nodes.get(path);
  if (found) return found;
  const cut = path.lastIndexOf(".");
  const parent = path === "" ? null : nodeAt(model, cut < 0 ? "" : path.slice(0, cut));
  const node = {
    path, parent, label: path === "" ? "(model)" : path.slice(cut + 1), depth: parent ? parent.depth + 1 : 0,
    children: [], kind: "", counterpart: "", owns: [], forward: measured(null, null), gradient: measured(null, null),
    arrays: new Map(), located: [], errors: [], failed: 0, never: false, level: 0, below: 0, ratio: null, id: model.nodes.size,
  };
  parent?.children.push(node);
  model.nodes.set(path, node);
  return node;
}

const fullName = (name, path) => (name.startsWith("=") ? name.slice(1) : `${path}.${name}`);

function measured(error, floor) {
  const [e, f] = [number(error), number(floor)];
  let ratio = null;
  if (e !== null && e !== undefined && f !== null && f !== undefined) ratio = e === 0 ? 0 : e / f;
  return { error: e ?? null, floor: f ?? null, ratio };
}

function addEvidence(model) {
  const { rows, groups, arrays, lines } = model.data;
  const cell = (key, row) => (Array.isArray(rows[key]) ? rows[key][row] : rows[key]);
  for (let row = 0; row < (lines ?? 0); row++) {
    const [name, at] = arrays[cell("array", row)];
    const node = model.numbered[at];
    const [stage, quantity, mode, dtype] = groups[cell("group", row)];
    const line = { stage, quantity, mode, dtype };
    for (const key of ["compared", "equal", "failed", "inconclusive", "vacuous"]) line[key] = cell(key, row);
    for (const key of ["error", "tolerance", "floor", "ratio"]) line[key] = number(cell(key, row));
    line.differs = cell("differs", row) === 1;
    const title = `${quantity} ${fullName(name, node.path)}`;
    if (!node.arrays.has(title)) node.arrays.set(title, []);
    node.arrays.get(title).push(line);
    node.failed += line.differs;
  }
}

function addLocated(model) {
  for (const { direction, at, errors } of model.data.located ?? []) {
    model.numbered[at].located.push(direction);
    for (const [index, local, accumulated, tolerance] of errors) {
      model.numbered[index].errors.push({
        direction, local: number(local), accumulated: number(accumulated), tolerance: number(tolerance),
      });
    }
  }
}

function levelOf(ratio) {
  if (ratio === null) return 0;
  if (!(ratio <= BOUNDS[2])) return 4;
  return BOUNDS.findIndex((bound) => ratio <= bound) + 1;
}

// Its own level: the profile's ratios, failures of its arrays, and being located. Where nothing was profiled, how much
// of the tolerance its arrays need. `below`: the worst level of what lies under it.
function rate(node) {
  node.children.forEach(rate);
  const ratios = [node.forward.ratio, node.gradient.ratio].filter((ratio) => ratio !== null);
  node.ratio = ratios.length ? Math.max(...ratios) : null;
  node.level = levelOf(node.ratio);
  if (!ratios.length) {
    for (const line of [...node.arrays.values()].flat()) {
      if (line.compared > line.inconclusive + line.vacuous && line.tolerance > 0) {
        const level = levelOf((line.error / line.tolerance) * BOUNDS[2]);
        node.level = Math.max(node.level, line.differs ? level : Math.min(3, level)); // a vote is no failure
      }
    }
  }
  if (node.failed || node.located.length) node.level = 4;
  node.below = Math.max(0, ...node.children.map((child) => Math.max(child.level, child.below)));
}
