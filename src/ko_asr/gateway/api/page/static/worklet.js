// In the audio thread: the microphone's blocks at its own rate to packets of pcm16 at 24 kHz.
// Firefox refuses an AudioContext at another rate than the microphone's.

import { Resampler } from "./resampler.js";

const RATE = 24000;
const PACKET = RATE / 10;

class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.resampler = new Resampler(Math.round(sampleRate), RATE);
    this.packet = new Int16Array(PACKET);
    this.filled = 0;
    this.ended = false;
    this.port.onmessage = () => this.#end();
  }

  process([channels]) {
    if (!this.ended && channels.length) this.#add(this.resampler.push(mono(channels)));
    return !this.ended;
  }

  #add(samples) {
    for (const sample of samples) {
      this.packet[this.filled++] = Math.round(32767 * Math.max(-1, Math.min(1, sample)));
      if (this.filled === PACKET) this.#post();
    }
  }

  #post() {
    const samples = this.packet.slice(0, this.filled);
    this.filled = 0;
    this.port.postMessage(samples, [samples.buffer]);
  }

  #end() {
    this.#add(this.resampler.flush());
    this.#post();
    this.ended = true;
    this.port.postMessage(null);
  }
}

function mono(channels) {
  if (channels.length === 1) return channels[0];
  return channels[0].map((_, index) => channels.reduce((sum, one) => sum + one[index], 0) / channels.length);
}

registerProcessor("capture", Capture);
