// The gateway's API: addresses, the key of this tab, requests whose upload can be watched.

import { Trouble } from "./language.js";

const STORED = "ko-asr-key";
const TROUBLES = {
  0: "unreachable",
  401: "unauthorized",
  413: "tooLarge",
  415: "unknownFormat",
  429: "full",
  503: "unavailable",
};

export function key() {
  return sessionStorage.getItem(STORED) ?? "";
}

export function setKey(value) {
  sessionStorage.setItem(STORED, value.trim());
}

export function address(path) {
  return new URL(path, document.baseURI);
}

// The JSON of an answer, or null. Rejects with Trouble; `progress` gets the share that is sent, 0 to 1.
export function request(method, path, { form, headers = {}, progress, signal } = {}) {
  return new Promise((resolve, reject) => {
    const sending = new XMLHttpRequest();
    sending.open(method, address(path));
    if (key()) sending.setRequestHeader("authorization", `Bearer ${key()}`);
    for (const [name, value] of Object.entries(headers)) sending.setRequestHeader(name, value);
    sending.upload.onprogress = ({ loaded, total }) => progress?.(loaded / total);
    sending.onloadend = () => {
      if (sending.status >= 200 && sending.status < 300) resolve(json(sending));
      else reject(trouble(sending));
    };
    signal?.addEventListener("abort", () => sending.abort());
    sending.send(form);
  });
}

function trouble(sending) {
  const known = TROUBLES[sending.status];
  if (known) return new Trouble(known);
  return new Trouble("failed", { reason: json(sending)?.error?.message ?? `HTTP ${sending.status}` });
}

function json(sending) {
  try {
    return JSON.parse(sending.responseText);
  } catch {
    return null;
  }
}
