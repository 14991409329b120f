"use strict";
// Tensors as the v2 protocol has them: datatypes, shapes, bytes of the binary extension. No DOM, no network.

// Datatype -> bytes of an element, and the array that holds elements of that form.
const DATATYPES = {
  BOOL: { size: 1, array: Uint8Array }, UINT8: { size: 1, array: Uint8Array }, INT8: { size: 1, array: Int8Array },
  UINT16: { size: 2, array: Uint16Array }, INT16: { size: 2, array: Int16Array },
  UINT32: { size: 4, array: Uint32Array }, INT32: { size: 4, array: Int32Array },
  UINT64: { size: 8, array: BigUint64Array }, INT64: { size: 8, array: BigInt64Array },
  FP16: { size: 2, array: Uint16Array, float: true }, BF16: { size: 2, array: Uint16Array, float: true },
  FP32: { size: 4, array: Float32Array, float: true }, FP64: { size: 8, array: Float64Array, float: true },
  BYTES: { size: 0 },
};
// Elements that a form makes up at most; more would not be looked at.
const MOST_ELEMENTS = 1 << 26;

const isFloat = (datatype) => Boolean(DATATYPES[datatype]?.float);

function elementCount(shape) {
  return shape.reduce((product, dim) => product * dim, 1);
}

// --- Numbers of two bytes ---------------------------------------------------------------------------------------------

const floatScratch = new Float32Array(1);
const bitsScratch = new Uint32Array(floatScratch.buffer);

// Halves `bits` beyond its last `n` bits, ties to even.
function roundBits(bits, n) {
  const low = bits & ((1 << n) - 1), half = 1 << (n - 1), kept = bits >>> n;
  return low > half || (low === half && kept & 1) ? kept + 1 : kept;
}

function toHalf(value) {
  floatScratch[0] = value;
  const bits = bitsScratch[0], sign = (bits >>> 16) & 0x8000, exponent = (bits >>> 23) & 0xff, mantissa = bits & 0x7fffff;
  if (exponent === 0xff) return sign | 0x7c00 | (mantissa ? 0x200 : 0);
  const scaled = exponent - 127 + 15;
  if (scaled >= 31) return sign | 0x7c00;
  if (scaled > 0) return sign | roundBits((scaled << 23) | mantissa, 13);
  if (scaled < -10) return sign;
  return sign | roundBits(mantissa | 0x800000, 14 - scaled);
}

function fromHalf(bits) {
  const sign = bits & 0x8000 ? -1 : 1, exponent = (bits >>> 10) & 31, mantissa = bits & 1023;
  if (exponent === 31) return mantissa ? NaN : sign * Infinity;
  return sign * (exponent ? 2 ** (exponent - 15) * (1 + mantissa / 1024) : 2 ** -14 * (mantissa / 1024));
}

function toBrain(value) {
  floatScratch[0] = value;
  if (Number.isNaN(value)) return 0x7fc0;
  return roundBits(bitsScratch[0], 16) & 0xffff;
}

function fromBrain(bits) {
  bitsScratch[0] = bits << 16;
  return floatScratch[0];
}

// --- Values of a person -----------------------------------------------------------------------------------------------

// What JSON says; integers that a double cannot hold are BigInts. Python's NaN and infinities are taken.
function parseValues(text) {
  const special = { NaN: NaN, Infinity: Infinity, "-Infinity": -Infinity };
  const quoted = text.replace(/"(?:[^"\\]|\\.)*"|-?Infinity|NaN/g, (word) =>
    word.startsWith('"') ? word : `{"number":"${word}"}`);
  return JSON.parse(quoted, (key, value, context) => {
    if (typeof value === "object" && value && "number" in value) return special[value.number];
    const exact = context?.source;
    if (typeof value === "number" && exact && !Number.isSafeInteger(value) && /^-?\d+$/.test(exact)) return BigInt(exact);
    return value;
  });
}

