// What a request says beyond its words: seed, steps, guidance, temperature; and the server's key.

import { button, byId, icon } from "./dom.js";

const KEY = "anyany-key"; // in this tab's storage

// field -> [the request's name, what a kept value is called]
const NUMBERS = {
  seed: ["seed", (value) => `seed ${value}`],
  steps: ["num_inference_steps", (value) => `${value} steps`],
  guidance: ["guidance_scale", (value) => `guidance ${value}`],
  temperature: ["temperature", (value) => `temperature ${value}`],
};

/** The panel under the message box, and the labels of what is kept in it. */
export class Settings {
  /** @param {() => void} onKey told when a key was put in with Enter. */
  constructor(onKey) {
    this.onKey = onKey;
    this.panel = byId("settings");
    this.button = byId("settings-button");
    this.kept = byId("kept");
    this.key = byId("key");
    this.key.value = stored();
    this.button.addEventListener("click", () => this.open(this.panel.hidden));
    this.key.addEventListener("change", () => store(this.key.value.trim()));
    this.panel.addEventListener("input", () => this.refresh());
    this.panel.addEventListener("keydown", (event) => {
      if (event.key !== "Enter") return;
      event.preventDefault(); // Enter in a field closes the panel; it sends nothing
      this.open(false);
      byId("message").focus();
      if (event.target === this.key) {
        store(this.key.value.trim());
        this.onKey();
      }
    });
  }

  /** Show the presets of this model's decoders. */
  serve(model) {
    const presets = Object.values(model.decoders ?? {});
    const one = (name) => (presets.length === 1 ? presets[0][name] : undefined);
    this.modalities = Object.keys(model.decoders ?? {});
    byId("steps").placeholder = one("num_inference_steps") ?? "preset";
    byId("guidance").placeholder = one("guidance_scale") ?? "preset";
  }

  open(shown) {
    this.panel.hidden = !shown;
    this.button.setAttribute("aria-expanded", String(shown));
    if (shown) byId("seed").focus();
  }

  /** Ask for the server's key. */
  askForKey() {
    this.open(true);
    this.key.focus();
  }

  keepSeed(seed) {
    byId("seed").value = String(seed);
    this.refresh();
  }

  /** Small labels of what is not as usual, each with a way back. */
  refresh() {
    const labels = Object.entries(NUMBERS).flatMap(([id, [, say]]) => {
      const field = byId(id);
      if (field.value === "" || !field.validity.valid) return [];
      const clear = () => {
        field.value = "";
        this.refresh();
        byId("message").focus();
      };
      const text = say(field.value);
      const name = `Forget ${text}`;
      const traits = { className: "kept-value", onclick: clear, title: name, "aria-label": name };
      return [button(traits, text, icon("close"))];
    });
    this.kept.replaceChildren(...labels);
    this.kept.hidden = !labels.length;
  }

  /**
   * The part of a request that these settings make.
   * @param {string[]} media the modalities that may come.
   */
  request() {
    const said = {};
    for (const [id, [name]] of Object.entries(NUMBERS)) {
      const field = byId(id);
      if (field.value !== "" && field.validity.valid) said[name] = Number(field.value);
    }
    const { num_inference_steps, guidance_scale, ...rest } = said;
    const decoder = JSON.parse(JSON.stringify({ num_inference_steps, guidance_scale }));
    if (!Object.keys(decoder).length) return rest;
    return { ...rest, decoding: Object.fromEntries(this.modalities.map((name) => [name, decoder])) };
  }
}

function stored() {
  try {
    return sessionStorage.getItem(KEY) ?? "";
  } catch {
    return "";
  }
}

function store(value) {
  try {
    if (value) sessionStorage.setItem(KEY, value);
    else sessionStorage.removeItem(KEY);
  } catch {
    // Storage can be forbidden: the field itself keeps the key while the page is open.
  }
}
