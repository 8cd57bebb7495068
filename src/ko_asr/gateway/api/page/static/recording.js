// What the microphone gave, kept in the page: to send again, to play, to cut corrections from.

import { wav } from "./wav.js";

export const RATE = 24000;
const MOST = 30 * 60 * RATE; // samples that are kept: 86 MB

export class Recording {
  constructor() {
    this.packets = []; // of [first sample, Int16Array]
    this.length = 0; // samples so far
    this.heard = 0; // when the last one came, as performance.now()
    this.model = "asr_streaming";
  }

  add(samples) {
    this.packets.push([this.length, samples]);
    this.length += samples.length;
    this.heard = performance.now();
    while (this.packets[0][0] < this.length - MOST) this.packets.shift();
  }

  // The first sample that is still kept.
  get begin() {
    return this.packets.length ? this.packets[0][0] : this.length;
  }

  // Samples from `start` to `end`, as far as they are kept.
  cut(start, end) {
    const parts = this.packets.filter(([first, packet]) => first < end && first + packet.length > start);
    const cut = parts.map(([first, packet]) => packet.subarray(Math.max(0, start - first), end - first));
    const all = new Int16Array(cut.reduce((sum, part) => sum + part.length, 0));
    let at = 0;
    for (const part of cut) {
      all.set(part, at);
      at += part.length;
    }
    return all;
  }

  // When the sound at `seconds` was made, as performance.now().
  when(seconds) {
    return this.heard - 1000 * (this.length / RATE - seconds);
  }

  async clip(start, end) {
    return wav(this.cut(Math.round(start * RATE), Math.round(end * RATE)), RATE);
  }

  // The address of something that plays `utterance`, and where in the recording it begins.
  async playable({ start, end }) {
    URL.revokeObjectURL(this.url);
    this.url = URL.createObjectURL(await this.clip(start, end));
    return { url: this.url, begins: start };
  }

  forget() {
    this.packets = [];
    URL.revokeObjectURL(this.url);
  }
}
