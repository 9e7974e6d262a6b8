// Runs before the first paint: the colors that were chosen here, else those of the system.
// A classic script, so that it blocks; app.js wires the switch.
(() => {
  let chosen = null;
  try {
    chosen = localStorage.getItem("anyany-theme");
  } catch {
    // Storage can be forbidden; the system's colors then stand.
  }
  if (chosen === "light" || chosen === "dark") document.documentElement.dataset.theme = chosen;
})();
