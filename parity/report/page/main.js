// What is opened is drawn when it is seen; what is printed is opened and drawn whole.

const DRAWN = { tree: drawTree, errors: drawErrors, distributions: drawDistributions };
const drawing = new Map(); // section -> promise

function drawSection(section) {
  if (drawing.has(section)) return drawing.get(section);
  const result = section.closest(".result");
  const draw = drawOf(result);
  const place = section.querySelector(".lazy");
  const work = async () => {
    try {
      await DRAWN[section.dataset.draw](place, modelOf(Number(result.dataset.index)), draw);
    } catch (error) {
      place.append(make("p", { class: "note" }, `This could not be drawn: ${error.message}`));
      throw error;
    } finally {
      section.dataset.drawn = "";
    }
  };
  drawing.set(section, work());
  return drawing.get(section);
}

// What the parts of one result share: `select(path)` shows a module in the tree, `ready(part)` draws a part first.
const shared = new Map();
function drawOf(result) {
  if (!shared.has(result)) {
    const ready = (part) => drawSection(result.querySelector(`[data-draw=${part}]`));
    shared.set(result, { select: () => {}, ready });
  }
  return shared.get(result);
}

const seen = new IntersectionObserver((entries) => {
  for (const { isIntersecting, target } of entries) {
    if (!isIntersecting) continue;
    seen.unobserve(target);
    drawSection(target);
  }
}, { rootMargin: "400px" });

const watch = (result) => result.querySelectorAll("[data-draw]").forEach((section) => seen.observe(section));

// Opens every section and draws what is not drawn. The widths are the screen's; the printer scales the pictures.
let closed = null;
function openAll() {
  closed ??= [...document.querySelectorAll("details:not([open])")];
  closed.forEach((details) => (details.open = true));
  return Promise.allSettled([...document.querySelectorAll(".result:not([hidden]) [data-draw]")].map(drawSection));
}

function closeAgain() {
  closed?.forEach((details) => (details.open = false));
  closed = null;
}

function openAt(hash) {
  const target = /^#result-\d+$/.test(hash) ? byId(hash.slice(1)) : null;
  if (!target) return;
  target.open = true;
  target.scrollIntoView();
  target.querySelector("summary").focus({ preventScroll: true });
}

document.querySelector(".tools").hidden = false;
document.addEventListener("toggle", ({ target }) => target.classList.contains("result") && target.open && watch(target), true);
document.querySelectorAll(".result[open]").forEach(watch);
window.addEventListener("hashchange", () => openAt(location.hash));
document.addEventListener("click", ({ target }) => openAt(target.closest?.("a")?.getAttribute("href") ?? ""));
window.addEventListener("beforeprint", openAll);
window.addEventListener("afterprint", closeAgain);
byId("print").addEventListener("click", async () => {
  await openAll();
  window.print();
});
for (const button of document.querySelectorAll(".copy")) {
  if (!navigator.clipboard) break;
  button.hidden = false;
  button.addEventListener("click", async () => {
    await navigator.clipboard.writeText(button.parentElement.querySelector("code").textContent);
    button.textContent = "Copied";
    setTimeout(() => (button.textContent = "Copy"), 1500);
  });
}
startTheme();
startOverview();
openAt(location.hash);
