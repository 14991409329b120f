"use strict";
// The part of the form for one input: values written, made up, or from a file.

// Elements that are written out at first; more are made up.
const MOST_WRITTEN = 64;
// What an open dim of a model without any hint becomes when values are made up.
const OPEN_DIM = 16;
const OPEN_SIDE = 224;

class InputField {
  #file = null;
  #bytes = null;
  #picture = null;

  // `tensor`: of the metadata; `batched`: whether its first dim is the batch; `changed`: called behind each change.
  constructor(tensor, { batched, optional, changed }) {
    Object.assign(this, tensor);
    this.batched = batched;
    this.changed = changed;
    this.layout = pictureLayout(batched ? tensor.shape.slice(1) : tensor.shape);
    this.dims = tensor.shape.map((dim, at) => (dim >= 0 ? null : el("input", {
      class: "dim", inputmode: "numeric", placeholder: at === 0 && batched ? "1" : "auto", size: 4, oninput: changed,
      "aria-label": `dim ${at} of ${tensor.name}`,
    })));
    this.kind = this.#firstKind();
    this.text = el("textarea", { rows: 3, spellcheck: false, oninput: changed, "aria-label": `values of ${tensor.name}` });
    this.text.value = this.#example();
    this.sent = el("input", { type: "checkbox", checked: true, onchange: changed });
    this.element = el("section", { class: "input" },
      el("div", { class: "row" },
        optional ? el("label", { class: "check" }, this.sent, el("code", {}, tensor.name)) : el("code", {}, tensor.name),
        el("span", { class: "type" }, tensor.datatype), this.#shapeRow(), this.#tabs()),
      this.body = el("div", {}));
    this.#showBody();
  }

  #firstKind() {
    if (this.datatype === "BYTES") return "values";
    const fixed = this.shape.filter((dim) => dim >= 0);
    const open = this.shape.length - fixed.length - (this.batched ? 1 : 0);
    return elementCount(fixed) * (open ? OPEN_DIM : 1) <= MOST_WRITTEN && !this.layout ? "values" : "random";
  }

  #example() {
    if (this.datatype === "BYTES") return this.#exampleTexts();
    const values = madeUp("counting", this.datatype, Math.min(elementCount(this.#fullShape()), MOST_WRITTEN));
    return JSON.stringify(this.datatype === "BOOL" ? values.map(Boolean) : values);
  }

  #exampleTexts() {
    const count = elementCount(this.shape.filter((dim) => dim >= 0));
    return count === 1 ? "Hello, world" : JSON.stringify(madeUp("counting", "BYTES", Math.min(count, MOST_WRITTEN)));
  }

  #shapeRow() {
    const parts = this.shape.flatMap((dim, at) => [at ? ", " : "[", this.dims[at] ?? String(dim)]);
    return el("span", { class: "shape" }, ...(parts.length ? parts : ["["]), "]");
  }

  #tabs() {
    const kinds = this.datatype === "BYTES" ? ["values", "file"] : ["values", "zeros", "ones", "random", "file"];
    this.buttons = kinds.map((kind) => el("button", {
      type: "button", "aria-pressed": "false", onclick: () => { this.kind = kind; this.#showBody(); this.changed(); },
    }, { values: this.datatype === "BYTES" ? "Text" : "Values", zeros: "Zeros", ones: "Ones", random: "Random", file: "File" }[kind]));
    this.kinds = kinds;
    return el("span", { class: "tabs" }, ...this.buttons);
  }

  #showBody() {
    this.buttons.forEach((button, at) => button.setAttribute("aria-pressed", String(this.kinds[at] === this.kind)));
    if (this.kind === "values") {
      const hint = this.datatype === "BYTES" ? "A text, or a JSON list of texts." : "JSON: flat, or nested as the shape.";
      this.body.replaceChildren(this.text, el("p", { class: "small" }, hint));
    } else if (this.kind === "file") this.body.replaceChildren(this.#filePart());
    else this.body.replaceChildren();
  }

