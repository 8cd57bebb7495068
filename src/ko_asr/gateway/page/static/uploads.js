// Files, one after the other: sent with progress, transcribed, shown.

import { request } from "./api.js";
import { button, make } from "./elements.js";
import { FileSource } from "./file_source.js";
import { say, sayTrouble } from "./language.js";

export class Uploads {
  // `settings` are the gateway's; `fields()` gives the options of a request; `done(source, name, utterances)`.
  constructor(list, settings, fields, done) {
    Object.assign(this, { list, settings, fields, done });
    this.last = Promise.resolve();
  }

  add(files) {
    for (const file of files) {
      const upload = new Upload(file);
      this.list.append(upload.element);
      this.last = this.last.then(() => this.#run(upload));
    }
  }

  async #run(upload) {
    if (upload.cancelled.signal.aborted) return;
    try {
      const { duration, segments, words } = await upload.send(this.settings.model, this.fields());
      const source = new FileSource(upload.file, duration, this.settings.model);
      upload.element.remove();
      this.done(source, upload.file.name, utterances(segments, words));
    } catch (error) {
      if (!upload.cancelled.signal.aborted) upload.failed(error);
    }
  }
}

class Upload {
  constructor(file) {
    this.file = file;
    this.cancelled = new AbortController();
    this.bar = make("progress", "", { max: 1, value: 0 });
    this.bar.setAttribute("aria-label", file.name);
    this.status = say(make("span", "upload-status"), "sending", { percent: 0 });
    this.end = button("link", "cancel", () => this.#remove());
    const name = make("span", "upload-name", {}, file.name);
    this.element = make("li", "upload", {}, name, this.status, this.end, this.bar);
  }

  send(model, fields) {
    const form = new FormData();
    const all = [["model", model], ["response_format", "verbose_json"], ["language", "ko"], ...fields];
    for (const kind of ["word", "segment"]) all.push(["timestamp_granularities[]", kind]);
    for (const [name, value] of all) form.append(name, value);
    form.append("file", this.file);
    const options = { form, progress: (share) => this.#progress(share), signal: this.cancelled.signal };
    return request("POST", "v1/audio/transcriptions", options);
  }

  failed(error) {
    this.bar.remove();
    this.element.classList.add("failed");
    sayTrouble(this.status, error);
    say(this.end, "dismiss");
  }

  #progress(share) {
    if (share < 1) {
      this.bar.value = share;
      say(this.status, "sending", { percent: Math.floor(100 * share) });
    } else {
      this.bar.removeAttribute("value");
      say(this.status, "recognising");
    }
  }

  #remove() {
    this.cancelled.abort();
    this.element.remove();
  }
}

function utterances(segments, words) {
  return segments.map(({ start, end, text }) => ({
    start,
    end,
    text,
    words: words.filter((word) => start <= word.start && word.end <= end),
  }));
}
