/** Pictures out of files: whatever the browser can decode, resized to the model's; and .npy arrays as they are. */

import { decode } from "./npy.js";
import { levels, row } from "./pictures.js";

/**
 * The pictures in a file, each `{name, values, note}`: `note` says what had to be done to them, if anything.
 *
 * Throws, in words, for a file that holds none.
 */
export async function readPictures(file, input) {
  return file.name.endsWith(".npy") ? fromArray(file, input) : [await fromPicture(file, input)];
}

async function fromArray(file, input) {
  let array;
  try {
    array = decode(await file.arrayBuffer());
  } catch (error) {
    throw new TypeError(`${file.name}: ${error.message}.`);
  }
  const wanted = input.shape.join(" × ");
  const shape = array.shape?.length === input.shape.length ? [1, ...array.shape] : array.shape;
  if (shape?.slice(1).join(" × ") !== wanted) {
    throw new TypeError(`${file.name}: must be pictures of ${wanted}, not an array of ${array.shape?.join(" × ") ?? "records"}.`);
  }
  const data = Float64Array.from(array.data, Number);
  const outside = data.find((value) => !(value >= input.low && value <= input.high));
  if (outside !== undefined) {
    throw new TypeError(`${file.name}: ${outside} is outside this model's ${input.low} to ${input.high}.`);
  }
  return Array.from({ length: shape[0] }, (_, i) => ({
    name: `${file.name} [${i}]`, values: levels(row({ shape, data }, i), input), note: "",
  }));
}

async function fromPicture(file, input) {
  const [height, width, channels = 1] = input.shape;
  let bitmap;
  try {
    bitmap = await createImageBitmap(file, { colorSpaceConversion: "none" });
  } catch {
    throw new TypeError(`${file.name} is not a picture: PNG, JPEG, WebP, GIF and .npy files are read.`);
  }
  const fits = bitmap.width === width && bitmap.height === height;
  const note = fits ? "" : `${file.name}: resized from ${bitmap.width} × ${bitmap.height} to ${width} × ${height}`;
  if (!fits) bitmap = await createImageBitmap(bitmap, { resizeWidth: width, resizeHeight: height, resizeQuality: "high" });
  const context = new OffscreenCanvas(width, height).getContext("2d");
  context.drawImage(bitmap, 0, 0);
  const { data } = context.getImageData(0, 0, width, height);
  const scale = (input.high - input.low) / 255;
  const values = new Float64Array(width * height * channels);
  for (let pixel = 0; pixel < width * height; pixel++) {
    const [red, green, blue] = data.subarray(4 * pixel, 4 * pixel + 3);
    const shades = channels === 3 ? [red, green, blue] : [red === green && green === blue ? red : luma(red, green, blue)];
    shades.forEach((shade, colour) => { values[pixel * channels + colour] = input.low + shade * scale; });
  }
  return { name: file.name, values: levels(values, input), note };
}

/** Brightness by Rec. 601, the convention of picture files. */
function luma(red, green, blue) {
  return 0.299 * red + 0.587 * green + 0.114 * blue;
}
