// The table of results: filtered by status (none chosen: every one) and text, sorted by a column. The results below follow the filter.

function startOverview() {
  const table = byId("overview-table");
  if (!table) return;
  const form = byId("overview-filters");
  const text = byId("overview-text");
  const body = table.tBodies[0];
  const rows = [...body.rows].map((row, index) => ({
    row,
    status: row.dataset.status,
    text: row.textContent.toLowerCase(),
    section: byId(`result-${index}`),
  }));
  const filter = () => {
    const statuses = new Set([...form.querySelectorAll("input:checked")].map((box) => box.value));
    const words = text.value.toLowerCase().split(/\s+/).filter(Boolean);
    let shown = 0;
    for (const { row, status, text: said, section } of rows) {
      const wanted = (!statuses.size || statuses.has(status)) && words.every((word) => said.includes(word));
      row.hidden = section.hidden = !wanted;
      shown += wanted;
    }
    byId("overview-count").textContent = `${shown} of ${counted(rows.length, "result")}`;
  };
  form.hidden = false;
  form.addEventListener("submit", (event) => event.preventDefault());
  form.addEventListener("change", filter);
  text.addEventListener("input", settled(filter, 60));
  table.tHead.addEventListener("click", (event) => {
    const head = event.target.closest("button")?.closest("th");
    if (head) sortRows(table, head);
  });
  filter();
}

function sortRows(table, head) {
  const down = head.getAttribute("aria-sort") === "ascending";
  for (const other of head.parentElement.cells) {
    if (other.hasAttribute("aria-sort")) other.setAttribute("aria-sort", "none");
  }
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const keys = new Map([...table.tBodies[0].rows].map((row) => [row, sortKey(row, head.cellIndex)]));
  const order = [...keys.keys()].sort((a, b) => compareKeys(keys.get(a), keys.get(b)));
  table.tBodies[0].append(...(down ? order.reverse() : order));
}

// By status: the gravest first, as the record's exit codes are ordered; the chips stand in that order.
function sortKey(row, column) {
  if (column === 0) {
    const boxes = [...byId("overview-filters").querySelectorAll("input[type=checkbox]")];
    return boxes.findIndex((box) => box.value === row.dataset.status);
  }
  return row.cells[column].dataset.key;
}

const compareKeys = (a, b) =>
  typeof a === "number" ? a - b : String(a).localeCompare(String(b), "en", { numeric: true });
