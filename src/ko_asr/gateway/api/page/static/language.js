// Text of elements in the chosen language: `say` remembers what an element says, `choose` says all of it anew.

import { ENGLISH, KOREAN } from "./texts.js";

const STORED = "ko-asr-language";
const said = new WeakMap();
let current = localStorage.getItem(STORED) ?? (navigator.language.startsWith("ko") ? "ko" : "en");

// An Error that the user can be told of, by the name of its text.
export class Trouble extends Error {
  constructor(name, values = {}) {
    super(name);
    this.values = values;
  }
}

export function text(name, values = {}) {
  const words = (current === "ko" ? KOREAN : ENGLISH)[name];
  return words.replace(/\{(\w+)\}/g, (_, value) => values[value]);
}

// Let `element` say a text; with `attribute` in that attribute instead of as its content.
export function say(element, name, values = {}, attribute = "") {
  const all = said.get(element) ?? new Map();
  said.set(element, all.set(attribute, [name, values]));
  element.dataset.t = "";
  tell(element);
  return element;
}

export function sayTrouble(element, error) {
  const known = error instanceof Trouble;
  return known ? say(element, error.message, error.values) : say(element, "failed", { reason: error.message });
}

export function choose(language) {
  current = language;
  localStorage.setItem(STORED, language);
  sayAll();
}

export function other() {
  return current === "ko" ? "en" : "ko";
}

export function sayAll() {
  document.documentElement.lang = current;
  document.title = `ko-asr · ${text("title")}`;
  document.querySelectorAll("[data-t]").forEach(tell);
}

function tell(element) {
  const all = said.get(element) ?? new Map([["", [element.dataset.t, {}]]]);
  for (const [attribute, [name, values]] of all) {
    if (attribute) element.setAttribute(attribute, text(name, values));
    else element.textContent = text(name, values);
  }
}
