// Light, dark, or what the system says. Everything, the plots too, takes its colours from the style sheet.

const THEMES = ["system", "light", "dark"];

function chosenTheme() {
  try {
    return THEMES.includes(localStorage.getItem("isomorph-theme")) ? localStorage.getItem("isomorph-theme") : "system";
  } catch {
    return "system"; // storage is closed to the page
  }
}

function setTheme(theme) {
  if (theme === "system") delete document.documentElement.dataset.theme;
  else document.documentElement.dataset.theme = theme;
  byId("theme").textContent = `Theme: ${theme}`;
  try {
    localStorage.setItem("isomorph-theme", theme);
  } catch {
    // the choice holds for as long as the page is open
  }
}

function startTheme() {
  let theme = chosenTheme();
  setTheme(theme);
  byId("theme").addEventListener("click", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    setTheme(theme);
  });
}
