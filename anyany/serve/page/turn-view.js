// A turn on the page: what was asked as a heading, then the reply as it comes.

import { announce, button, copyText, icon, iconButton, make } from "./dom.js";
import { Plate } from "./plate.js";
import { trouble } from "./troubles.js";
import { capital, counted, duration, NAMES } from "./words.js";

/** The section of one turn. */
export class TurnView {
  /**
   * @param {import("./conversation.js").Turn} turn
   * @param {number} number from 1.
   * @param {object} actions again(), needKey(), keepSeed(seed), choose(version)
   */
  constructor(turn, number, actions) {
    this.turn = turn;
    this.actions = actions;
    this.last = true;
    this.parts = new Map(); // place in the reply -> {element, ...}
    const heading = `asked-${number}`;
    this.partsBox = make("div", { className: "parts" });
    this.status = make("p", { className: "reply-status" });
    this.foot = make("div", { className: "reply-foot" });
    this.reply = make("div", { className: "reply" }, this.partsBox, this.status, this.foot);
    this.element = make(
      "section",
      { className: "turn", "aria-labelledby": heading },
      make(
        "header",
        { className: "asked" },
        make("span", { className: "asked-number", "aria-hidden": "true" }, String(number)),
        addedFiles(turn.files),
        make(
          "h2",
          { id: heading, className: turn.text ? "" : "only-files" },
          turn.text || capital(counted(turn.files.map((file) => file.modality))),
        ),
      ),
      this.reply,
    );
  }

  /** Show the chosen version of the reply from its start. */
  showReply() {
    this.release();
    this.parts.clear();
    this.partsBox.replaceChildren();
    for (const index of this.turn.reply.parts.keys()) this.showPart(index);
    this.showState();
  }

  /** Bring one part up to date. */
  showPart(index) {
    const part = this.turn.reply.parts.get(index);
    if (part.modality === "text") this.showText(index, part);
    else this.showMedium(index, part);
    this.markWriting();
    this.showStatus();
  }

  showText(index, part) {
    const shown = this.parts.get(index) ?? this.place(index, { element: make("p", { className: "reply-text" }) });
    shown.element.textContent = part.text.trim();
  }

  showMedium(index, part) {
    let shown = this.parts.get(index);
    if (!shown) {
      const { seed, text } = this.turn.reply;
      const asked = this.turn.text || text || "the files above";
      const plate = new Plate(part.modality, seed, asked, this.actions.keepSeed);
      shown = this.place(index, { element: plate.element, plate, done: false });
    }
    if (part.part && !shown.done) {
      shown.done = true;
      shown.plate.finish(part.part);
    } else if (part.total) shown.plate.progress(part.step, part.total);
  }

  place(index, shown) {
    const next = [...this.parts.keys()].filter((other) => other > index).sort((a, b) => a - b)[0];
    this.partsBox.insertBefore(shown.element, this.parts.get(next)?.element ?? null);
    this.parts.set(index, shown);
    return shown;
  }

  /** A mark at the end of the text that is being written. */
  markWriting() {
    const latest = Math.max(...this.parts.keys());
    for (const [index, { element, plate }] of this.parts) {
      if (!plate) element.classList.toggle("writing", this.turn.reply.running && index === latest);
    }
  }

  /** Bring up to date what is said of the reply as a whole. */
  showState() {
    const { reply } = this.turn;
    for (const [index, { element, plate }] of this.parts) {
      if (!reply.parts.has(index)) {
        plate?.release();
        element.remove();
        this.parts.delete(index);
      }
    }
    if (this.parts.size) this.markWriting();
    this.showStatus();
    this.reply.querySelector(".trouble")?.remove();
    if (reply.state === "failed") this.foot.before(this.troubleBox(reply.error));
    this.foot.replaceChildren(...this.footOf(reply));
    this.foot.hidden = !this.foot.childElementCount;
  }

  showStatus() {
    this.status.textContent = statusOf(this.turn.reply);
    this.status.hidden = !this.status.textContent;
  }

