// The server's API as this page uses it: which model is there, and one streamed reply.

import { events } from "./sse.js";

const BASE = new URL("v1/", document.baseURI);

/** Something that the server refused, or that broke on the way. */
export class ApiError extends Error {
  /**
   * @param {string} message fit for people.
   * @param {{status?: number, code?: string, retryAfter?: number}} [facts] status 0 = no answer.
   */
  constructor(message, { status = 0, code = "", retryAfter = 0 } = {}) {
    super(message);
    this.status = status;
    this.code = code;
    this.retryAfter = retryAfter;
  }
}

/** What the served system takes, makes and allows; see GET /v1/models. */
export async function servedModel(key) {
  const response = await call("models", { headers: headers(key) });
  const listed = await response.json();
  const model = listed.data?.[0];
  if (!model) throw new ApiError("The server has no model.", { status: 500 });
  return model;
}

/**
 * Send a conversation; yields the chunks of the answer.
 * @param {object} request the body, without "stream".
 * @param {{key: string, signal: AbortSignal}} how
 */
export async function* streamedReply(request, { key, signal }) {
  const response = await call("chat/completions", {
    method: "POST",
    headers: { ...headers(key), "Content-Type": "application/json" },
    body: JSON.stringify({ ...request, stream: true }),
    signal,
  });
  let ended = false;
  try {
    for await (const data of events(response.body)) {
      if (data === "[DONE]") {
        ended = true;
        break;
      }
      const chunk = JSON.parse(data);
      if (chunk.error) throw new ApiError(chunk.error.message, { ...chunk.error, status: 200 });
      yield chunk;
    }
  } catch (error) {
    if (signal.aborted || error instanceof ApiError) throw error;
    throw new ApiError("The connection broke off.", { code: "broken_off" });
  }
  if (!ended) throw new ApiError("The connection broke off.", { code: "broken_off" });
}

function headers(key) {
  return key ? { Authorization: `Bearer ${key}` } : {};
}

async function call(path, options) {
  let response;
  try {
    response = await fetch(new URL(path, BASE), { ...options, cache: "no-store" });
  } catch (error) {
    if (options.signal?.aborted) throw error;
    throw new ApiError("The server did not answer.");
  }
  if (response.ok) return response;
  const answer = await response.json().catch(() => ({}));
  const message = answer.error?.message ?? `The server answered ${response.status}.`;
  const retryAfter = Number(response.headers.get("Retry-After")) || 0;
  throw new ApiError(message, { status: response.status, code: answer.error?.code, retryAfter });
}
