// What the media are called on this page.

export const MEDIA = ["image", "video", "audio"];

export const NAMES = {
  text: { choice: "Text", one: "words", many: "words" },
  image: { choice: "Image", one: "picture", many: "pictures", making: "Drawing" },
  video: { choice: "Video", one: "clip", many: "clips", making: "Filming" },
  audio: { choice: "Audio", one: "sound", many: "sounds", making: "Sounding out" },
};

/** "a, b or c". */
export function either(words) {
  if (words.length < 2) return words.join("");
  return `${words.slice(0, -1).join(", ")} or ${words.at(-1)}`;
}

/** "1 picture and 2 sounds" of a list of modalities. */
export function counted(modalities) {
  const found = MEDIA.filter((name) => modalities.includes(name)).map((name) => {
    const number = modalities.filter((other) => other === name).length;
    return `${number} ${number === 1 ? NAMES[name].one : NAMES[name].many}`;
  });
  return found.length < 2 ? found.join("") : `${found.slice(0, -1).join(", ")} and ${found.at(-1)}`;
}

/** "first letter up". */
export function capital(text) {
  return text.charAt(0).toUpperCase() + text.slice(1);
}

/** Seconds as "0.8 s" or "1 min 5 s". */
export function duration(seconds) {
  if (seconds < 9.95) return `${seconds.toFixed(1)} s`;
  if (seconds < 59.5) return `${Math.round(seconds)} s`;
  const whole = Math.round(seconds);
  return `${Math.floor(whole / 60)} min ${whole % 60} s`;
}

/** Bytes as "512 KB" or "1.5 MB". */
export function size(bytes) {
  if (bytes < 1000) return `${bytes} bytes`;
  if (bytes < 1_000_000) return `${Math.round(bytes / 1000)} KB`;
  return `${(bytes / 1_000_000).toFixed(1)} MB`;
}
