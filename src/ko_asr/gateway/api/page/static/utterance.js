// One utterance of a transcript: its time, its words, which play, and a way to say that it is wrong.

import { Correction } from "./correction.js";
import { button, clock, make } from "./elements.js";
import { say } from "./language.js";

const UNSURE = 0.6; // confidence below which a word is marked

export class Utterance {
  constructor(take, { start, end, text, words, latency }) {
    Object.assign(this, { take, start, end, text, words });
    this.spans = words.map((word) => this.#word(word));
    this.spans[0].tabIndex = 0; // one stop for the tab key; arrows go on from there
    this.button = make("button", "play", { type: "button", onclick: () => this.toggle() }, clock(start));
    say(this.button, "play", { from: clock(start) }, "aria-label");
    this.line = make("p", "words", { lang: "ko" }, ...this.spans.flatMap((span) => [span, " "]));
    this.line.onkeydown = (event) => this.#key(event);
    this.notes = make("p", "notes");
    this.element = make("li", "utterance", {}, this.button, this.line, this.notes);
    if (latency !== undefined) this.#note("latency", latency);
    if (take.corrections) this.notes.append(button("link wrong", "wrong", () => this.correct()));
  }

  toggle() {
    if (this.take.player.plays(this)) this.take.player.stop();
    else this.play(this.start);
  }

  play(at) {
    this.take.player.play(this.take.source, this, at, {
      playing: (yes) => this.take.playing(this, yes),
      position: (seconds) => this.take.position(seconds),
      failed: () => this.take.failed(),
    });
  }

  show(playing) {
    this.button.classList.toggle("on", playing);
    say(this.button, playing ? "pause" : "play", { from: clock(this.start) }, "aria-label");
  }

  // Mark the word that is heard at `seconds`, if it is one of these.
  mark(seconds) {
    this.spans.forEach((span, index) => {
      const { start, end } = this.words[index];
      span.classList.toggle("now", start <= seconds && seconds < end);
    });
  }

  correct() {
    this.notes.querySelector(".wrong").disabled = true;
    new Correction(this).open();
  }

  corrected(text) {
    const whole = { word: text, start: this.start, end: this.end };
    this.text = text;
    this.words = [whole];
    this.spans = [this.#word(whole)];
    this.spans[0].tabIndex = 0;
    this.line.replaceChildren(...this.spans);
  }

  #word(word) {
    const span = make("span", "word", { tabIndex: -1, onclick: () => this.play(word.start) }, word.word);
    span.setAttribute("role", "button");
    span.classList.toggle("unsure", word.confidence < UNSURE);
    return span;
  }

  #note(name, seconds) {
    const note = say(make("span", name), name, { seconds: seconds.toFixed(1) });
    this.notes.append(say(note, `${name}Help`, {}, "title"));
  }

  #key(event) {
    const at = this.spans.indexOf(event.target);
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (event.key === "Enter" || event.key === " ") event.target.click();
    else if (step && this.spans[at + step]) this.#focus(at, at + step);
    else return;
    event.preventDefault();
  }

  #focus(from, to) {
    this.spans[from].tabIndex = -1;
    this.spans[to].tabIndex = 0;
    this.spans[to].focus();
  }
}
