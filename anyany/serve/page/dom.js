// Small makers of elements; text is always text, never markup.

/**
 * Make an element.
 * @param {string} tag
 * @param {object} [traits] properties; "aria-*", "role" and "for" become attributes, functions under
 *     "on..." become listeners, undefined values are left out.
 * @param {...(Node|string|null|undefined)} children
 */
export function make(tag, traits = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(traits)) {
    if (value === undefined || value === null) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name.includes("-") || name === "role" || name === "for") element.setAttribute(name, value);
    else element[name] = value;
  }
  element.append(...children.filter((child) => child !== undefined && child !== null));
  return element;
}

/** One of the drawings of the sprite in index.html. */
export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("class", "icon");
  svg.setAttribute("aria-hidden", "true");
  const use = document.createElementNS("http://www.w3.org/2000/svg", "use");
  use.setAttribute("href", `#i-${name}`);
  svg.append(use);
  return svg;
}

/** A button of words, or of a drawing with a spoken name. */
export function button(traits, ...children) {
  return make("button", { type: "button", className: "quiet", ...traits }, ...children);
}

/** A button that shows a drawing only. */
export function iconButton(drawing, name, onclick, traits = {}) {
  const named = { "aria-label": name, title: name, onclick, className: "quiet square" };
  return button({ ...named, ...traits }, icon(drawing));
}

/** The element of index.html with this id. */
export function byId(id) {
  const element = document.getElementById(id);
  if (!element) throw new Error(`the page has no #${id}`);
  return element;
}

/** Copy text; tells whether it worked (it needs a secure page and a permission). */
export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
    return true;
  } catch {
    return false;
  }
}

let clearing = 0;

/** Have a screen reader say something when it is free. */
export function announce(text) {
  const line = byId("announcer");
  window.clearTimeout(clearing);
  line.textContent = text;
  clearing = window.setTimeout(() => (line.textContent = ""), 10_000);
}