// The lengths of nested lists along their first elements: [[1,2],[3,4]] is 2, 2.
function nesting(values) {
  const dims = [];
  for (let at = values; Array.isArray(at); at = at[0]) dims.push(at.length);
  return dims;
}

// The shape for `count` elements. `wanted`: a number for each dim, null where the data decides; `nested`: what
// `nesting` says of the data. The last open dim takes what the others leave. Throws where it does not fit.
function resolveShape(wanted, count, nested = []) {
  const shape = wanted.slice();
  if (nested.length === shape.length) {
    shape.forEach((dim, at) => { if (dim === null) shape[at] = nested[at]; });
  }
  const open = shape.lastIndexOf(null);
  shape.forEach((dim, at) => { if (dim === null && at !== open) shape[at] = 1; });
  if (open >= 0) {
    shape[open] = null;
    const known = elementCount(shape.filter((dim) => dim !== null));
    const rest = known ? count / known : 0;
    if (!Number.isInteger(rest)) throw new Error(`${count} values do not fill ${shapeText(shape)}`);
    shape[open] = rest;
  }
  if (elementCount(shape) !== count) {
    throw new Error(`${shapeText(shape)} has ${elementCount(shape)} elements, but there are ${count} values`);
  }
  return shape;
}

function shapeText(shape) {
  return `[${shape.map((dim) => (dim === null || dim === -1 ? "?" : dim)).join(", ")}]`;
}

// Numbers for a form that has nothing better: "zeros", "ones", "counting" or "random".
function madeUp(kind, datatype, count) {
  if (count > MOST_ELEMENTS) throw new Error(`${count} elements are too many to make up here`);
  if (datatype === "BYTES") {
    const words = ["alpha", "bravo", "charlie", "delta", "echo"];
    return Array.from({ length: count }, (_, at) => (kind === "zeros" ? "" : words[at % words.length]));
  }
  const makers = {
    zeros: () => 0, ones: () => 1, counting: (at) => (datatype === "BOOL" ? at % 2 : at % 100),
    random: () => (isFloat(datatype) ? Math.round(Math.random() * 1e4) / 1e4 : Math.floor(Math.random() * (datatype === "BOOL" ? 2 : 10))),
  };
  return Array.from({ length: count }, (_, at) => makers[kind](at));
}

// --- Bytes ------------------------------------------------------------------------------------------------------------

function integerProblem(value, datatype) {
  const bits = BigInt(DATATYPES[datatype].size * 8), signed = datatype.startsWith("INT");
  const low = signed ? -(1n << (bits - 1n)) : 0n, high = signed ? (1n << (bits - 1n)) - 1n : (1n << bits) - 1n;
  return value < low || value > high ? `${value} is no ${datatype}: ${low} to ${high}` : "";
}

// The element of a number; an Error says what is wrong with it.
function toElement(value, datatype) {
  if (datatype === "BOOL") {
    if (value === true || value === 1) return 1;
    if (value === false || value === 0) return 0;
    throw new Error(`${JSON.stringify(value)} is no BOOL: true or false`);
  }
  if (typeof value !== "number" && typeof value !== "bigint") {
    throw new Error(`${JSON.stringify(value) ?? value} is no number`);
  }
  if (datatype === "FP16") return toHalf(Number(value));
  if (datatype === "BF16") return toBrain(Number(value));
  if (isFloat(datatype)) return Number(value);
  if (typeof value === "number" && !Number.isInteger(value)) throw new Error(`${value} is no whole number`);
  const exact = BigInt(value), problem = integerProblem(exact, datatype);
  if (problem) throw new Error(problem);
  return DATATYPES[datatype].size === 8 ? exact : Number(exact);
}

