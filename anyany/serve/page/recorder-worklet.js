// Runs on the audio thread: hands every block of the microphone's first channel to recorder.js.

registerProcessor(
  "hand-on",
  class extends AudioWorkletProcessor {
    process([input]) {
      if (input[0]) this.port.postMessage(input[0].slice());
      return true;
    }
  },
);