  footOf(reply) {
    if (reply.running) return [];
    const { versions, chosen } = this.turn;
    const items = [];
    if (this.last && reply.state !== "failed") {
      const again = button({ onclick: this.actions.again }, icon("again"), "Regenerate");
      items.push(again);
    }
    if (reply.text) items.push(copyButton(reply.text));
    if (versions.length > 1 && this.last) items.push(this.versionSwitch(versions.length, chosen));
    if (reply.state === "done" && reply.dropped) {
      const which = reply.dropped === 1 ? "turn" : `${reply.dropped} turns`;
      items.push(make("span", { className: "figures" }, `too long: made without the oldest ${which}`));
    }
    if (reply.timings.total) items.push(make("span", { className: "figures" }, duration(reply.timings.total)));
    if (reply.state === "done" && reply.seed !== null && !reply.media.length) {
      items.push(make("span", { className: "figures" }, `seed ${reply.seed}`));
    }
    return items;
  }

  versionSwitch(total, chosen) {
    const go = (to) => () => {
      this.actions.choose(to);
      announce(`Version ${to + 1} of ${total}`);
    };
    const back = iconButton("back", "Earlier version", go(chosen - 1), { disabled: chosen === 0 });
    const forth = iconButton("forth", "Later version", go(chosen + 1), { disabled: chosen === total - 1 });
    const where = make("span", { className: "figures" }, `${chosen + 1} of ${total}`);
    return make("span", { className: "versions" }, back, where, forth);
  }

  troubleBox(error) {
    const { title, advice, needsKey } = trouble(error);
    const box = make(
      "div",
      { className: "trouble", role: "alert" },
      make("strong", {}, title),
      make("span", {}, advice),
    );
    if (this.last) {
      const actions = make("div");
      if (needsKey) actions.append(button({ onclick: this.actions.needKey }, "Put in the key"));
      actions.append(button({ onclick: this.actions.again }, icon("again"), "Try again"));
      box.append(actions);
    }
    return box;
  }

  /** It is no longer the last turn: its reply stands. */
  settle() {
    this.last = false;
    if (this.turn.reply) this.showState();
  }

  /** Let go of the media's bytes. */
  release() {
    for (const { plate } of this.parts.values()) plate?.release();
  }
}

function statusOf(reply) {
  if (reply.state === "stopped") return reply.content.length ? "Stopped here." : "Stopped before anything came.";
  if (reply.state === "done" && !reply.content.length) return "The model had nothing to say to this.";
  if (reply.finish === "length") return "It ends here because the reply reached its longest length.";
  if (!reply.running || reply.parts.size) return "";
  if (reply.queuePosition > 0) {
    return reply.queuePosition === 1 ? "Next in line…" : `In line: ${reply.queuePosition - 1} before you…`;
  }
  return reply.state === "running" ? "Writing…" : "Reading…";
}

function copyButton(text) {
  const copy = button({}, icon("copy"), make("span", {}, "Copy text"));
  copy.addEventListener("click", async () => {
    const worked = await copyText(text);
    copy.lastElementChild.textContent = worked ? "Copied" : "Copying is not allowed here";
    announce(copy.textContent);
    window.setTimeout(() => (copy.lastElementChild.textContent = "Copy text"), 2_000);
  });
  return copy;
}

function addedFiles(files) {
  if (!files.length) return null;
  return make("div", { className: "asked-files" }, ...files.map(addedFile));
}

function addedFile(file) {
  const label = `${capital(NAMES[file.modality].one)} you added: ${file.name}`;
  if (file.modality === "image") {
    const picture = make("img", { src: file.url, alt: label });
    picture.addEventListener("load", () => {
      picture.classList.toggle("crisp", picture.naturalWidth <= 128 && picture.naturalHeight <= 128);
    });
    return picture;
  }
  return make(file.modality, { src: file.url, controls: true, "aria-label": label });
}
