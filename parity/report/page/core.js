// Elements and numbers. Text reaches the page as text nodes only, never as markup.

const byId = (id) => document.getElementById(id);

function make(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else element.setAttribute(key, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

// Numbers that are not finite are texts in a verdict.
const WORDS = { nan: NaN, inf: Infinity, "-inf": -Infinity };
const number = (value) => (typeof value === "string" ? WORDS[value] ?? Number(value) : value);

function figure(value) {
  if (value === null || value === undefined) return "–";
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "nan" : value > 0 ? "inf" : "-inf";
  if (value === 0) return "0";
  return value.toExponential(1).replace("e+", "e");
}

function times(value) {
  if (value === null || value === undefined) return "–";
  if (value === 0) return "exact";
  if (!Number.isFinite(value)) return Number.isNaN(value) ? "nan" : "∞";
  if (value >= 9999.5) return `${value.toExponential(0).replace("e+", "e")}×`;
  return `${value >= 9.95 ? Math.round(value) : Number(value.toPrecision(2))}×`;
}

const counted = (count, noun) => `${count.toLocaleString("en")} ${noun}${count === 1 ? "" : "s"}`;

// Calls `work` once, a little after the last of many calls.
function settled(work, delay = 120) {
  let timer = 0;
  return () => {
    clearTimeout(timer);
    timer = setTimeout(work, delay);
  };
}
