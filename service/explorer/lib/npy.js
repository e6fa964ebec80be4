/** NumPy's .npy format: plain arrays out, plain or structured ones in. Knows nothing of what the numbers mean. */

const MAGIC = "\x93NUMPY";
const ARRAYS = {
  u1: Uint8Array, i1: Int8Array, b1: Uint8Array, u2: Uint16Array, i2: Int16Array, u4: Uint32Array, i4: Int32Array,
  u8: BigUint64Array, i8: BigInt64Array, f4: Float32Array, f8: Float64Array,
};
const CODES = new Map([[Uint8Array, "|u1"], [Float32Array, "<f4"]]);

/** The bytes of an array: `data`, a Uint8Array or Float32Array in C order, of that shape. */
export function encode(data, shape) {
  const tuple = shape.map((size) => `${size},`).join("");
  const text = `{'descr': '${CODES.get(data.constructor)}', 'fortran_order': False, 'shape': (${tuple}), }`;
  const size = Math.ceil((10 + text.length + 1) / 64) * 64;
  const head = MAGIC + "\x01\x00" + String.fromCharCode((size - 10) & 255, (size - 10) >> 8)
    + text.padEnd(size - 11) + "\n";
  const bytes = new Uint8Array(size + data.byteLength);
  bytes.set(Uint8Array.from(head, (character) => character.charCodeAt(0)));
  bytes.set(new Uint8Array(data.buffer, data.byteOffset, data.byteLength), size);
  return bytes;
}

/**
 * The array in these bytes, `{shape, data}`; or of a structured one its fields by name, each an array.
 *
 * Throws a TypeError, in words, for what is no such array.
 */
export function decode(buffer) {
  const bytes = new Uint8Array(buffer);
  if (String.fromCharCode(...bytes.subarray(0, 6)) !== MAGIC || bytes.length < 12) throw new TypeError("not a .npy file");
  const wide = bytes[6] > 1;
  const start = wide ? 12 : 10;
  const end = start + new DataView(buffer).getUint16(8, true) + (wide ? bytes[10] << 16 : 0);
  const header = literal(new TextDecoder("latin1").decode(bytes.subarray(start, end)));
  if (header.fortran_order) throw new TypeError("a .npy array in Fortran's order: save it with np.ascontiguousarray");
  const rows = header.shape[0] ?? 1;
  const fields = Array.isArray(header.descr) ? header.descr : [["", header.descr, header.shape.slice(1)]];
  const columns = fields.map(([name, code, shape = []]) => ({ name, shape, ...kind(code), length: product(shape) }));
  const row = columns.reduce((sum, column) => sum + column.size * column.length, 0);
  if (buffer.byteLength - end !== row * rows) throw new TypeError("a .npy file that is cut short, or has more than it says");
  let offset = 0;
  const arrays = columns.map(({ name, shape, Type, size, length }) => {
    const packed = new Uint8Array(rows * length * size);
    for (let i = 0; i < rows; i++) {
      packed.set(bytes.subarray(end + i * row + offset, end + i * row + offset + length * size), i * length * size);
    }
    offset += length * size;
    return [name, { shape: [rows, ...shape], data: new Type(packed.buffer) }];
  });
  return Array.isArray(header.descr) ? Object.fromEntries(arrays) : arrays[0][1];
}

function kind(code) {
  const Type = code[0] === ">" ? undefined : ARRAYS[code.slice(1)];
  if (!Type) throw new TypeError(`a .npy array of ${code}, which is not read here`);
  return { Type, size: Type.BYTES_PER_ELEMENT };
}

function product(sizes) {
  return sizes.reduce((total, size) => total * size, 1);
}

/** A Python literal of dictionaries, lists, tuples, strings and numbers. */
function literal(text) {
  const json = text.replace(/'/g, '"').replace(/\(/g, "[").replace(/\)/g, "]").replace(/,\s*([\]}])/g, "$1")
    .replace(/\bTrue\b/g, "true").replace(/\bFalse\b/g, "false");
  return JSON.parse(json);
}
