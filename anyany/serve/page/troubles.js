// What went wrong, said kindly: what it is, and what to do.

import { ApiError } from "./api.js";

const TITLES = {
  400: "The server could not take that.",
  401: "This server asks for an API key.",
  403: "The server does not accept requests from this page.",
  408: "The message took too long to arrive.",
  413: "That is too large for this server.",
  415: "The server does not know this kind of file.",
  422: "The server could not take that.",
  429: "Many people are asking at once.",
  503: "The server is closing down.",
  504: "That took longer than the server allows.",
};
const ADVICE = {
  401: "Put it in under Settings, then try again.",
  403: "Open the page under the address that the server printed when it started.",
  408: "Try again, with smaller files if the connection is slow.",
  503: "Wait until it is back, then try again.",
  504: "Ask for fewer things at once, or set fewer denoising steps.",
};

/**
 * @param {unknown} error what was thrown.
 * @returns {{title: string, advice: string, needsKey: boolean}}
 */
export function trouble(error) {
  if (!(error instanceof ApiError)) {
    return {
      title: "Something went wrong in this page.",
      advice: "Try again. If it comes back, reload the page.",
      needsKey: false,
    };
  }
  return { title: title(error), advice: advice(error), needsKey: error.status === 401 };
}

function title({ status, code }) {
  if (code === "broken_off") return "The connection broke off.";
  if (status === 0) return "The server did not answer.";
  if (status === 200) return "The reply could not be finished.";
  return TITLES[status] ?? "Something went wrong in the server.";
}

function advice({ status, code, message, retryAfter }) {
  if (code === "broken_off") return "What had come so far is kept. Try again.";
  if (status === 0) return "Check that “anyany serve” is still running, then try again.";
  if (status === 429) {
    const wait = retryAfter > 1 ? `in ${retryAfter} seconds` : "in a moment";
    return `Nothing is lost: try again ${wait}.`;
  }
  if (ADVICE[status]) return ADVICE[status];
  if (status >= 500) return "Try again. If it comes back, the server's log says more.";
  return sentence(message);
}

function sentence(message) {
  const text = (message || "Try it in another way").trim();
  const whole = text.charAt(0).toUpperCase() + text.slice(1);
  return /[.!?]$/.test(whole) ? whole : `${whole}.`;
}
