/** What can be done to a picture to see whether the model minds. Each makes new values of the old, shape and range. */

export const ALTERATIONS = {
  turn: (values, input) => moved(values, input, (y, x, height, width) => [height - 1 - y, width - 1 - x]),
  mirror: (values, input) => moved(values, input, (y, x, height, width) => [y, width - 1 - x]),
  invert: (values, { low, high }) => values.map((value) => low + high - value),
  blot: (values, { shape: [height, width, channels = 1], high }) => values.map((value, i) => {
    const [y, x] = [Math.floor(i / channels / width) / height, (Math.floor(i / channels) % width) / width];
    return y >= 0.375 && y < 0.625 && x >= 0.375 && x < 0.625 ? high : value;
  }),
};

/** Each pixel is the one at `from(y, x, height, width)`. */
function moved(values, { shape: [height, width, channels = 1] }, from) {
  return values.map((_, i) => {
    const pixel = Math.floor(i / channels);
    const [y, x] = from(Math.floor(pixel / width), pixel % width, height, width);
    return values[(y * width + x) * channels + (i % channels)];
  });
}
