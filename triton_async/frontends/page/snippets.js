"use strict";
// What a form sends, written as a curl command and as Python. Texts only; names in them may be anything.

// Elements that a command line shows; more travel in a file.
const MOST_SHOWN = 256;

const NUMPY = {
  BOOL: "bool", UINT8: "np.uint8", INT8: "np.int8", UINT16: "np.uint16", INT16: "np.int16", UINT32: "np.uint32",
  INT32: "np.int32", UINT64: "np.uint64", INT64: "np.int64", FP16: "np.float16", BF16: "bfloat16", FP32: "np.float32",
  FP64: "np.float64", BYTES: "np.object_",
};

// One word of a POSIX shell.
function shellWord(text) {
  return /^[A-Za-z0-9_\-./:@%+=,]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`;
}

// A literal of Python: JSON's strings are that too, once control characters of Unicode are written out.
function pythonText(text) {
  return JSON.stringify(text).replace(/[\u007f-\uffff]/g, (unit) => `\\u${unit.charCodeAt(0).toString(16).padStart(4, "0")}`)
    .replace(/\\ud[89ab][0-9a-f]{2}\\ud[c-f][0-9a-f]{2}/g, (pair) =>
      `\\U${JSON.parse(`"${pair}"`).codePointAt(0).toString(16).padStart(8, "0")}`);
}

function pythonValue(value) {
  if (typeof value === "string") return pythonText(value);
  if (typeof value === "boolean") return value ? "True" : "False";
  if (value === null) return "None";
  if (Number.isNaN(value)) return "np.nan";
  if (value === Infinity || value === -Infinity) return value > 0 ? "np.inf" : "-np.inf";
  if (Array.isArray(value)) return `[${value.map(pythonValue).join(", ")}]`;
  if (typeof value === "object") {
    return `{${Object.entries(value).map(([key, item]) => `${pythonText(key)}: ${pythonValue(item)}`).join(", ")}}`;
  }
  return String(value);
}

// JSON with whole numbers of any length.
function jsonText(value) {
  if (typeof value === "bigint") return String(value);
  if (ArrayBuffer.isView(value) || Array.isArray(value)) return `[${Array.from(value, jsonText).join(",")}]`;
  if (typeof value === "object" && value) {
    return `{${Object.entries(value).map(([key, item]) => `${JSON.stringify(key)}:${jsonText(item)}`).join(",")}}`;
  }
  return JSON.stringify(value);
}

// The path of a model, below the server's address.
function modelPath(model, version) {
  return `v2/models/${encodeURIComponent(model)}${version ? `/versions/${version}` : ""}`;
}

// A tensor's elements as JSON has them; null where it cannot.
function jsonElements({ datatype, values }) {
  if (datatype === "FP16" || datatype === "BF16") return null;
  const elements = [];
  for (const value of values) {
    const element = value instanceof Uint8Array ? textOf(value) : value;
    if (element === null || (typeof element === "number" && !Number.isFinite(element))) return null;
    elements.push(datatype === "BOOL" ? Boolean(element) : element);
  }
  return elements;
}

function curlHeaders(keyed) {
  return keyed ? [`-H "Authorization: Bearer $API_KEY"`] : [];
}

// The command for an infer request, and the body that it reads from request.bin: {text, file}. `file` is null where all
// stands in the command. `call`: {address, model, version, inputs, outputs, parameters, keyed, binaryOutput}.
function curlCommand(call) {
  const url = shellWord(`${call.address}/${modelPath(call.model, call.version)}/infer`);
  const few = call.inputs.every(({ values }) => values.length <= MOST_SHOWN);
  const data = few ? call.inputs.map(jsonElements) : [null];
  const lines = [`curl ${url}`, ...curlHeaders(call.keyed)];
  let file = null;
  if (!call.binaryOutput && data.every((elements) => elements !== null)) {
    const body = {
      inputs: call.inputs.map(({ name, datatype, shape }, at) => ({ name, datatype, shape, data: data[at] })),
      ...(call.outputs.length ? { outputs: call.outputs } : {}),
      ...(Object.keys(call.parameters).length ? { parameters: call.parameters } : {}),
    };
    lines.push(`-d ${shellWord(jsonText(body))}`);
  } else {
    const request = inferRequest(call.inputs, call.outputs, call.parameters, call.binaryOutput);
    file = request.body;
    for (const [name, value] of Object.entries(request.headers)) lines.push(`-H ${shellWord(`${name}: ${value}`)}`);
    lines.push("--data-binary @request.bin");
    if (call.binaryOutput) lines.push("--output answer.bin");
  }
  return { text: lines.join(" \\\n  "), file };
}

// The NumPy expression of an input.
function pythonArray({ datatype, shape, values, origin }) {
  const kind = NUMPY[datatype], dims = `(${shape.join(", ")}${shape.length === 1 ? "," : ""})`;
  if (origin.kind === "picture") return pythonPicture(origin, kind);
  if (origin.kind === "file") {
    const read = `open(${pythonText(origin.name)}, "rb").read()`;
    return datatype === "BYTES" ? `np.array([${read}], ${kind}).reshape${dims}`
      : `np.frombuffer(${read}, ${kind}).reshape${dims}`;
  }
  if (values.length > MOST_SHOWN || origin.kind !== "values") {
    if (datatype === "BYTES") return `np.full(${dims}, ${origin.kind === "zeros" ? '""' : '"alpha"'}, ${kind})`;
    if (origin.kind === "zeros" || origin.kind === "ones") return `np.${origin.kind}(${dims}, ${kind})`;
    return isFloat(datatype) ? `np.random.random(${dims}).astype(${kind})`
      : `np.random.randint(0, ${datatype === "BOOL" ? 2 : 10}, ${dims}).astype(${kind})`;
  }
  const elements = Array.from(values, (value) => {
    const element = value instanceof Uint8Array ? textOf(value) ?? "" : value;
    return datatype === "BOOL" ? Boolean(element) : element;
  });
  return `np.array(${pythonValue(elements)}, ${kind}).reshape${dims}`;
}

function pythonPicture({ name, size, layout, channels, scale, order }, kind) {
  const mode = { 1: "L", 3: "RGB", 4: "RGBA" }[channels];
  let text = `Image.open(${pythonText(name)}).convert("${mode}").resize((${size.width}, ${size.height}))`;
  text = `np.asarray(${text}, np.float32)`;
  if (order === "BGR" && channels === 3) text += "[..., ::-1]";
  if (scale === "ImageNet") text = `((${text} ${SCALES[scale].python})`;
  else if (SCALES[scale].python) text = `(${text} ${SCALES[scale].python})`;
  const planes = layout.channels === -3;
  if (channels === 1) text += planes ? "[None]" : "[..., None]";
  else if (planes) text += ".transpose(2, 0, 1)";
  return `${text}.astype(${kind})`;
}

// The same request with tritonclient.
function pythonScript(call) {
  const uses = (test) => call.inputs.some(test);
  const secure = call.address.startsWith("https:"), host = call.address.replace(/^https?:\/\//, "");
  const lines = ["import numpy as np", "import tritonclient.http as http"];
  if (uses(({ origin }) => origin.kind === "picture")) lines.push("from PIL import Image");
  if (uses(({ datatype }) => datatype === "BF16")) lines.push("from ml_dtypes import bfloat16");
  lines.push("", `client = http.InferenceServerClient(${pythonText(host)}${secure ? ", ssl=True" : ""})`, "inputs = []");
  for (const input of call.inputs) {
    const shaped = input.origin.kind === "picture" ? `.reshape(${input.shape.join(", ")})` : "";
    lines.push(
      `values = ${pythonArray(input)}${shaped}`,
      `inputs.append(http.InferInput(${pythonText(input.name)}, values.shape, "${input.datatype}"))`,
      "inputs[-1].set_data_from_numpy(values)",
    );
  }
  const more = [];
  if (call.version) more.push(`model_version="${call.version}"`);
  if (call.outputs.length) {
    const wanted = call.outputs.map(({ name, parameters = {} }) =>
      `http.InferRequestedOutput(${pythonText(name)}${
        parameters.classification ? `, class_count=${parameters.classification}` : ""})`);
    lines.push(`wanted = [${wanted.join(", ")}]`);
    more.push("outputs=wanted");
  }
  if (Object.keys(call.parameters).length) more.push(...pythonParameters(call.parameters));
  if (call.keyed) more.push('headers={"Authorization": "Bearer …"}');
  lines.push(`result = client.infer(${[pythonText(call.model), "inputs", ...more].join(", ")})`);
  lines.push(...call.returned.map((name) => `print(result.as_numpy(${pythonText(name)}))`));
  return lines.join("\n");
}

// Those that tritonclient has arguments for, and all others.
function pythonParameters(parameters) {
  const own = ["sequence_id", "sequence_start", "sequence_end", "priority", "timeout"], rest = { ...parameters };
  const words = [];
  for (const name of own) {
    if (name in rest) words.push(`${name}=${pythonValue(rest[name])}`);
    delete rest[name];
  }
  if (Object.keys(rest).length) words.push(`parameters=${pythonValue(rest)}`);
  return words;
}

// Of a decoupled model: a stream of server-sent events. `body`: of the generate extension.
function streamCurl({ address, model, version, body, keyed }) {
  const url = shellWord(`${address}/${modelPath(model, version)}/generate_stream`);
  return [`curl -N ${url}`, ...curlHeaders(keyed), `-d ${shellWord(jsonText(body))}`].join(" \\\n  ");
}

function streamPython({ address, model, version, body, keyed }) {
  const url = `${address}/${modelPath(model, version)}/generate_stream`;
  return [
    "import json, urllib.request", "",
    `body = json.dumps(${pythonValue(body)}).encode()`,
    `request = urllib.request.Request(${pythonText(url)}, body${keyed ? ', {"Authorization": "Bearer …"}' : ""})`,
    "for line in urllib.request.urlopen(request):",
    '    if line.startswith(b"data:"):',
    "        print(json.loads(line[5:]))",
  ].join("\n");
}
