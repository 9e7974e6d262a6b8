// One medium of a reply: first its place with the progress, then the medium with what it needs.

import { facts } from "./facts.js";
import { blobOf } from "./files.js";
import { announce, button, icon, iconButton, make } from "./dom.js";
import { Mosaic } from "./mosaic.js";
import { drawWaveform } from "./sound.js";
import { capital, NAMES } from "./words.js";

const CRISP_UP_TO = 128; // pixels: smaller pictures are shown by whole multiples, unsmoothed
const SHOWN_SIDE = 256;

let plates = 0;

/** The figure of a part that is not text. */
export class Plate {
  /**
   * @param {string} modality
   * @param {number|null} seed
   * @param {string} asked what it was asked for, as a description for those who do not see it.
   * @param {(seed: number) => void} keepSeed
   */
  constructor(modality, seed, asked, keepSeed) {
    this.modality = modality;
    this.asked = asked;
    this.keepSeed = keepSeed;
    this.url = null;
    this.mosaic = new Mosaic(seed);
    this.bar = make("progress", { max: 1, value: 0, "aria-label": `${capital(NAMES[modality].one)}: progress` });
    this.foot = make("div", { className: "plate-foot" });
    this.element = make(
      "figure",
      { className: `plate ${modality}` },
      make("div", { className: "plate-media" }, this.mosaic.canvas),
      this.bar,
      this.foot,
    );
    this.progress(0, 0);
  }

  progress(step, total) {
    const { making } = NAMES[this.modality];
    this.foot.textContent = total ? `${making}, step ${step} of ${total}` : `${making} soon`;
    this.bar.max = total || 1;
    this.bar.value = step;
    this.mosaic.show(total ? step / total : 0);
  }

  /** Put the finished medium in. */
  finish(part) {
    const blob = blobOf(part.audio_url?.url ?? part.image_url?.url ?? part.video_url.url);
    this.url = URL.createObjectURL(blob);
    const media = make("div", { className: "plate-media" });
    media.append(...this.medium(part, blob));
    const details = facts(part, `facts-${(plates += 1)}`);
    this.element.replaceChildren(media, this.finishedFoot(part, details), details);
  }

  medium(part, blob) {
    const side = Math.max(part.width ?? 0, part.height ?? 0);
    this.element.classList.toggle("wide", side > SHOWN_SIDE);
    const className = side <= CRISP_UP_TO ? "crisp" : "";
    if (part.modality === "image") {
      const alt = `Picture made for: ${this.asked}`;
      return [make("img", { src: this.url, alt, className, width: part.width, height: part.height })];
    }
    const label = `${capital(NAMES[part.modality].one)} made for: ${this.asked}`;
    if (part.modality === "video") {
      const still = window.matchMedia("(prefers-reduced-motion: reduce)").matches;
      const traits = { src: this.url, className, controls: true, loop: true, muted: true };
      return [make("video", { ...traits, playsInline: true, autoplay: !still, "aria-label": label })];
    }
    const canvas = make("canvas", { width: 512, height: 128, "aria-hidden": "true" });
    drawWaveform(canvas, blob);
    return [canvas, make("audio", { src: this.url, controls: true, "aria-label": label })];
  }

  finishedFoot(part, details) {
    const name = capital(NAMES[part.modality].one);
    const record = iconButton("record", `${name}: how it was made`, () => {
      details.hidden = !details.hidden;
      record.setAttribute("aria-expanded", String(!details.hidden));
    });
    record.setAttribute("aria-expanded", "false");
    record.setAttribute("aria-controls", details.id);
    const download = make(
      "a",
      {
        className: "quiet square",
        href: this.url,
        download: part.filename,
        title: "Download",
        "aria-label": `Download ${part.filename}`,
      },
      icon("download"),
    );
    return make("figcaption", { className: "plate-foot" }, this.seedButton(part), record, download);
  }

  seedButton(part) {
    const title = `Keep seed ${part.seed} for the next message`;
    const seed = button(
      { className: "quiet seed", title, "aria-label": title },
      `seed ${part.seed}`,
    );
    seed.addEventListener("click", () => {
      this.keepSeed(part.seed);
      announce(`Seed ${part.seed} kept`);
    });
    return make("span", { className: "plate-name" }, seed);
  }

  /** Let go of the medium's bytes. */
  release() {
    if (this.url) URL.revokeObjectURL(this.url);
  }
}
