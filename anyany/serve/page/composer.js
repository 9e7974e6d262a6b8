// The message box: words, added files, what to answer with, the microphone, settings.

import { announce, byId, iconButton, make } from "./dom.js";
import { accepted, takeIn } from "./files.js";
import { microphoneTrouble, Recorder } from "./recorder.js";
import { NAMES } from "./words.js";

const LONGEST_RECORDING = 60; // seconds
const GROWS_BY_ITSELF = CSS.supports("field-sizing", "content");

/** The form at the foot of the page. */
export class Composer {
  /**
   * @param {object} actions send(text, files, outputs), where outputs is null if the model decides;
   *     stop().
   */
  constructor(actions) {
    this.actions = actions;
    this.model = null;
    this.files = [];
    this.running = false;
    this.form = byId("composer");
    this.message = byId("message");
    this.error = byId("composer-error");
    this.list = byId("attached");
    this.send = byId("send");
    this.stop = byId("stop");
    this.recorder = new Recorder((seconds, level) => this.showRecording(seconds, level));
    this.wire();
    this.refresh();
  }

  wire() {
    this.form.addEventListener("submit", (event) => {
      event.preventDefault();
      this.submit();
    });
    this.message.addEventListener("keydown", (event) => {
      if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
      event.preventDefault();
      this.submit();
    });
    this.message.addEventListener("input", () => this.refresh());
    byId("recording").addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.endRecording(false);
    });
    this.message.addEventListener("paste", (event) => {
      if (!event.clipboardData?.files.length) return;
      event.preventDefault();
      this.add(event.clipboardData.files);
    });
    this.stop.addEventListener("click", () => this.actions.stop());
    const picker = byId("file");
    byId("attach").addEventListener("click", () => picker.click());
    picker.addEventListener("change", () => {
      this.add(picker.files);
      picker.value = "";
    });
    byId("record").addEventListener("click", () => this.startRecording());
    byId("recording-keep").addEventListener("click", () => this.endRecording(true));
    byId("recording-drop").addEventListener("click", () => this.endRecording(false));
    this.wireDrop();
  }

  /** Files can be dropped anywhere on the page. */
  wireDrop() {
    const sign = byId("drop");
    const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
    let inside = 0; // dragenter and dragleave come for every element on the way
    const on = (name, act) => {
      document.addEventListener(name, (event) => {
        if (!carriesFiles(event)) return;
        event.preventDefault();
        act(event);
        sign.hidden = inside <= 0;
      });
    };
    on("dragenter", () => (inside += 1));
    on("dragleave", () => (inside -= 1));
    on("dragover", () => {});
    on("drop", (event) => {
      inside = 0;
      this.add(event.dataTransfer.files);
    });
  }

  /** Show what this model takes and makes. */
  serve(model) {
    this.model = model;
    const { input, output } = model.modalities;
    const files = input.filter((name) => name !== "text");
    byId("file").accept = accepted(input);
    byId("attach").hidden = !files.length;
    byId("record").hidden = !(input.includes("audio") && Recorder.possible);
    const word = files.length === 1 ? `a ${NAMES[files[0]].one}` : "files";
    this.message.placeholder = files.length ? `Ask, describe, or add ${word}` : "Ask or describe";
    const fieldset = byId("outputs");
    fieldset.querySelectorAll(".choice").forEach((choice) => choice.remove());
    fieldset.hidden = output.length < 2;
    this.boxes = new Map(["any", ...output].map((name) => [name, this.outputBox(name)]));
    this.choose(null);
    this.refresh();
  }

  outputBox(name) {
    const any = name === "any";
    const spoken = any ? "What the model decides" : undefined;
    const box = make("input", { type: "checkbox", value: name, "aria-label": spoken });
    box.addEventListener("change", () => {
      const chosen = this.outputs ?? [];
      this.choose(any || !chosen.length ? null : chosen);
    });
    const title = any ? "The model decides" : undefined;
    const words = make("span", {}, any ? "Auto" : NAMES[name].choice);
    byId("outputs").append(make("label", { className: "choice", title }, box, words));
    return box;
  }

  /** The modalities that must come; null = the model decides. */
  get outputs() {
    const chosen = [...this.boxes].filter(([name, box]) => name !== "any" && box.checked);
    return chosen.length ? chosen.map(([name]) => name) : null;
  }

  choose(outputs) {
    for (const [name, box] of this.boxes) box.checked = outputs ? outputs.includes(name) : name === "any";
  }

  submit() {
    const text = this.message.value.trim();
    if (this.running || !this.model || (!text && !this.files.length)) return;
    const { files } = this;
    this.files = [];
    this.message.value = "";
    this.complain("");
    this.refresh();
    this.actions.send(text, files, this.outputs);
  }

  /** Take in files, and say which cannot be taken. */
  add(files) {
    if (!this.model) {
      this.complain("The server has not answered yet: add files when it has.");
      return;
    }
    const { taken, refused } = takeIn(files, this.model, this.files.length);
    this.files.push(...taken);
    this.complain(refused.join(" "));
    if (taken.length) announce(`Added: ${taken.map((file) => file.name).join(", ")}`);
    this.refresh();
    this.message.focus();
  }

  remove(file) {
    const place = this.files.indexOf(file);
    this.files.splice(place, 1);
    file.release();
    this.refresh();
    announce(`Removed: ${file.name}`);
    const left = this.list.querySelectorAll("button");
    (left[Math.min(place, left.length - 1)] ?? this.message).focus();
  }

  complain(text) {
    this.error.textContent = text;
    this.error.hidden = !text;
  }

  setRunning(running) {
    const focused = document.activeElement;
    this.running = running;
    this.refresh();
    if (running && focused === this.send) this.stop.focus();
    if (!running && focused === this.stop) this.message.focus();
  }

  refresh() {
    this.list.replaceChildren(...this.files.map((file) => this.thumbnail(file)));
    this.list.hidden = !this.files.length;
    this.send.hidden = this.running;
    this.stop.hidden = !this.running;
    if (!GROWS_BY_ITSELF) {
      this.message.style.height = "auto";
      this.message.style.height = `${this.message.scrollHeight}px`;
    }
    this.send.disabled = !this.model || (!this.message.value.trim() && !this.files.length);
  }

  thumbnail(file) {
    const thumb = make("div", { className: "thumb" });
    if (file.modality === "image") thumb.append(make("img", { src: file.url, alt: file.name }));
    else if (file.modality === "video") {
      thumb.append(make("video", { src: file.url, muted: true, "aria-label": file.name }));
    } else {
      thumb.classList.add("sound");
      thumb.append(file.name);
    }
    const close = iconButton("close", `Remove ${file.name}`, () => this.remove(file), { className: "remove" });
    return make("li", {}, thumb, close);
  }

  async startRecording() {
    this.complain("");
    try {
      await this.recorder.start();
    } catch (error) {
      this.complain(microphoneTrouble(error));
      return;
    }
    byId("record").disabled = true;
    byId("recording").hidden = false;
    byId("recording-keep").focus();
    announce("Recording");
  }

  showRecording(seconds, level) {
    const most = Math.min(LONGEST_RECORDING, this.model.limits?.audio_seconds ?? LONGEST_RECORDING);
    const whole = Math.floor(seconds);
    byId("recording-time").textContent = `${Math.floor(whole / 60)}:${String(whole % 60).padStart(2, "0")}`;
    const canvas = byId("recording-level");
    const context = canvas.getContext("2d");
    const { width, height } = canvas;
    context.drawImage(canvas, -2, 0); // the past moves left
    context.clearRect(width - 2, 0, 2, height);
    context.fillStyle = getComputedStyle(canvas).color;
    const tall = Math.max(2, Math.min(1, 2 * level) * height);
    context.fillRect(width - 2, (height - tall) / 2, 1, tall);
    if (seconds >= most) this.endRecording(true);
  }

  async endRecording(keep) {
    if (byId("recording").hidden) return;
    byId("recording").hidden = true;
    byId("record").disabled = false;
    const blob = await this.recorder.stop();
    const canvas = byId("recording-level");
    canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
    byId("recording-time").textContent = "0:00";
    if (keep) {
      const number = this.files.filter((file) => file.modality === "audio").length + 1;
      this.add([new File([blob], `recording_${number}.wav`, { type: "audio/wav" })]);
    } else byId("record").focus();
  }
}
