// A conversation without its looks: turns, replies and their versions, and the request they make.

/**
 * One reply as it grows.
 *
 * dropped: how many of the oldest turns it was made without.
 * parts: by their place in the reply; {modality: "text", text} or
 *     {modality, step, total, part} where `part` is the server's, null until it is done.
 * state: "waiting", "running", "done", "stopped" or "failed".
 */
export class Reply {
  parts = new Map();
  state = "waiting";
  queuePosition = 0;
  seed = null;
  timings = {};
  finish = "";
  dropped = 0;
  error = null;

  /**
   * Take in one chunk of the stream.
   * @returns {number|null} the part that changed; null = the reply as a whole.
   */
  take(chunk) {
    const { event, choices } = chunk;
    const delta = choices?.[0]?.delta ?? {};
    switch (event?.type) {
      case "queued":
        this.queuePosition = event.position;
        return null;
      case "start":
        this.state = "running";
        this.seed = event.seed;
        return null;
      case "text": {
        const known = this.parts.get(event.index) ?? { modality: "text", text: "" };
        this.parts.set(event.index, { ...known, text: known.text + (event.text ?? delta.content ?? "") });
        return event.index;
      }
      case "part_start":
        this.parts.set(event.index, { modality: event.modality, step: 0, total: 0, part: null });
        return event.index;
      case "progress": {
        const { modality, step, total } = event;
        this.parts.set(event.index, { modality, step, total, part: null });
        return event.index;
      }
      case "part": {
        const [part] = delta.images ?? delta.videos ?? delta.audios ?? [];
        this.parts.set(event.index, { modality: event.modality, part });
        return event.index;
      }
      case "finish":
        this.timings = event.timings ?? {};
        this.seed = event.seed ?? this.seed;
        this.finish = choices?.[0]?.finish_reason ?? "stop";
        this.dropped += event.dropped_turns ?? 0;
        return null;
      default:
        return null; // kinds that a later server may add
    }
  }

  /** End it; media that are not done are dropped. */
  end(state, error = null) {
    this.state = state;
    this.error = error;
    for (const [index, part] of this.parts) {
      if (part.modality !== "text" && !part.part) this.parts.delete(index);
    }
  }

  /** The parts in order. */
  get ordered() {
    return [...this.parts].sort(([a], [b]) => a - b).map(([, part]) => part);
  }

  /** The text of all text parts. */
  get text() {
    const texts = this.ordered.filter((part) => part.modality === "text").map((part) => part.text);
    return texts.map((text) => text.trim()).filter(Boolean).join("\n");
  }

  /** The modalities of the media that are done. */
  get media() {
    return this.ordered.filter((part) => part.part).map((part) => part.modality);
  }

  get running() {
    return this.state === "waiting" || this.state === "running";
  }

  /** As the content of an assistant's message; empty if nothing came. */
  get content() {
    return this.ordered.flatMap((part) => {
      if (part.modality !== "text") return part.part ? [part.part] : [];
      return part.text.trim() ? [{ type: "text", text: part.text }] : [];
    });
  }
}

/** What was asked, with every version of the reply to it. */
export class Turn {
  versions = [];
  chosen = -1;

  /**
   * @param {string} text
   * @param {import("./files.js").Attachment[]} files
   * @param {object} options of the request: modalities, num_inference_steps, ...
   */
  constructor(text, files, options) {
    this.text = text;
    this.files = files;
    this.options = options;
  }

  get reply() {
    return this.versions[this.chosen];
  }

  add(reply) {
    this.chosen = this.versions.push(reply) - 1;
    return reply;
  }

  /** As the content of a user's message. */
  async content() {
    const media = await Promise.all(this.files.map((file) => file.asPart()));
    return this.text ? [...media, { type: "text", text: this.text }] : media;
  }
}

/**
 * The request for the reply to the last turn. Turns that got no reply are left out: nothing can
 * stand between two questions.
 * @param {Turn[]} turns the last one is to be answered.
 * @param {object} model as GET /v1/models tells.
 * @param {object} extra more of the body, such as the seed.
 * @returns {{request: object, dropped: number}} the body, and how many turns it has no room for.
 */
export async function requestFor(turns, model, extra) {
  const last = turns.at(-1);
  const answered = turns.slice(0, -1).filter((turn) => turn.reply?.content.length);
  const most = Math.max(0, Math.floor(((model.limits?.messages ?? 64) - 1) / 2));
  const messages = [];
  const kept = most ? answered.slice(-most) : [];
  for (const turn of kept) {
    messages.push({ role: "user", content: await turn.content() });
    messages.push({ role: "assistant", content: turn.reply.content });
  }
  messages.push({ role: "user", content: await last.content() });
  const request = { model: model.id, messages, truncate: "oldest_turns", ...last.options, ...extra };
  return { request, dropped: answered.length - kept.length };
}
