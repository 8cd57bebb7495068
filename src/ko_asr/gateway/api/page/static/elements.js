// Making elements.

import { say } from "./language.js";

// An element with a class, properties and children.
export function make(tag, name, properties = {}, ...children) {
  const element = Object.assign(document.createElement(tag), properties);
  if (name) element.className = name;
  element.append(...children);
  return element;
}

// A button that says `text` of texts.js.
export function button(name, text, onclick, values = {}) {
  return say(make("button", name, { type: "button", onclick }), text, values);
}

export function clock(seconds) {
  const whole = Math.floor(seconds);
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  const two = (number) => String(number).padStart(2, "0");
  const rest = two(whole % 60);
  return hours ? `${hours}:${two(minutes)}:${rest}` : `${minutes}:${rest}`;
}
