// Pictures, clips and recordings that people add: what they are, and how they are sent.

import { either, NAMES, size } from "./words.js";

const ENDINGS = {
  image: ["png", "jpg", "jpeg", "webp", "gif", "bmp", "tif", "tiff"],
  video: ["mp4", "m4v", "mov", "mkv", "webm", "avi"],
  audio: ["wav", "flac", "mp3", "ogg", "oga", "opus", "m4a", "aac"],
};

/** A file that can be sent. */
export class Attachment {
  /**
   * @param {Blob} blob
   * @param {string} name
   * @param {"image"|"video"|"audio"} modality
   */
  constructor(blob, name, modality) {
    this.blob = blob;
    this.name = name;
    this.modality = modality;
    this.url = URL.createObjectURL(blob);
  }

  /** As a part of a message. */
  async asPart() {
    const url = await dataUrl(this.blob);
    if (this.modality === "image") return { type: "image_url", image_url: { url } };
    if (this.modality === "video") return { type: "video_url", video_url: { url } };
    const data = url.slice(url.indexOf(",") + 1);
    return { type: "input_audio", input_audio: { data, format: ending(this.name) || "wav" } };
  }

  /** Let go of it. */
  release() {
    URL.revokeObjectURL(this.url);
  }
}

/**
 * Take in what was dropped, pasted or picked.
 * @param {Iterable<File>} files
 * @param {object} model as GET /v1/models tells.
 * @param {number} already how many are added.
 * @returns {{taken: Attachment[], refused: string[]}} refused: one sentence a file.
 */
export function takeIn(files, model, already) {
  const inputs = model.modalities.input;
  const kinds = either(inputs.filter((name) => name !== "text").map((name) => NAMES[name].many));
  const { part_bytes: most = Infinity, parts = 32 } = model.limits ?? {};
  const taken = [];
  const refused = [];
  for (const file of files) {
    const name = file.name || "pasted";
    const modality = modalityOf(file);
    if (!kinds) refused.push(`${model.id} takes words only, so “${name}” was not added.`);
    else if (!modality) refused.push(`“${name}” is none of the files that can be read here: add ${kinds}.`);
    else if (!inputs.includes(modality)) {
      refused.push(`${model.id} does not take ${NAMES[modality].many}, so “${name}” was not added: add ${kinds}.`);
    } else if (file.size === 0) refused.push(`“${name}” is empty.`);
    else if (file.size > most) {
      refused.push(`“${name}” has ${size(file.size)}; this server takes up to ${size(most)} a file.`);
    } else if (already + taken.length >= parts) {
      refused.push(`“${name}” was not added: ${parts} files are the most for one message.`);
    } else taken.push(new Attachment(file, name, modality));
  }
  return { taken, refused };
}

/** "image", "video" or "audio" by the file's type, else by its name's ending; null if neither. */
export function modalityOf(file) {
  const [kind, exact] = (file.type || "").split("/");
  if (exact?.startsWith("svg")) return null; // a drawing, not pixels
  if (kind in ENDINGS) return kind;
  const end = ending(file.name || "");
  return Object.keys(ENDINGS).find((name) => ENDINGS[name].includes(end)) ?? null;
}

/** What a file picker should offer. */
export function accepted(inputs) {
  return Object.keys(ENDINGS)
    .filter((name) => inputs.includes(name))
    .flatMap((name) => ENDINGS[name].map((end) => `.${end}`))
    .join(",");
}

/** A blob out of a data URL's base64, without a request. */
export function blobOf(dataUrlText) {
  const comma = dataUrlText.indexOf(",");
  const type = /^data:([\w.+-]+\/[\w.+-]+)/.exec(dataUrlText)?.[1] ?? "application/octet-stream";
  const bytes = Uint8Array.from(atob(dataUrlText.slice(comma + 1)), (letter) => letter.charCodeAt(0));
  return new Blob([bytes], { type });
}

function ending(name) {
  return /\.(\w+)$/.exec(name)?.[1].toLowerCase() ?? "";
}

function dataUrl(blob) {
  return new Promise((resolve, reject) => {
    const reader = new FileReader();
    reader.onload = () => resolve(reader.result);
    reader.onerror = () => reject(reader.error);
    reader.readAsDataURL(blob);
  });
}
