// Files, one after the other: sent with progress, transcribed, shown.

import { request } from "./api.js";
import { button, make } from "./elements.js";
import { FileSource } from "./file_source.js";
import { say, sayTrouble, Trouble } from "./language.js";

const KINDS = ["word", "segment"];
const BETWEEN = 1000; // ms between looks at a job

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
      const { duration, segments, words, written_words: written } = await this.#answer(upload);
      const source = new FileSource(upload.file, duration, this.settings.model);
      upload.element.remove();
      this.done(source, upload.file.name, utterances(segments, written ?? words));
    } catch (error) {
      if (!upload.cancelled.signal.aborted) upload.failed(error);
    }
  }

  // Short files are answered at once, others by a job.
  async #answer(upload) {
    const fields = [["model", this.settings.model], ["language", "ko"], ...this.fields()];
    if (upload.file.size > this.settings.max_upload) return upload.job(fields);
    try {
      return await upload.send(fields);
    } catch (error) {
      if (error.message === "tooLarge") return upload.job(fields); // small, and long
      throw error;
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

  send(fields) {
    const all = [...fields, ["response_format", "verbose_json"]];
    for (const kind of KINDS) all.push(["timestamp_granularities[]", kind]);
    return this.#post("v1/audio/transcriptions", all);
  }

  // The job is removed when its text is here, and when the user gives it up.
  async job(fields) {
    let { id, status, progress, error } = await this.#post("v1/jobs", fields);
    const path = `v1/jobs/${id}`;
    try {
      while (["queued", "running"].includes(status)) {
        await new Promise((resolve) => setTimeout(resolve, BETWEEN));
        this.cancelled.signal.throwIfAborted();
        ({ status, progress, error } = await request("GET", path));
        say(this.status, "recognisingPart", { percent: progress });
        this.bar.value = progress / 100;
      }
      if (status !== "completed") throw new Trouble("failed", { reason: error?.message ?? status });
      return await request("GET", `${path}/result?format=verbose_json&timestamp_granularities=${KINDS}`);
    } finally {
      request("DELETE", path).catch(() => {});
    }
  }

  failed(error) {
    this.bar.remove();
    this.element.classList.add("failed");
    sayTrouble(this.status, error);
    say(this.end, "dismiss");
  }

  #post(path, fields) {
    const form = new FormData();
    for (const [name, value] of fields) form.append(name, value);
    form.append("file", this.file);
    const progress = (share) => this.#progress(share);
    return request("POST", path, { form, progress, signal: this.cancelled.signal });
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

// The written form where there is one; a written word may begin in one segment and end in the next.
function utterances(segments, words) {
  const found = segments.map(({ start, end, text, written }) => ({
    start,
    end,
    text: written ?? text,
    words: words.filter((word) => start <= word.start && word.start < end),
  }));
  return found.filter(({ text }) => text);
}
