// Transcripts as files. Subtitles are divided by the rules of ko_asr.recognition.cues, which explains them.

const LINE = 16;
const CHARACTERS_PER_SECOND = 12;
const SHORTEST = 833; // ms, as all times below
const LONGEST = 7000;
const GAP = 83;
const LINGER = 500;
const PAUSE = 300;

const [COUNTED, PART, WORD, CLAUSE, SENTENCE, UTTERANCE] = [0, 1, 2, 3, 4, 5]; // what ends with a word
const CUE_BREAK = [100, 16, 8, 3, 0, 0];
const LINE_BREAK = [40, 6, 2, 0, 0, 0];
const CUE = 4;
const SECOND_LINE = 1;
const UNBALANCED = 2;
const ENDS_WITHIN_LINE = [0, 0, 0, 0, 6, 6];
const ENDS_WITHIN_CUE = [0, 0, 0, 0, 0, 4];
const SECOND_OF_SILENCE = 4;
const TOO_SHORT = 8;
const TOO_FAST = 16;

const DIGIT = "[일이삼사오육칠팔구]";
const FOUR = `(?:${DIGIT}?천)?(?:${DIGIT}?백)?(?:${DIGIT}?십)?${DIGIT}?`;
const LARGE = [..."경조억"].map((unit) => `(?:(?=[^${unit}])${FOUR}${unit})?`).join("");
const SINO = `(?:${LARGE}(?:${FOUR}만)?${FOUR})`;
const NATIVE = "(?:열|스물|스무|서른|마흔|쉰|예순|일흔|여든|아흔)?(?:한|두|세|네|다섯|여섯|일곱|여덟|아홉)?";
const DIGITS = "[-+]?\\d[\\d,.:]*[만억조경]?";
const NUMBER = `(?:${DIGITS}|(?:${SINO}|[영공])점[영공일이삼사오육칠팔구]+|${SINO}|${NATIVE})`;
const IS_NUMBER = new RegExp(`^${NUMBER}$`);
const IS_PART = new RegExp(`^(?:${NUMBER}[년월일시분]|오전|오후)$`);
const AMBIGUOUS = "일이삼사오육칠팔구만천백십영공";
const BEGINS_WITH_NUMBER = /^(?:[-+]?\d|[일이삼사오육칠팔구십백천만]+[월일시분초])/;
const ENDS_CLAUSE = /(?:,|고|서|며|면|지만|는데|은데|니까|려고|다가|거나)$/;
const FULL_WIDTH = /[\u1100-\u11ff\u3040-\u30ff\u3130-\u318f\u3400-\u9fff\uac00-\ud7a3\uf900-\ufaff]/g;

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
  const found = new Layout(utterances.flatMap(pieces)).cues();
  return found.map(({ group, lines }, index) => {
    const following = found[index + 1]?.group[0].start ?? Math.round(1000 * duration) + GAP;
    return { start: group[0].start, end: shownUntil(group, lines, following), lines };
  });
}

function pieces({ words }) {
  const timed = words.map(({ word, start, end }) => ({
    text: word,
    start: Math.round(1000 * start),
    end: Math.round(1000 * end),
  }));
  return timed.map((piece, index) => ({ ...piece, after: after(piece, timed[index + 1]) }));
}

function after({ text, end }, following) {
  if (!following) return UTTERANCE;
  if (".?!…".includes(text.at(-1))) return SENTENCE;
  const counted = ["점", "대"].includes(text);
  const number = IS_NUMBER.test(following.text) || BEGINS_WITH_NUMBER.test(following.text);
  if (IS_NUMBER.test(text) || (counted && number)) return AMBIGUOUS.includes(text) ? PART : COUNTED;
  if (IS_PART.test(text) && BEGINS_WITH_NUMBER.test(following.text)) return PART;
  return ENDS_CLAUSE.test(text) || following.start - end >= PAUSE ? CLAUSE : WORD;
}

function width(text) {
  return ([...text].length + (text.match(FULL_WIDTH) ?? []).length) / 2;
}

function accumulated(numbers) {
  const sums = [0];
  for (const number of numbers) sums.push(sums.at(-1) + number);
  return sums;
}

class Layout {
  constructor(pieces) {
    this.pieces = pieces;
    this.widths = accumulated(pieces.map(({ text }) => width(text) + 0.5));
    this.inLines = accumulated(pieces.map((piece) => ENDS_WITHIN_LINE[piece.after]));
    this.inCues = accumulated(pieces.map((piece, index) => this.withinCue(piece, pieces[index + 1])));
  }

