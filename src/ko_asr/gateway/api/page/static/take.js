// One transcript on the page: of a recording, as it grows, or of a file.

import { button, make } from "./elements.js";
import { say } from "./language.js";
import { plain, srt, vtt } from "./subtitles.js";
import { Utterance } from "./utterance.js";

const PAUSE = 0.7; // seconds without speech that are worth telling
const FORMATS = { txt: plain, srt, vtt };

export class Take {
  // `name` is that of downloads; `source` plays and cuts the sound.
  constructor(source, name, { player, corrections, removed = () => {} }) {
    Object.assign(this, { source, name, player, corrections, removed });
    this.utterances = [];
    this.title = make("h2", "");
    this.list = make("ol", "utterances");
    this.line = make("p", "partial", { hidden: true, lang: "ko" });
    this.message = make("p", "message", { role: "status" });
    this.downloads = make("div", "downloads", { hidden: true }, ...this.#downloads());
    const remove = make("button", "remove", { type: "button", onclick: () => this.remove() }, "×");
    say(remove, "remove", {}, "aria-label");
    const head = make("header", "", {}, this.title, this.downloads, remove);
    this.element = make("article", "take", {}, head, this.list, this.line, this.message);
    this.list.setAttribute("aria-live", "polite");
  }

  add(given) {
    const utterance = new Utterance(this, given);
    const gap = given.start - (this.utterances.at(-1)?.end ?? given.start);
    if (gap >= PAUSE) this.list.append(say(make("li", "pause"), "quiet", { seconds: gap.toFixed(1) }));
    this.utterances.push(utterance);
    this.list.append(utterance.element);
    this.downloads.hidden = false;
  }

  // Words that may still change.
  partial(text) {
    this.line.textContent = text;
    this.line.hidden = !text;
  }

  end(duration) {
    this.partial("");
    this.duration = duration;
    if (!this.utterances.length) say(this.message, "nothing");
  }

  playing(utterance, yes) {
    this.utterances.forEach((one) => one.show(yes && one === utterance));
    if (!yes) this.position(-1);
  }

  position(seconds) {
    this.utterances.forEach((one) => one.mark(seconds));
  }

  failed() {
    say(this.message, "unplayable");
  }

  remove() {
    this.player.stop();
    this.removed();
    this.source.forget();
    this.element.remove();
  }

  #downloads() {
    const label = { srt: "SRT", vtt: "VTT" };
    return Object.keys(FORMATS).map((format) => {
      const save = make("button", "link", { type: "button", onclick: () => this.#save(format) });
      save.textContent = label[format];
      return label[format] ? save : say(save, "text");
    });
  }

  #save(format) {
    const last = this.utterances.at(-1).end;
    const blob = new Blob([FORMATS[format](this.utterances, this.duration ?? last)], { type: "text/plain" });
    const link = make("a", "", { href: URL.createObjectURL(blob), download: `${this.name}.${format}` });
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  }
}
