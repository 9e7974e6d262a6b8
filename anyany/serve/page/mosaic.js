// Denoising made visible: 8 x 8 squares of noise, of which as many have settled as steps are done.

const SIDE = 8;
const GROUNDS = ["#f6f6f6", "#9ea0a4", "#e4d0a0", "#f6bace"]; // of pocket's pictures

/** A canvas that shows a part of the way; where each square settles depends on the seed alone. */
export class Mosaic {
  constructor(seed) {
    this.canvas = document.createElement("canvas");
    this.canvas.width = this.canvas.height = SIDE;
    this.canvas.setAttribute("aria-hidden", "true");
    this.draw = numbers(Number(seed) || 1);
    this.order = shuffled(SIDE * SIDE, this.draw);
    this.show(0);
  }

  /** @param {number} share of the way, from 0 to 1. */
  show(share) {
    const context = this.canvas.getContext("2d");
    context.clearRect(0, 0, SIDE, SIDE);
    const settled = Math.round(share * this.order.length);
    for (const square of this.order.slice(settled)) {
      context.fillStyle = GROUNDS[Math.floor(this.draw() * GROUNDS.length)];
      context.fillRect(square % SIDE, Math.floor(square / SIDE), 1, 1);
    }
  }
}

/** Numbers in [0, 1), the same for the same seed (a linear congruential generator). */
function numbers(seed) {
  let state = seed % 4294967296;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 4294967296;
  };
}

function shuffled(length, draw) {
  const order = Array.from({ length }, (_, index) => index);
  for (let last = length - 1; last > 0; last -= 1) {
    const other = Math.floor(draw() * (last + 1));
    [order[last], order[other]] = [order[other], order[last]];
  }
  return order;
}
