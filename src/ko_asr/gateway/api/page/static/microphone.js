// The microphone as packets: Int16Array at 24 kHz, 100 ms each (the last one is shorter).

import { Trouble } from "./language.js";

const REASONS = {
  NotAllowedError: "denied",
  SecurityError: "denied",
  NotFoundError: "noMicrophone",
  OverconstrainedError: "noMicrophone",
  NotReadableError: "busyMicrophone",
};
// The recogniser was trained on sound that no telephone has improved.
const SOUND = { channelCount: 1, echoCancellation: false, noiseSuppression: false, autoGainControl: false };

export class Microphone {
  // Rejects with Trouble when there is no microphone to be had. `ended` is called when it is pulled out.
  static async open(packet, ended) {
    if (!isSecureContext || !navigator.mediaDevices) throw new Trouble("insecure");
    let stream;
    try {
      stream = await navigator.mediaDevices.getUserMedia({ audio: SOUND });
    } catch (error) {
      throw REASONS[error.name] ? new Trouble(REASONS[error.name]) : error;
    }
    const microphone = new Microphone(stream, packet);
    stream.getAudioTracks()[0].onended = ended;
    await microphone.#connect();
    return microphone;
  }

  constructor(stream, packet) {
    this.stream = stream;
    this.packet = packet;
    this.context = new AudioContext();
  }

  // Ends when the last samples have gone through `packet`.
  async stop() {
    const flushed = new Promise((resolve) => (this.flushed = resolve));
    this.node.port.postMessage("end");
    await flushed;
    this.#release();
  }

  async #connect() {
    try {
      await this.context.resume();
      await this.context.audioWorklet.addModule(new URL("worklet.js", import.meta.url));
      this.node = new AudioWorkletNode(this.context, "capture", { numberOfOutputs: 0 });
      this.node.port.onmessage = ({ data }) => (data ? this.packet(data) : this.flushed());
      this.context.createMediaStreamSource(this.stream).connect(this.node);
      this.awake = await navigator.wakeLock?.request("screen").catch(() => null); // a phone would lock itself
    } catch (error) {
      this.#release();
      throw error;
    }
  }

  #release() {
    for (const track of this.stream.getTracks()) {
      track.onended = null;
      track.stop();
    }
    this.awake?.release();
    this.context.close();
  }
}
