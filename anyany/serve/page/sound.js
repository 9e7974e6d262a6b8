// Sound to pixels and to bytes: the drawing of a waveform, and WAV files.

const WAV_HEAD = 44; // bytes

/** Draw a recording's waveform in the color of the text; nothing where it cannot be read. */
export async function drawWaveform(canvas, blob) {
  let samples;
  try {
    const decoder = new OfflineAudioContext(1, 1, 48_000);
    samples = (await decoder.decodeAudioData(await blob.arrayBuffer())).getChannelData(0);
  } catch {
    return;
  }
  const { width, height } = canvas;
  const context = canvas.getContext("2d");
  context.fillStyle = getComputedStyle(canvas).color;
  const bar = 4;
  for (let left = 0; left < width; left += 2 * bar) {
    const from = Math.floor((left / width) * samples.length);
    const to = Math.floor(((left + 2 * bar) / width) * samples.length);
    const peak = samples.subarray(from, to).reduce((most, value) => Math.max(most, Math.abs(value)), 0);
    const tall = Math.max(2, Math.min(1, peak) * height);
    context.fillRect(left, (height - tall) / 2, bar, tall);
  }
}

/**
 * A WAV file (PCM, 16 bits, one channel).
 * @param {Float32Array[]} pieces in [-1, 1], one after the other.
 * @param {number} sampleRate in Hz.
 */
export function wav(pieces, sampleRate) {
  const samples = pieces.reduce((sum, piece) => sum + piece.length, 0);
  const view = new DataView(new ArrayBuffer(WAV_HEAD + 2 * samples));
  const letters = (at, text) => [...text].forEach((letter, i) => view.setUint8(at + i, letter.charCodeAt(0)));
  letters(0, "RIFF");
  view.setUint32(4, WAV_HEAD - 8 + 2 * samples, true);
  letters(8, "WAVEfmt ");
  view.setUint32(16, 16, true); // bytes of the format
  view.setUint16(20, 1, true); // PCM
  view.setUint16(22, 1, true); // channels
  view.setUint32(24, sampleRate, true);
  view.setUint32(28, 2 * sampleRate, true); // bytes a second
  view.setUint16(32, 2, true); // bytes a sample
  view.setUint16(34, 16, true); // bits a sample
  letters(36, "data");
  view.setUint32(40, 2 * samples, true);
  let at = WAV_HEAD;
  for (const piece of pieces) {
    for (const sample of piece) {
      view.setInt16(at, Math.round(32_767 * Math.max(-1, Math.min(1, sample))), true);
      at += 2;
    }
  }
  return new Blob([view], { type: "audio/wav" });
}