// The bytes of a tensor. `values`: flat; of BYTES texts or Uint8Arrays, else numbers, BigInts, booleans.
function encodeTensor(datatype, values) {
  if (datatype !== "BYTES") {
    const Kind = DATATYPES[datatype].array;
    return new Uint8Array(Kind.from(values, (value) => toElement(value, datatype)).buffer);
  }
  const parts = Array.from(values, (value) => {
    if (value instanceof Uint8Array) return value;
    if (typeof value !== "string") throw new Error(`${JSON.stringify(value)} is no text: "…"`);
    return new TextEncoder().encode(value);
  });
  const bytes = new Uint8Array(parts.reduce((sum, part) => sum + 4 + part.length, 0));
  const view = new DataView(bytes.buffer);
  let at = 0;
  for (const part of parts) {
    view.setUint32(at, part.length, true);
    bytes.set(part, at + 4);
    at += 4 + part.length;
  }
  return bytes;
}

// The elements of a tensor: an array of numbers or BigInts, of Uint8Arrays for BYTES, of booleans for BOOL.
function decodeTensor(datatype, bytes) {
  const form = DATATYPES[datatype];
  if (!form) throw new Error(`unknown datatype ${datatype}`);
  if (datatype !== "BYTES") {
    if (bytes.length % form.size) throw new Error(`${bytes.length} bytes are no ${datatype} tensor`);
    const elements = new form.array(bytes.slice().buffer);
    if (datatype === "FP16") return Float32Array.from(elements, fromHalf);
    if (datatype === "BF16") return Float32Array.from(elements, fromBrain);
    return datatype === "BOOL" ? Array.from(elements, Boolean) : elements;
  }
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length), found = [];
  for (let at = 0; at < bytes.length;) {
    const length = at + 4 <= bytes.length ? view.getUint32(at, true) : Infinity;
    if (at + 4 + length > bytes.length) throw new Error("a string goes beyond its tensor");
    found.push(bytes.slice(at + 4, at + 4 + length));
    at += 4 + length;
  }
  return found;
}

// The text of bytes, or null when they are none.
function textOf(bytes) {
  try {
    return new TextDecoder("utf-8", { fatal: true }).decode(bytes);
  } catch {
    return null;
  }
}

// --- Requests and answers ---------------------------------------------------------------------------------------------

// Body and headers of an infer request. `inputs`: {name, datatype, shape, bytes}; `outputs`: of the protocol;
// `binaryOutput`: whether the answer is to have its tensors as bytes.
function inferRequest(inputs, outputs, parameters, binaryOutput = true) {
  const header = {
    inputs: inputs.map(({ name, datatype, shape, bytes }) => (
      { name, datatype, shape, parameters: { binary_data_size: bytes.length } })),
    outputs,
    parameters: { ...parameters, binary_data_output: binaryOutput },
  };
  if (!outputs.length) delete header.outputs;
  const head = new TextEncoder().encode(JSON.stringify(header));
  return {
    body: new Blob([head, ...inputs.map((input) => input.bytes)]),
    headers: { "Content-Type": "application/octet-stream", "Inference-Header-Content-Length": String(head.length) },
  };
}

// The tensors of an answer. `headerLength`: of its JSON; null when that is all.
function inferAnswer(bytes, headerLength) {
  const end = headerLength === null ? bytes.length : Number(headerLength);
  const answer = JSON.parse(new TextDecoder().decode(bytes.subarray(0, end)));
  let at = end;
  const outputs = answer.outputs.map(({ name, datatype, shape, data, parameters = {} }) => {
    const nbytes = parameters.binary_data_size;
    if (nbytes === undefined) return { name, datatype, shape, values: plain(datatype, data ?? []) };
    at += nbytes;
    return { name, datatype, shape, values: decodeTensor(datatype, bytes.subarray(at - nbytes, at)) };
  });
  return { model: answer.model_name, version: answer.model_version, outputs };
}

function plain(datatype, data) {
  const flat = data.flat(Infinity);
  return datatype === "BYTES" ? flat.map((text) => new TextEncoder().encode(text)) : flat;
}

// The payloads of server-sent events, from text that comes in pieces.
class EventReader {
  #rest = "";

  push(text) {
    const whole = (this.#rest + text).split("\n\n");
    this.#rest = whole.pop();
    return whole.map((event) => event.replace(/^data: ?/, ""));
  }
}
