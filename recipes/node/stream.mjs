// The wire format of docs/wire-format.md in Node: 16 kHz 16-bit mono WAV to text.
// npm install --prefix recipes/node && node recipes/node/stream.mjs speech.wav [HOST:PORT] [MODEL]
import { randomBytes } from "node:crypto";
import { readFileSync } from "node:fs";
import { fileURLToPath } from "node:url";
import { promisify } from "node:util";
import grpc from "@grpc/grpc-js";
import { loadSync } from "@grpc/proto-loader";

const [path, url = "127.0.0.1:8001", model = "asr_streaming"] = process.argv.slice(2);
const proto = loadSync(fileURLToPath(new URL("asr_streaming.proto", import.meta.url)), { keepCase: true });
const { inference } = grpc.loadPackageDefinition(proto);
const client = new inference.GRPCInferenceService(url, grpc.credentials.createInsecure());
const call = (method) => promisify(client[method].bind(client));

function samplesOf(wav) {
  const chunks = {};
  for (let at = 12; at + 8 <= wav.length; at += 8 + wav.readUInt32LE(at + 4))
    chunks[wav.toString("latin1", at, at + 4)] = wav.subarray(at + 8, at + 8 + wav.readUInt32LE(at + 4));
  const { "fmt ": format, data } = chunks;
  const kind = format && [format.readUInt32LE(4), format.readUInt16LE(14), format.readUInt16LE(2)];
  if (!data || String(kind) !== "16000,16,1") throw new Error(`${path} is not 16 kHz 16-bit mono`);
  return Float32Array.from({ length: data.length >> 1 }, (_, k) => data.readInt16LE(2 * k) / 32768);
}

function texts(bytes) {
  const found = [];
  for (let at = 0; at < bytes.length; at += 4 + bytes.readUInt32LE(at))
    found.push(bytes.toString("utf8", at + 4, at + 4 + bytes.readUInt32LE(at)));
  return found;
}

const sequence = String((randomBytes(8).readBigUInt64LE() >> 1n) || 1n);
async function send(audio, start, end) {
  const flags = { sequence_start: { bool_param: start }, sequence_end: { bool_param: end } };
  const request = {
    model_name: model,
    parameters: { sequence_id: { int64_param: sequence }, ...flags },
    inputs: [{ name: "audio", datatype: "FP32", shape: [1, audio.length] }],
    raw_input_contents: [Buffer.from(audio.buffer, audio.byteOffset, audio.byteLength)],
  };
  const answer = await call("ModelInfer")(request, { deadline: Date.now() + 10_000 });
  const output = (name) => answer.raw_output_contents[answer.outputs.findIndex((one) => one.name === name)];
  texts(output("text")).forEach((text, k) => console.log(output("is_final")[k] ? "final  " : "partial", text));
}
const audio = samplesOf(readFileSync(path));
const { parameters } = (await call("ModelConfig")({ name: model })).config;
const size = (name) => Number(parameters[`${name}_samples`].string_value);
const [first, shift, end] = ["first", "shift", "end"].map(size);
try {
  for (let sent = 0, chunk = 0, last = false; !last; chunk++) {
    last = audio.length - shift * chunk <= end;
    const stop = last ? audio.length : shift * chunk + first;
    await send(audio.subarray(sent, stop), chunk === 0, last);
    sent = stop;
  }
} catch (error) { // an abandoned sequence would keep its place until it is idle for too long
  await send(new Float32Array(0), false, true).catch(() => {});
  throw error;
}
