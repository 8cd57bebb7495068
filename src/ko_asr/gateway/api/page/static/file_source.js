// An audio file of the user's, to play and to cut corrections from.

import { Trouble } from "./language.js";
import { wav } from "./wav.js";

const RATE = 16000;
const LONGEST = 1800; // seconds that a browser may have to decode for one clip

export class FileSource {
  constructor(file, duration, model) {
    this.file = file;
    this.duration = duration;
    this.model = model;
    this.url = URL.createObjectURL(file);
  }

  async playable() {
    return { url: this.url, begins: 0 };
  }

  async clip(start, end) {
    if (this.duration > LONGEST) throw new Trouble("tooLong");
    const context = new OfflineAudioContext(1, 1, RATE);
    const decoding = context.decodeAudioData(await this.file.arrayBuffer());
    const audio = await decoding.catch(() => Promise.reject(new Trouble("unplayable")));
    const channels = Array.from({ length: audio.numberOfChannels }, (_, n) => audio.getChannelData(n));
    const [from, to] = [Math.floor(start * RATE), Math.ceil(end * RATE)];
    const samples = Int16Array.from(channels[0].subarray(from, to), (_, index) => {
      const mean = channels.reduce((sum, one) => sum + one[from + index], 0) / channels.length;
      return Math.round(32767 * Math.max(-1, Math.min(1, mean)));
    });
    return wav(samples, RATE);
  }

  forget() {
    URL.revokeObjectURL(this.url);
  }
}
