// The page: one button for the microphone, a place for files, the transcripts below.

import { address, key, setKey } from "./api.js";
import { choose, other, say, sayAll, sayTrouble } from "./language.js";
import { Levels } from "./levels.js";
import { Live } from "./live.js";
import { Player } from "./player.js";
import { RATE, Recording } from "./recording.js";
import { Take } from "./take.js";
import { Uploads } from "./uploads.js";

const find = (id) => document.getElementById(id);
const settings = await (await fetch(address("page/settings.json"))).json();
const status = find("status");
const microphone = find("microphone");
const player = new Player(find("player"));
const levels = new Levels(find("levels"));
const uploads = new Uploads(find("uploads"), settings, fileFields, showFile);
// What this gateway adds to OpenAI's events for those who ask (docs/gateway-page.md).
const INCLUDED = ["item.input_audio_transcription.partial", "item.input_audio_transcription.words"];
let live = null;

function keywords() {
  return find("keywords").value.split(",").map((word) => word.trim()).filter(Boolean);
}

// The gateway's own options where it has some, else numbers and marks.
function written() {
  if (!find("written").checked) return false;
  return settings.written || { punctuation: true };
}

function fileFields() {
  return [...keywords().map((word) => ["keywords[]", word]), ["written", JSON.stringify(written())]];
}

function session() {
  const transcription = { language: "ko", written: written() };
  if (keywords().length) transcription.keywords = keywords();
  const input = {
    format: { type: "audio/pcm", rate: RATE },
    transcription,
    turn_detection: { type: "server_vad", prefix_padding_ms: 0 },
  };
  return { type: "transcription", audio: { input }, include: INCLUDED };
}

function show(state) {
  const on = ["listening", "reconnecting"].includes(state);
  document.body.dataset.state = state;
  microphone.setAttribute("aria-pressed", String(on));
  microphone.disabled = ["opening", "stopping"].includes(state);
  say(find("microphone-label"), on ? "stop" : "start");
  say(status, state);
}

function tell(error) {
  sayTrouble(status, error);
  document.body.dataset.trouble = "";
  if (error.message === "unauthorized") {
    find("options").open = true;
    find("key").focus();
  }
}

async function start() {
  delete document.body.dataset.trouble;
  const recording = new Recording();
  const begun = new Date();
  const name = `${begun.toLocaleDateString("sv")} ${begun.toTimeString().slice(0, 5).replace(":", "")}`;
  const removed = () => live?.recording === recording && live.abandon();
  const take = new Take(recording, name, { player, corrections: settings.corrections, removed });
  say(take.title, "recorded", { time: begun.toTimeString().slice(0, 5) });
  live = new Live(recording, session(), {
    state: show,
    level: (samples) => levels.add(samples),
    partial: (text) => take.partial(text),
    utterance: (utterance) => take.add(utterance),
    end: (trouble) => ended(take, recording, trouble),
  });
  try {
    await live.start();
    find("takes").prepend(take.element);
  } catch (error) {
    ended(take, recording, error);
  }
}

function ended(take, recording, trouble) {
  live = null;
  levels.clear();
  take.end(recording.length / RATE);
  show("idle");
  if (trouble) tell(trouble);
}

function showFile(source, name, utterances) {
  const take = new Take(source, name.replace(/\.[^.]*$/, ""), { player, corrections: settings.corrections });
  take.title.textContent = name;
  utterances.forEach((utterance) => take.add(utterance));
  take.end(source.duration);
  find("takes").prepend(take.element);
}

function languageButton() {
  say(find("language"), "other").lang = other();
}

function dropping() {
  const drop = find("drop");
  const over = (yes) => (event) => {
    event.preventDefault();
    drop.classList.toggle("over", yes);
  };
  document.addEventListener("dragover", over(true));
  document.addEventListener("dragleave", over(false));
  document.addEventListener("drop", (event) => {
    over(false)(event);
    uploads.add(event.dataTransfer.files);
  });
}

microphone.onclick = () => (live ? live.stop() : start());
find("file").onchange = ({ target }) => {
  uploads.add([...target.files]);
  target.value = "";
};
find("written").checked = settings.written;
find("key").value = key();
find("key").onchange = ({ target }) => setKey(target.value);
find("language").onclick = () => {
  choose(other());
  languageButton();
};
dropping();
sayAll();
show("idle");
languageButton();