  #filePart() {
    this.chooser ??= el("input", {
      type: "file", onchange: () => this.takeFile(this.chooser.files[0]), "aria-label": `file for ${this.name}`,
    });
    this.fileNote ??= el("p", { class: "small" },
      this.layout ? "A picture, JSON, or raw bytes." : this.datatype === "BYTES"
        ? "Any file: its bytes are one element; of JSON each text is one." : "JSON, or raw bytes.");
    const choice = (name, options) => el("label", {}, `${name} `, this[name] ??= el("select", { onchange: this.changed },
      ...options.map((option) => el("option", {}, option))));
    // ImageNet's means are those of three channels.
    const scales = Object.keys(SCALES).filter((name) => name !== "ImageNet" || [3, -1].includes(this.shape.at(this.layout?.channels)));
    const options = this.layout ? el("div", { class: "row" }, choice("scale", scales), choice("order", ["RGB", "BGR"])) : null;
    return el("div", { class: "file" }, this.chooser, options, this.fileNote);
  }

  // Reads a file and takes it for the input's source.
  async takeFile(file) {
    if (!file) return;
    this.kind = "file";
    this.#showBody();
    this.#file = file;
    this.#picture = null;
    this.#bytes = new Uint8Array(await file.arrayBuffer());
    let said = `${file.name}, ${byteText(file.size)}`;
    if (this.layout && isPictureFile(this.#bytes)) {
      try {
        this.#picture = await createImageBitmap(file);
        said += `, ${this.#picture.width} × ${this.#picture.height} pixels`;
      } catch {
        said += ": the browser cannot read this picture";
      }
    }
    this.fileNote.textContent = said;
    this.changed();
  }

  // Dims as they are wanted: numbers, or null where the data decides.
  #wanted() {
    return this.shape.map((dim, at) => {
      if (dim >= 0) return dim;
      const text = this.dims[at].value.trim();
      if (!text) return null;
      if (!/^\d{1,9}$/.test(text)) throw new Error(`${this.name}: ${text} is no length of a dim`);
      return Number(text);
    });
  }

  // A shape without open dims, for values that are made up.
  #fullShape() {
    const first = this.batched ? 1 : 0, wanted = this.dims ? this.#wanted() : this.shape.map((dim) => (dim >= 0 ? dim : null));
    return wanted.map((dim, at) => {
      if (dim !== null) return dim;
      if (at < first) return 1;
      if (!this.layout) return OPEN_DIM;
      return at - wanted.length === this.layout.channels ? 3 : OPEN_SIDE;
    });
  }

  // {name, datatype, shape, values, origin}; null for one that is not sent. An Error says what is wrong.
  read() {
    if (!this.sent.checked) return null;
    try {
      return { name: this.name, datatype: this.datatype, ...this.#source() };
    } catch (problem) {
      throw problem.message.startsWith(`${this.name}:`) ? problem : new Error(`${this.name}: ${problem.message}`);
    }
  }

  #source() {
    if (this.kind === "file") return this.#fromFile();
    if (this.kind === "values") return this.#fromText(this.text.value);
    const shape = this.#fullShape();
    return { shape, values: madeUp(this.kind, this.datatype, elementCount(shape)), origin: { kind: this.kind } };
  }

  #fromText(text, kind = "values") {
    const values = this.#parse(text), flat = Array.isArray(values) ? values.flat(Infinity) : [values];
    const wanted = this.#wanted(), nested = nesting(values);
    if (this.batched && wanted[0] === null && nested.length !== wanted.length && wanted.includes(null, 1)) wanted[0] = 1;
    return { shape: resolveShape(wanted, flat.length, nested), values: flat, origin: { kind } };
  }

  #parse(text) {
    if (this.datatype !== "BYTES") {
      try {
        return parseValues(text);
      } catch {
        throw new Error("the values are no JSON");
      }
    }
    if (!/^\s*\[/.test(text)) return text;
    try {
      return JSON.parse(text);
    } catch {
      return text;
    }
  }

  #fromFile() {
    const bytes = this.#bytes;
    if (!bytes) throw new Error("no file is chosen");
    const name = this.#file.name;
    if (this.#picture) return this.#fromPicture(name);
    if (/\.json$/i.test(name)) return this.#fromText(textOf(bytes) ?? "");
    const wanted = this.#wanted();
    const origin = { kind: "file", name };
    if (this.datatype === "BYTES") return { shape: resolveShape(wanted, 1), values: [bytes], origin };
    const values = decodeTensor(this.datatype, bytes);
    if (this.batched && wanted[0] === null && wanted.includes(null, 1)) wanted[0] = 1;
    return { shape: resolveShape(wanted, values.length), values, origin };
  }

  #fromPicture(name) {
    const wanted = this.#wanted(), size = pictureSize(wanted, this.layout, this.#picture);
    const channels = wanted.at(this.layout.channels) ?? 3;
    if (![1, 3, 4].includes(channels)) throw new Error(`a picture has no ${channels} channels`);
    const scale = this.scale.value, order = this.order.value;
    const values = pictureValues(this.#picture, size, this.layout, channels, scale, order);
    const shape = wanted.map((dim) => dim ?? 1);
    for (const [part, length] of [["channels", channels], ["height", size.height], ["width", size.width]]) {
      shape[shape.length + this.layout[part]] = length;
    }
    const whole = isFloat(this.datatype) ? values : values.map(Math.round);
    return { shape, values: whole, origin: { kind: "picture", name, size, layout: this.layout, channels, scale, order } };
  }
}
