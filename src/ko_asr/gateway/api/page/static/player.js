// One <audio> for the whole page. What plays tells its position, so that the word can be shown.

export class Player {
  constructor(audio) {
    this.audio = audio;
    this.current = null; // {utterance, begins, on}
    audio.onpause = audio.onended = () => this.#tell(false);
    audio.onplay = () => this.#tell(true);
  }

  // Play `utterance` of `source` from `at` seconds. `on.playing(yes)`, `on.position(seconds)`, `on.failed()`.
  async play(source, utterance, at, on) {
    this.stop();
    const { url, begins } = await source.playable(utterance);
    this.current = { utterance, begins, on };
    if (this.audio.src !== url) this.audio.src = url;
    this.audio.currentTime = Math.max(0, at - begins);
    try {
      await this.audio.play();
    } catch (error) {
      if (error.name !== "AbortError") on.failed();
    }
  }

  stop() {
    this.audio.pause();
    this.#tell(false);
    this.current = null;
  }

  plays(utterance) {
    return this.current?.utterance === utterance && !this.audio.paused;
  }

  #tell(playing) {
    cancelAnimationFrame(this.frame);
    this.current?.on.playing(playing);
    if (playing) this.#follow();
  }

  #follow() {
    this.current?.on.position(this.current.begins + this.audio.currentTime);
    this.frame = requestAnimationFrame(() => this.#follow());
  }
}