  withinCue(piece, following) {
    if (!following) return 0;
    const silence = following.start - piece.end;
    return ENDS_WITHIN_CUE[piece.after] + (SECOND_OF_SILENCE * Math.max(0, silence - PAUSE)) / 1000;
  }

  cues() {
    const best = [{ cost: 0 }];
    for (let end = 1; end <= this.pieces.length; end += 1) best.push(this.division(best, end));
    const found = [];
    for (let end = this.pieces.length; end > 0; end = best[end].first) {
      const { first, second } = best[end];
      const parts = second < end ? [this.pieces.slice(first, second), this.pieces.slice(second, end)] : [];
      const group = this.pieces.slice(first, end);
      const lines = (parts.length ? parts : [group]).map((part) => part.map(({ text }) => text).join(" "));
      found.unshift({ group, lines });
    }
    return found;
  }

  division(best, end) {
    let found;
    for (let first = end - 1; first >= 0; first -= 1) {
      const lines = this.lines(first, end);
      const spoken = this.pieces[end - 1].end - this.pieces[first].start;
      if (first < end - 1 && (!lines || spoken > LONGEST)) break;
      const cost = lines.cost + (best[first].cost + this.cueCost(first, end));
      if (!found || cost < found.cost) found = { cost, first, second: lines.second };
    }
    return found;
  }

  lines(first, end) {
    let found;
    for (let second = first + 1; second < end; second += 1) {
      if (!this.fits(first, second) || !this.fits(second, end)) continue;
      const cost = this.twoLines(first, second, end);
      if (!found || cost < found.cost) found = { cost, second };
    }
    const cost = this.inLines[end - 1] - this.inLines[first];
    return this.fits(first, end) && (!found || cost < found.cost) ? { cost, second: end } : found;
  }

  twoLines(first, second, end) {
    const { inLines } = this;
    const ends = inLines[second - 1] - inLines[first] + inLines[end - 1] - inLines[second];
    const [above, below] = [this.width(first, second), this.width(second, end)];
    const unbalanced = (UNBALANCED * Math.abs(above - below)) / Math.max(above, below);
    return SECOND_LINE + LINE_BREAK[this.pieces[second - 1].after] + ends + unbalanced;
  }

  width(first, end) {
    return this.widths[end] - this.widths[first] - 0.5;
  }

  fits(first, end) {
    return end - first === 1 || this.width(first, end) <= LINE;
  }

  cueCost(first, end) {
    const { start } = this.pieces[first];
    let latest = Math.max(this.pieces[end - 1].end + LINGER, start + SHORTEST);
    if (end < this.pieces.length) latest = Math.min(latest, this.pieces[end].start - GAP);
    const shown = Math.max(1, latest - start);
    const tooFast = this.width(first, end) / ((CHARACTERS_PER_SECOND * shown) / 1000) - 1;
    return (
      CUE +
      CUE_BREAK[this.pieces[end - 1].after] +
      this.inCues[end - 1] -
      this.inCues[first] +
      (shown < SHORTEST ? TOO_SHORT * (2 - shown / SHORTEST) : 0) +
      TOO_FAST * Math.min(Math.max(0, tooFast), 4)
    );
  }
}

function shownUntil(group, lines, following) {
  const { start } = group[0];
  const spoken = group.at(-1).end;
  const characters = lines.map(width).reduce((sum, length) => sum + length, 0);
  const reading = Math.round((1000 * characters) / CHARACTERS_PER_SECOND);
  let end = Math.max(spoken, start + SHORTEST, Math.min(start + reading, spoken + LINGER));
  const latest = following - GAP;
  if (spoken <= following && latest > start && latest - end < LINGER) end = latest;
  return Math.max(start + 1, Math.min(end, start + LONGEST));
}

function times(start, end, separator) {
  return `${clock(start, separator)} --> ${clock(end, separator)}`;
}

function clock(ms, separator) {
  const two = (number) => String(Math.floor(number)).padStart(2, "0");
  const parts = [ms / 3600000, (ms / 60000) % 60, (ms / 1000) % 60].map(two);
  return `${parts.join(":")}${separator}${String(ms % 1000).padStart(3, "0")}`;
}
