// How a part was made: the record that is also inside its file, laid out for reading.

import { announce, button, copyText, make } from "./dom.js";

const SETTINGS = {
  num_inference_steps: "Steps",
  guidance_scale: "Guidance",
  scheduler: "Scheduler",
  condition: "Told by",
  negative_prompt: "Away from",
  device: "Device",
  dtype: "Precision",
  threads: "Threads",
};

/** The panel under a plate. */
export function facts(part, id) {
  const record = part.provenance;
  const list = make("dl");
  for (const [name, value] of rows(part, record)) {
    list.append(make("dt", {}, name), make("dd", {}, value));
  }
  const copy = button({}, "Copy the whole record");
  copy.addEventListener("click", async () => {
    const worked = await copyText(JSON.stringify(record ?? part, null, 2));
    copy.textContent = worked ? "Copied" : "The browser does not allow copying here";
    announce(copy.textContent);
  });
  const inputs = record?.inputs?.length ? " --inputs FOLDER" : "";
  const note = record
    ? `AI-generated. The file carries this record: “anyany repro FILE${inputs}” makes it again.`
    : "AI-generated. This server left the record out of the file.";
  return make("div", { className: "facts", id, hidden: true }, list, make("p", {}, note), copy);
}

function* rows(part, record) {
  if (record) yield ["Model", `${record.model} ${short(record.model_sha256)}`];
  if (record?.prompt) yield ["Asked", record.prompt];
  yield ["Seed", String(part.seed)];
  const settings = { ...record?.settings, ...record?.settings?.decoding?.[part.modality] };
  for (const [name, label] of Object.entries(SETTINGS)) {
    const value = settings[name];
    if (["string", "number"].includes(typeof value)) yield [label, String(value)];
  }
  if (part.width) yield ["Size", `${part.width} × ${part.height}`];
  if (part.frames) yield ["Frames", `${part.frames} at ${part.frames_per_second} a second`];
  if (part.sample_rate) yield ["Sound", `${part.seconds} s at ${part.sample_rate} Hz`];
  if (record?.inputs?.length) {
    yield ["Made from", record.inputs.map((input) => `${input.modality} ${short(input.sha256)}`).join(", ")];
  }
  if (record?.versions?.anyany) yield ["Version", `anyany ${record.versions.anyany}`];
  if (part.sha256) yield ["File", short(part.sha256)];
}

function short(sum) {
  return (sum ?? "").slice(0, 12);
}
