// The microphone to a WAV file: the readers of the server know WAV without a container's guesswork.

import { wav } from "./sound.js";

const SAMPLE_RATE = 16_000; // Hz, what the audio encoders hear

/** One recording at a time. */
export class Recorder {
  /** @param {(seconds: number, level: number) => void} onBlock told of each block; level in [0, 1]. */
  constructor(onBlock) {
    this.onBlock = onBlock;
    this.running = false;
  }

  /** Whether this browser and page can record at all. */
  static get possible() {
    return Boolean(navigator.mediaDevices?.getUserMedia && window.AudioWorkletNode);
  }

  /** Ask for the microphone and start; throws what getUserMedia throws. */
  async start() {
    this.stream = await navigator.mediaDevices.getUserMedia({ audio: { channelCount: 1 } });
    try {
      this.context = new AudioContext({ sampleRate: SAMPLE_RATE });
      await this.context.audioWorklet.addModule(new URL("recorder-worklet.js", import.meta.url));
      this.pieces = [];
      let samples = 0;
      const taker = new AudioWorkletNode(this.context, "hand-on");
      taker.port.onmessage = ({ data }) => {
        if (!this.running) return;
        this.pieces.push(data);
        samples += data.length;
        this.onBlock(samples / SAMPLE_RATE, Math.max(...data.map(Math.abs)));
      };
      this.context.createMediaStreamSource(this.stream).connect(taker);
      await this.context.resume();
      this.running = true;
    } catch (error) {
      await this.release();
      throw error;
    }
  }

  /** End it: the recording as a WAV file. */
  async stop() {
    this.running = false;
    await this.release();
    return wav(this.pieces, SAMPLE_RATE);
  }

  async release() {
    this.running = false;
    this.stream?.getTracks().forEach((track) => track.stop());
    if (this.context?.state !== "closed") await this.context?.close();
  }
}

/** What to do when the microphone could not be had. */
export function microphoneTrouble(error) {
  if (error.name === "NotAllowedError") {
    return "The browser did not allow the microphone. Allow it for this page, then try again.";
  }
  if (error.name === "NotFoundError") return "No microphone was found. Connect one, or add a recording as a file.";
  return "The microphone could not be used. Close other programs that use it, or add a recording as a file.";
}
