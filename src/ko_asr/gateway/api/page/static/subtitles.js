// Transcripts as files, by the rules of ko_asr.recognition.subtitles: two lines of 16 syllables, whole words.

const LINE = 16;
const LINES = 2;
const LONGEST = 7; // seconds
const SHORTEST = 0.8; // seconds, unless the next one comes sooner

export function plain(utterances) {
  return utterances.map(({ text }) => `${text}\n`).join("");
}

export function srt(utterances, duration) {
  const cue = ({ start, end, lines }, index) => `${index + 1}\n${times(start, end, ",")}\n${lines.join("\n")}\n\n`;
  return cues(utterances, duration).map(cue).join("");
}

export function vtt(utterances, duration) {
  const escaped = (line) => line.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;");
  const cue = ({ start, end, lines }) => `${times(start, end, ".")}\n${lines.map(escaped).join("\n")}\n\n`;
  return `WEBVTT\n\n${cues(utterances, duration).map(cue).join("")}`;
}

function cues(utterances, duration) {
  const groups = utterances.flatMap(grouped);
  return groups.map((group, index) => {
    const { start } = group[0];
    const { end } = group.at(-1);
    const following = groups[index + 1]?.[0].start ?? duration;
    return { start, end: Math.max(end, Math.min(start + SHORTEST, following)), lines: lines(group) };
  });
}

function grouped({ words }) {
  const groups = [];
  for (const word of words) {
    const group = groups.at(-1);
    const full = group && (lines([...group, word]).length > LINES || word.end - group[0].start > LONGEST);
    if (!group || full) groups.push([word]);
    else group.push(word);
  }
  return groups;
}

function lines(words) {
  const found = [];
  for (const { word } of words) {
    const longer = found.length ? `${found.at(-1)} ${word}` : word;
    if (found.length && longer.length <= LINE) found[found.length - 1] = longer;
    else found.push(word);
  }
  return found;
}

function times(start, end, separator) {
  return `${clock(start, separator)} --> ${clock(end, separator)}`;
}

function clock(seconds, separator) {
  const ms = Math.round(1000 * seconds);
  const two = (number) => String(Math.floor(number)).padStart(2, "0");
  const parts = [ms / 3600000, (ms / 60000) % 60, (ms / 1000) % 60].map(two);
  return `${parts.join(":")}${separator}${String(ms % 1000).padStart(3, "0")}`;
}
