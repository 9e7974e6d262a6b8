// The page as a whole: one model, one conversation, one reply at a time.

import { servedModel, streamedReply } from "./api.js";
import { Composer } from "./composer.js";
import { Reply, requestFor, Turn } from "./conversation.js";
import { announce, button, byId, icon, make } from "./dom.js";
import { board, headline, introduction } from "./examples.js";
import { Attachment } from "./files.js";
import { Settings } from "./settings.js";
import { trouble } from "./troubles.js";
import { TurnView } from "./turn-view.js";
import { counted } from "./words.js";

const NEAR_THE_END = 160; // pixels: who reads there is taken along as a reply grows

class App {
  constructor() {
    this.model = null;
    this.turns = [];
    this.views = [];
    this.running = null; // the AbortController of the reply that is on its way
    this.settings = new Settings(() => this.model || this.connect());
    this.composer = new Composer({
      send: (text, files, outputs) => this.ask(text, files, outputs),
      stop: () => this.stop(),
    });
    byId("new").addEventListener("click", () => this.restart());
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.running) this.stop();
    });
    byId("model").addEventListener("click", () => byId("card").showModal());
    byId("card-close").addEventListener("click", () => byId("card").close());
    wireTheme();
  }

  /** Ask the server what it serves, and show it. */
  async connect() {
    const notice = byId("notice");
    try {
      this.model = await servedModel(this.settings.key.value.trim());
    } catch (error) {
      const { title, advice, needsKey } = trouble(error);
      const again = button({ onclick: () => this.connect() }, icon("again"), "Try again");
      notice.replaceChildren(make("strong", {}, title), ` ${advice}`, make("div", {}, again));
      notice.hidden = false;
      if (needsKey) this.settings.askForKey();
      return;
    }
    notice.hidden = true;
    this.composer.serve(this.model);
    this.settings.serve(this.model);
    this.showModel();
    byId("message").focus({ preventScroll: true });
  }

  showModel() {
    const { id, card, modalities } = this.model;
    byId("model").textContent = id;
    byId("model").hidden = false;
    byId("model").disabled = !card;
    byId("card-title").textContent = id;
    byId("card-text").textContent = card ?? "";
    byId("welcome-title").textContent = headline(modalities);
    byId("welcome-text").textContent = introduction(this.model);
    const { items, plain } = board(this.model, (text, picture, outputs) => {
      const files = picture ? [new Attachment(picture, picture.name, "image")] : [];
      this.ask(text, files, outputs);
    });
    byId("examples").replaceChildren(...items);
    byId("examples").classList.toggle("plain", plain);
    byId("examples").hidden = !items.length;
  }

  /** A new turn, and the reply to it. */
  ask(text, files, outputs) {
    if (this.running) return;
    const options = { ...(outputs && { modalities: outputs }), ...this.settings.request() };
    const turn = new Turn(text, files, options);
    this.views.at(-1)?.settle();
    this.turns.push(turn);
    const view = new TurnView(turn, this.turns.length, {
      again: () => this.again(turn, view),
      needKey: () => this.settings.askForKey(),
      keepSeed: (seed) => this.settings.keepSeed(seed),
      choose: (version) => {
        turn.chosen = version;
        view.showReply();
      },
    });
    this.views.push(view);
    byId("welcome").hidden = true;
    byId("new").hidden = false;
    byId("conversation").append(view.element);
    if (window.matchMedia("(pointer: coarse)").matches) document.activeElement?.blur();
    else byId("message").focus({ preventScroll: true });
    this.reply(turn, view, {});
  }

  /** Once more, with a new seed; a reply that failed is asked for just as it was. */
  again(turn, view) {
    if (this.running) return;
    const failed = turn.reply?.state === "failed";
    if (failed) turn.versions.pop();
    byId("message").focus({ preventScroll: true });
    this.reply(turn, view, failed ? {} : { seed: undefined });
  }

  async reply(turn, view, extra) {
    const reply = turn.add(new Reply());
    const running = new AbortController();
    this.running = running;
    this.composer.setRunning(true);
    view.showReply();
    scrollTo({ top: document.body.scrollHeight });
    announce("The model is answering");
    try {
      const before = this.turns.slice(0, this.turns.indexOf(turn) + 1);
      const { request, dropped } = await requestFor(before, this.model, extra);
      reply.dropped = dropped;
      const key = this.settings.key.value.trim();
      for await (const chunk of streamedReply(request, { key, signal: running.signal })) {
        const near = isNearTheEnd();
        const changed = reply.take(chunk);
        if (changed === null) view.showState();
        else view.showPart(changed);
        if (near) scrollTo({ top: document.body.scrollHeight });
      }
      reply.end("done");
    } catch (error) {
      if (running.signal.aborted) reply.end("stopped");
      else reply.end("failed", error);
    }
    if (this.running !== running) return; // a new conversation has begun meanwhile
    this.running = null;
    const near = isNearTheEnd();
    view.showState();
    this.composer.setRunning(false);
    if (near) scrollTo({ top: document.body.scrollHeight });
    announce(spoken(reply));
  }

  stop() {
    this.running?.abort();
  }

  /** Forget everything and begin anew. */
  restart() {
    this.running?.abort();
    this.running = null;
    this.composer.setRunning(false);
    for (const view of this.views) view.release();
    for (const turn of this.turns) turn.files.forEach((file) => file.release());
    this.turns = [];
    this.views = [];
    byId("conversation").replaceChildren();
    byId("welcome").hidden = false;
    byId("new").hidden = true;
    scrollTo({ top: 0 });
    byId("message").focus({ preventScroll: true });
    announce("New conversation");
  }
}

/** What a screen reader is told of a reply that has ended. */
function spoken(reply) {
  if (reply.state === "failed") return ""; // the box itself is an alert
  if (reply.state === "stopped") return "Stopped";
  const media = counted(reply.media);
  return [reply.text, media && `${media} ready`].filter(Boolean).join(" ") || "The reply is empty";
}

function isNearTheEnd() {
  return window.innerHeight + window.scrollY > document.body.scrollHeight - NEAR_THE_END;
}

function wireTheme() {
  const root = document.documentElement;
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const dark = () => (root.dataset.theme ? root.dataset.theme === "dark" : system.matches);
  const show = () => byId("theme").setAttribute("aria-pressed", String(dark()));
  byId("theme").addEventListener("click", () => {
    const wanted = dark() ? "light" : "dark";
    const asSystem = (wanted === "dark") === system.matches;
    if (asSystem) delete root.dataset.theme;
    else root.dataset.theme = wanted;
    try {
      if (asSystem) localStorage.removeItem("anyany-theme");
      else localStorage.setItem("anyany-theme", wanted);
    } catch {
      // Storage can be forbidden: the choice then lasts until the page is closed.
    }
    show();
  });
  system.addEventListener("change", show);
  show();
}

new App().connect();
