// The level of the last seconds, drawn as bars around the button.

const BARS = 36;
const BUTTON = 58; // pixels from the middle that the button takes
const FLOOR = -50; // dB

export class Levels {
  constructor(canvas) {
    this.canvas = canvas;
    this.bars = new Float32Array(BARS);
    new ResizeObserver(() => this.#draw()).observe(canvas);
  }

  // Int16Array of one packet.
  add(samples) {
    const mean = samples.reduce((sum, sample) => sum + (sample / 32768) ** 2, 0) / (samples.length || 1);
    this.bars.copyWithin(0, 1);
    this.bars[BARS - 1] = Math.max(0, 1 - (10 * Math.log10(mean + 1e-9)) / FLOOR) ** 1.5;
    this.#draw();
  }

  clear() {
    this.bars.fill(0);
    this.#draw();
  }

  // The newest in the middle, older ones to both sides.
  #draw() {
    const { canvas } = this;
    const scale = devicePixelRatio;
    const [width, height] = [canvas.clientWidth, canvas.clientHeight];
    canvas.width = width * scale;
    canvas.height = height * scale;
    const context = canvas.getContext("2d");
    context.scale(scale, scale);
    context.fillStyle = getComputedStyle(canvas).color;
    const step = (width / 2 - BUTTON) / BARS;
    this.bars.forEach((level, index) => {
      const tall = Math.max(2, level * height);
      const away = BUTTON + (BARS - 1 - index) * step;
      context.globalAlpha = 0.15 + 0.75 * level * (index / BARS);
      for (const x of [width / 2 + away, width / 2 - away - step]) {
        context.fillRect(x + step * 0.3, (height - tall) / 2, Math.max(1, step * 0.4), tall);
      }
    });
  }
}
