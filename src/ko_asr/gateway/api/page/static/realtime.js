// One WebSocket of OpenAI's realtime protocol, for transcription.

import { address, key } from "./api.js";
import { Trouble } from "./language.js";

export const BUSY = 1 << 20; // bytes that wait to be sent: hold back

export class Realtime {
  // `on.event` gets the server's events, `on.closed` is called once when the socket is gone.
  constructor(session, on) {
    this.session = session;
    this.on = on;
    const url = address("v1/realtime?intent=transcription");
    url.protocol = url.protocol.replace("http", "ws");
    this.socket = new WebSocket(url, key() ? ["realtime", `openai-insecure-api-key.${key()}`] : ["realtime"]);
    this.ready = false;
    this.socket.onmessage = ({ data }) => this.#event(JSON.parse(data));
    this.socket.onclose = () => this.#closed();
  }

  get busy() {
    return !this.ready || this.socket.bufferedAmount > BUSY;
  }

  // Int16Array, little-endian as on every machine that has a browser.
  append(samples) {
    const bytes = new Uint8Array(samples.buffer, samples.byteOffset, samples.byteLength);
    this.#send({ type: "input_audio_buffer.append", audio: btoa(String.fromCharCode(...bytes)) });
  }

  // End the last utterance. `session.updated` comes when that was handled, whether there was one or not.
  commit() {
    this.#send({ type: "input_audio_buffer.commit" });
    this.#send({ type: "session.update", session: this.session });
  }

  // Nothing is told of it any more.
  close() {
    this.on = { event() {}, closed() {} };
    this.ready = false;
    this.socket.close(1000);
  }

  #send(event) {
    this.socket.send(JSON.stringify(event));
  }

  #event(event) {
    if (event.type === "session.created") this.#send({ type: "session.update", session: this.session });
    if (event.type === "session.updated") this.ready = true;
    if (event.type === "error" && !this.ready) this.#refused(event.error);
    else this.on.event(event);
  }

  // A session that is not granted will not be granted to a second socket.
  #refused(error) {
    this.refusal = new Trouble("failed", { reason: error.message });
    this.socket.close();
  }

  #closed() {
    this.ready = false;
    this.on.closed(this.refusal);
  }
}
