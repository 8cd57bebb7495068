// "This is wrong": what was really said, sent with its clip when the user agrees, and deleted when they wish.

import { request } from "./api.js";
import { button, make } from "./elements.js";
import { say, sayTrouble } from "./language.js";

const EDGE = 0.2; // seconds around the words: a clip that cuts a syllable teaches nothing

export class Correction {
  constructor(utterance) {
    this.utterance = utterance;
    this.heard = make("textarea", "", { rows: 2, maxLength: 1000, value: utterance.text, lang: "ko" });
    this.consent = make("input", "", { type: "checkbox", required: true });
    this.send = Object.assign(button("primary", "send"), { type: "submit" });
    this.cancel = button("quiet", "cancel", () => this.#close());
    this.status = make("span", "correction-status", { role: "status" });
    this.form = make(
      "form", "correction", { onsubmit: (event) => this.#submit(event) },
      make("label", "heard", {}, say(make("span"), "heard"), this.heard),
      make("label", "consent", {}, this.consent, say(make("span"), "consent")),
      make("p", "actions", {}, this.send, this.cancel, this.status),
    );
  }

  open() {
    this.utterance.element.append(this.form);
    this.heard.focus();
  }

  async #submit(event) {
    event.preventDefault();
    say(this.status, "storing");
    this.send.disabled = true;
    try {
      this.#stored(await request("POST", "v1/corrections", { form: await this.#filled() }));
    } catch (error) {
      sayTrouble(this.status, error);
      this.send.disabled = false;
    }
  }

  async #filled() {
    const { start, end, text, take } = this.utterance;
    const form = new FormData();
    form.append("text", this.heard.value);
    form.append("original", text);
    form.append("model", take.source.model);
    form.append("consent", String(this.consent.checked));
    form.append("audio", await take.source.clip(Math.max(0, start - EDGE), end + EDGE), "clip.wav");
    return form;
  }

  #stored({ id, token }) {
    const text = this.heard.value.trim().replace(/\s+/g, " ");
    this.utterance.corrected(text);
    const withdraw = button("link", "withdraw", () => this.#withdraw(id, token, withdraw));
    this.form.replaceChildren(make("p", "actions", {}, say(this.status, "thanks"), withdraw));
  }

  async #withdraw(id, token, link) {
    try {
      await request("DELETE", `v1/corrections/${id}`, { headers: { "x-correction-token": token } });
      say(this.status, "withdrawn");
      link.remove();
    } catch (error) {
      sayTrouble(this.status, error);
    }
  }

  #close() {
    this.form.remove();
    const again = this.utterance.notes.querySelector(".wrong");
    again.disabled = false;
    again.focus();
  }
}
