// Live speech: the microphone into a recording, the recording through a socket, utterances out of it.
// The recording is the queue: when a socket dies, the next one gets what was not answered yet.

import { request } from "./api.js";
import { Trouble } from "./language.js";
import { Microphone } from "./microphone.js";
import { Realtime } from "./realtime.js";
import { RATE } from "./recording.js";

const PACKET = RATE / 10;
const TRIES = [300, 700, 1500, 3000, 5000]; // ms before each new connection
const PATIENCE = 15000; // ms for the last words
const REASONS = { full: "full", unavailable: "unavailable", timeout: "unavailable" };
const WORDS = "item.input_audio_transcription.";

export class Live {
  #ended = false;

  // `on.state(name)`, `on.level(samples)`, `on.partial(text)`, `on.utterance(utterance)`, `on.end(trouble?)`.
  constructor(recording, session, on) {
    Object.assign(this, { recording, session, on });
    this.items = new Map(); // what is being said, by item_id
    this.offset = this.sent = this.answered = 0; // samples: where the socket began; sent; with text
    this.last = 0; // end of the last utterance, in seconds
    this.tries = 0;
    this.stopping = false;
  }

  async start() {
    this.on.state("opening");
    await request("GET", "v1/models"); // a socket that is refused does not say why
    this.microphone = await Microphone.open((samples) => this.#heard(samples), () => this.stop("unplugged"));
    this.on.state("listening");
    this.#connect();
  }

  // Ends when the last word is there, or `trouble` or patience ends it.
  async stop(trouble) {
    if (this.stopping) return;
    this.stopping = true;
    this.on.state("stopping");
    await this.microphone.stop();
    this.timer = setTimeout(() => this.#end("late"), PATIENCE);
    this.trouble = trouble;
    this.#pump();
  }

  // Ends at once, whatever is on its way.
  abandon() {
    this.#end();
  }

  #heard(samples) {
    if (this.#ended) return;
    this.recording.add(samples);
    this.on.level(samples);
    this.#pump();
  }

  #connect() {
    this.offset = this.sent = Math.max(this.answered, this.recording.begin);
    this.items.clear();
    this.committed = this.tail = false;
    this.socket = new Realtime(this.session, {
      event: (event) => this.#event(event),
      closed: (refusal) => this.#again(refusal),
    });
  }

  #again(refusal) {
    if (refusal || this.tries === TRIES.length) return this.#end(refusal ?? this.reason ?? "lost");
    if (!this.stopping) this.on.state("reconnecting");
    setTimeout(() => this.#ended || this.#connect(), TRIES[this.tries++]);
  }

  #pump() {
    while (!this.socket?.busy && this.sent < this.recording.length) {
      const samples = this.recording.cut(this.sent, this.sent + PACKET);
      this.socket.append(samples);
      this.sent += samples.length;
    }
    if (!this.stopping || this.committed || !this.socket?.ready) return;
    if (this.sent < this.recording.length) return void setTimeout(() => this.#pump(), 100);
    this.committed = true;
    this.socket.commit();
  }

  #event(event) {
    const item = this.#item(event.item_id);
    switch (event.type) {
      case "session.updated":
        this.tail = this.committed;
        if (!this.stopping) this.on.state("listening");
        this.#pump();
        break;
      case "input_audio_buffer.speech_started":
        item.start = this.#seconds(event.audio_start_ms);
        break;
      case "input_audio_buffer.speech_stopped":
        item.end = this.#seconds(event.audio_end_ms);
        break;
      case `conversation.${WORDS}delta`:
        item.text += event.delta;
        break;
      case `conversation.${WORDS}partial`: // ours: words that may still change
        item.text = event.text;
        break;
      case `conversation.${WORDS}completed`:
        this.#completed(event, item);
        break;
      case `conversation.${WORDS}failed`:
        this.items.delete(event.item_id);
        break;
      case "error":
        return this.#error(event.error);
    }
    this.on.partial([...this.items.values()].map(({ text }) => text).join(" ").trim());
    if (this.tail && !this.items.size) this.#end(this.trouble);
  }

  #error({ code, message }) {
    if (code === "input_audio_buffer_commit_empty") return;
    this.reason = REASONS[code] ?? new Trouble("failed", { reason: message });
    this.socket.close();
    this.#again();
  }

  #item(id) {
    if (id && !this.items.has(id)) this.items.set(id, { text: "", start: this.last, end: null });
    return this.items.get(id);
  }

  #seconds(ms) {
    return this.offset / RATE + ms / 1000;
  }

  #completed(event, item) {
    this.items.delete(event.item_id);
    this.tries = 0;
    const end = item.end ?? this.sent / RATE;
    this.answered = Math.max(this.answered, Math.round(end * RATE));
    const text = event.transcript.trim();
    if (text) this.#tell(text, event.words?.map((word) => this.#word(word)) ?? spread(text, item.start, end));
  }

  #tell(text, words) {
    const { start } = words[0];
    const { end } = words.at(-1);
    const latency = (performance.now() - this.recording.when(end)) / 1000;
    this.on.utterance({ start, end, text, words, latency });
    this.last = end;
  }

  #word({ start, end, ...word }) {
    return { ...word, start: this.#seconds(1000 * start), end: this.#seconds(1000 * end) };
  }

  #end(trouble) {
    if (this.#ended) return;
    this.#ended = true;
    clearTimeout(this.timer);
    this.socket.close();
    if (!this.stopping) this.microphone.stop();
    const told = typeof trouble === "string" ? new Trouble(trouble) : trouble;
    this.on.end(told);
  }
}

// Where the answer has no times of words, they share the utterance by their letters.
function spread(text, start, end) {
  const each = (end - start) / text.length;
  let at = 0;
  return text.split(/\s+/).map((word) => {
    const begin = text.indexOf(word, at);
    at = begin + word.length;
    return { word, start: start + begin * each, end: start + at * each };
  });
}
