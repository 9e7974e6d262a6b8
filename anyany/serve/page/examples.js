// What to start with: pocket's world as a board of its own pictures; plain words for other systems.

import { make } from "./dom.js";
import { either, NAMES } from "./words.js";

// picture: a file in pictures/, drawn by the renderer that pocket learnt from; `add` sends it along.
const POCKET = [
  {
    picture: "bell",
    text: "draw a small red bell on the left",
    outputs: ["text", "image"],
    note: "words to a picture",
  },
  { picture: "bee", add: true, text: "what is this?", outputs: ["text"], note: "a picture to words" },
  { picture: "horn", add: true, text: "the same in red", outputs: ["image"], note: "a picture, changed" },
  {
    picture: "drum",
    text: "a large blue drum at the top on beige",
    outputs: ["image"],
    note: "words to a picture",
  },
  { picture: "clock", add: true, text: "what color is it?", outputs: ["text"], note: "a picture to words" },
  { picture: "things", text: "what can you draw?", outputs: ["text"], note: "words to words" },
];
const PLAIN = [
  { text: "Describe something you would like to see", outputs: ["text", "image"], needs: ["image"] },
  { text: "Film it: something that moves from left to right", outputs: ["video"], needs: ["video"] },
  { text: "What does rain on a tin roof sound like?", outputs: ["text", "audio"], needs: ["audio"] },
  { text: "What can you do?", outputs: ["text"], needs: [] },
];
const POCKET_TEXT =
  "pocket knows a small world: a bell, drum, bird, bee, siren, clock, horn or cloud, in six colors, " +
  "two sizes and five places.";
const KEPT = "Closing the page ends the conversation.";

/** "Ask in words or pictures. Get words or pictures back." */
export function headline({ input, output }) {
  const names = (modalities) => either(modalities.map((name) => NAMES[name].many));
  if (input.length > 2 && input.join() === output.join()) return `Ask in ${names(input)}. Get any of them back.`;
  return `Ask in ${names(input)}. Get ${names(output)} back.`;
}

/** A line about the model under the headline. */
export function introduction(model) {
  return `${model.id === "pocket" ? POCKET_TEXT : `You are speaking with ${model.id}.`} ${KEPT}`;
}

/**
 * The board of examples.
 * @param {object} model as GET /v1/models tells.
 * @param {(text: string, picture: File|null, outputs: string[]) => void} send
 * @returns {{items: Node[], plain: boolean}}
 */
export function board(model, send) {
  const { input, output } = model.modalities;
  const plain = model.id !== "pocket";
  const fitting = (plain ? PLAIN : POCKET).filter(
    ({ outputs, needs = [], add }) =>
      [...outputs, ...needs].every((name) => output.includes(name)) && (!add || input.includes("image")),
  );
  return { plain, items: fitting.map((example) => make("li", {}, card(example, send))) };
}

function card({ picture, add, text, outputs, note }, send) {
  const url = picture && new URL(`pictures/${picture}.png`, import.meta.url);
  const small = note ? make("small", {}, note) : null;
  const words = make("span", { className: "example-words" }, make("b", {}, text), small);
  const go = async () => send(text, add ? await asFile(url, picture) : null, outputs);
  const traits = { type: "button", className: "example", onclick: go };
  const shown = url && make("img", { src: url.href, alt: "", width: 128, height: 128 });
  return make("button", traits, shown, words);
}

async function asFile(url, name) {
  const response = await fetch(url);
  return new File([await response.blob()], `${name}.png`, { type: "image/png" });
}
