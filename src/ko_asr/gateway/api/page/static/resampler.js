// A rational resampler for a stream in blocks: polyphase, windowed sinc (Kaiser), about 80 dB.

const CROSSINGS = 48; // of the sinc on each side
const BETA = 8; // of the Kaiser window: 80 dB
const PASS = 0.95; // of the narrower Nyquist frequency: the rest is the slope

export class Resampler {
  // Rates in Hz, whole numbers.
  constructor(from, to) {
    const common = divisor(from, to);
    this.up = to / common;
    this.down = from / common;
    const cutoff = PASS * Math.min(1, to / from); // of the input's Nyquist frequency
    this.half = Math.ceil(CROSSINGS / cutoff);
    this.phases = Array.from({ length: this.up }, (_, phase) => taps(phase / this.up, this.half, cutoff));
    this.kept = new Float32Array(this.half); // silence before the first sample
    this.position = this.half * this.up; // of the next output, in steps of 1/up input samples
  }

  // Float32Array in, Float32Array out: all that needs no later sample.
  push(block) {
    const input = new Float32Array(this.kept.length + block.length);
    input.set(this.kept);
    input.set(block, this.kept.length);
    const end = (input.length - this.half) * this.up;
    const output = new Float32Array(Math.max(0, Math.ceil((end - this.position) / this.down)));
    for (let index = 0; index < output.length; index++, this.position += this.down) {
      output[index] = this.#at(input);
    }
    const drop = Math.max(0, Math.floor(this.position / this.up) - this.half);
    this.kept = input.slice(drop);
    this.position -= drop * this.up;
    return output;
  }

  // What is left of the stream's end.
  flush() {
    return this.push(new Float32Array(this.half));
  }

  #at(input) {
    const weights = this.phases[this.position % this.up];
    const first = Math.floor(this.position / this.up) - this.half + 1;
    let sum = 0;
    for (let tap = 0; tap < weights.length; tap++) sum += weights[tap] * input[first + tap];
    return sum;
  }
}

function taps(fraction, half, cutoff) {
  const weights = Float64Array.from({ length: 2 * half }, (_, tap) => {
    const x = tap - half + 1 - fraction;
    const window = Math.abs(x) < half ? bessel(BETA * Math.sqrt(1 - (x / half) ** 2)) / bessel(BETA) : 0;
    return cutoff * sinc(cutoff * x) * window;
  });
  const gain = weights.reduce((sum, weight) => sum + weight);
  return weights.map((weight) => weight / gain);
}

function sinc(x) {
  return x === 0 ? 1 : Math.sin(Math.PI * x) / (Math.PI * x);
}

// The modified Bessel function of order 0.
function bessel(x) {
  let sum = 1;
  for (let term = 1, n = 1; term > 1e-12 * sum; n++) sum += term *= (x / 2 / n) ** 2;
  return sum;
}

function divisor(a, b) {
  return b ? divisor(b, a % b) : a;
}
