/** Pictures: arrays of pixel values in data units, and canvases that show them. Knows no endpoint. */

/** From likely to unlikely. */
const GLOW = [[10, 8, 28], [87, 16, 110], [188, 55, 84], [249, 142, 9], [252, 255, 164]];

/** Paint a picture, one value for one pixel, with the very shades of the service's own image/png. */
export function paint(canvas, values, input) {
  const [height, width, channels = 1] = input.shape;
  const image = new ImageData(width, height);
  const range = input.high - input.low;
  for (let pixel = 0; pixel < width * height; pixel++) {
    for (let colour = 0; colour < 3; colour++) {
      const value = values[pixel * channels + (channels === 3 ? colour : 0)];
      // In single precision, as the service does it; the array clamps, and rounds halves to even, as NumPy does.
      image.data[4 * pixel + colour] = Math.fround(255 * Math.fround(Math.fround(value - input.low) / range));
    }
    image.data[4 * pixel + 3] = 255;
  }
  show(canvas, image);
}

/** Paint one number for each pixel as a glow, darkest at the largest; returns the smallest and the largest. */
export function glow(canvas, values, input) {
  const [height, width, channels = 1] = input.shape;
  const image = new ImageData(width, height);
  const pixels = Float64Array.from({ length: width * height }, (_, pixel) => {
    let sum = 0;
    for (let colour = 0; colour < channels; colour++) sum += values[pixel * channels + colour];
    return sum;
  });
  const low = Math.min(...pixels);
  const high = Math.max(...pixels);
  pixels.forEach((value, pixel) => {
    const place = (high > low ? (high - value) / (high - low) : 0) * (GLOW.length - 1);
    const step = Math.min(Math.floor(place), GLOW.length - 2);
    GLOW[step].forEach((from, colour) => {
      image.data[4 * pixel + colour] = from + (place - step) * (GLOW[step + 1][colour] - from);
    });
    image.data[4 * pixel + 3] = 255;
  });
  show(canvas, image);
  return [low, high];
}

/** Pictures that can be sent to be encoded or scored: clipped, and whole levels where the data have levels. */
export function levels(values, input) {
  if (input.dtype === "float32") return Float32Array.from(values, (v) => Math.min(Math.max(v, input.low), input.high));
  return Uint8Array.from(values, (value) => Math.round(Math.min(Math.max(value, input.low), input.high)));
}

/** The function that turns a model's pictures into another's, black into black and white into white; throws in words. */
export function inUnitsOf(input, { input: other, manifest: { name, version } }) {
  if (other.kind !== "image") throw new TypeError(`${name} ${version} is a model of rows.`);
  if (String(other.shape) !== String(input.shape)) {
    throw new TypeError(`${name} ${version} takes pictures of ${other.shape.join(" × ")}, and these are ${input.shape.join(" × ")}.`);
  }
  const scale = (other.high - other.low) / (input.high - input.low);
  return (values) => levels(Float64Array.from(values, (value) => other.low + (value - input.low) * scale), other);
}

/** Several pictures of one type, one after the other in one array. */
export function together(pictures) {
  const size = pictures[0].length;
  const all = new pictures[0].constructor(size * pictures.length);
  pictures.forEach((picture, i) => all.set(picture, i * size));
  return all;
}

/** Row i of an array `{shape, data}`. */
export function row(array, i) {
  const size = array.data.length / array.shape[0];
  return array.data.subarray(i * size, (i + 1) * size);
}

function show(canvas, image) {
  canvas.width = image.width;
  canvas.height = image.height;
  canvas.getContext("2d").putImageData(image, 0, 0);
}
