/** Pictures out of files, read by the service itself: what is shown and scored here is what any client's file is. */

import { row } from "./pictures.js";

const AT_ONCE = 6;

/** The pictures in all files that can be read, and what is wrong with the others. */
export async function readAll(files, model) {
  const [pictures, problems] = [[], []];
  for (let i = 0; i < files.length; i += AT_ONCE) {
    const read = await Promise.allSettled(files.slice(i, i + AT_ONCE).map((file) => readPictures(file, model)));
    for (const { value, reason } of read) {
      if (value) pictures.push(...value);
      else problems.push(reason.message);
    }
  }
  return { pictures, problems };
}

/**
 * The pictures in a file, each `{name, file, place, values}`, in data units: one of a picture file, several of an array, whose
 * rows have numbers from 1.
 *
 * Throws, in words, for a file that holds none of this model's.
 */
export async function readPictures(file, model) {
  const path = file.path ?? file.name;
  let array;
  try {
    array = await model.read(file);
  } catch (error) {
    throw new TypeError(`${path}: ${error.detail ?? error.message}`);
  }
  const count = array.shape[0];
  return Array.from({ length: count }, (_, i) => ({
    name: count > 1 ? `${path}, row ${i + 1}` : path, file: path, place: i + 1, values: row(array, i),
  }));
}
