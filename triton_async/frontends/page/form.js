"use strict";
// The form to try a model, the commands that do the same, and what came of it.

const SEQUENCE = { sequence_id: 1, sequence_start: true, sequence_end: true };

class TryForm {
  #running = null;
  #repeating = false;
  #late = 0;

  // `metadata`, `config`: of the model; the latter null where the caller may not read it.
  constructor({ model, version, metadata, config }) {
    Object.assign(this, { model, version, metadata, config });
    this.decoupled = Boolean(config?.model_transaction_policy?.decoupled);
    const batched = (config?.max_batch_size ?? 0) > 0;
    const changed = () => this.#changed();
    const optional = new Set((config?.input ?? []).filter((input) => input.optional).map(({ name }) => name));
    this.inputs = metadata.inputs.map((tensor) => new InputField(tensor, {
      batched, optional: optional.has(tensor.name), changed }));
    const labelled = new Set((config?.output ?? []).filter((output) => output.label_filename).map(({ name }) => name));
    this.outputs = this.decoupled ? [] : metadata.outputs.map(({ name }) => ({
      name, wanted: this.#box(true), classes: this.#box(labelled.has(name)) }));
    this.parameters = el("textarea", { rows: 2, spellcheck: false, oninput: changed, "aria-label": "parameters" });
    this.parameters.value = config?.sequence_batching ? jsonText(SEQUENCE) : "";
    this.#build();
    this.#changed();
  }

  #box(checked) {
    return el("input", { type: "checkbox", checked, onchange: () => this.#changed() });
  }

  #build() {
    this.run = el("button", { class: "primary", type: "submit" }, "Run");
    this.repeat = el("button", { type: "button", onclick: () => this.#toggleRepeat(), "aria-pressed": "false" }, "Repeat");
    this.stop = el("button", { type: "button", disabled: true, onclick: () => this.end() }, "Stop");
    this.state = el("span", { class: "state", role: "status" });
    this.answer = el("div", { class: "answer" });
    this.curl = new Snippet("curl", "Copy");
    this.python = new Snippet("Python", "Copy");
    const outputs = this.outputs.map(({ name, wanted, classes }) => el("div", { class: "row" },
      el("label", { class: "check" }, wanted, el("code", {}, name)),
      el("label", { class: "check small" }, classes, `the ${MOST_CLASSES} best classes`)));
    this.element = el("div", { class: "try" },
      el("form", { onsubmit: (event) => { event.preventDefault(); this.#start(); } },
        ...this.inputs.map((input) => input.element),
        el("details", { open: Boolean(this.config?.sequence_batching) },
          el("summary", {}, "Outputs and parameters"), ...outputs,
          el("label", {}, "Parameters of the request, as a JSON object", this.parameters)),
        el("div", { class: "row" }, this.run, this.decoupled ? null : this.repeat, this.stop, this.state)),
      this.answer,
      el("h3", {}, "The same from a shell, or from Python"),
      this.curl.element, this.python.element);
  }

  // --- What is sent ---------------------------------------------------------------------------------------------------

  #parameterValues() {
    const text = this.parameters.value.trim();
    if (!text) return {};
    let found;
    try {
      found = JSON.parse(text);
    } catch {
      throw new Error("the parameters are no JSON");
    }
    if (typeof found !== "object" || found === null || Array.isArray(found)) throw new Error("the parameters are no JSON object");
    return found;
  }

  #outputValues() {
    const wanted = this.outputs.filter((output) => output.wanted.checked);
    if (!this.decoupled && !wanted.length) throw new Error("no output is wanted");
    const classes = wanted.some((output) => output.classes.checked);
    if (wanted.length === this.outputs.length && !classes) return [];
    return wanted.map(({ name, classes: box }) => (box.checked ? { name, parameters: { classification: MOST_CLASSES } } : { name }));
  }

  // All that a request needs; an Error says what is wrong with the form.
  #call() {
    const inputs = this.inputs.map((input) => input.read()).filter((input) => input !== null);
    const outputs = this.#outputValues();
    const returned = outputs.length ? outputs.map(({ name }) => name) : this.metadata.outputs.map(({ name }) => name);
    const halves = this.metadata.outputs.some(({ name, datatype }) =>
      returned.includes(name) && (datatype === "FP16" || datatype === "BF16"));
    return {
      address: new URL(".", location.href).href.replace(/\/$/, ""), model: this.model, version: this.version, inputs, outputs,
      returned, parameters: this.#parameterValues(), keyed: Boolean(access.key), binaryOutput: halves,
    };
  }

  #encoded(call) {
    return call.inputs.map((input) => {
      try {
        return { ...input, bytes: encodeTensor(input.datatype, input.values) };
      } catch (problem) {
        throw new Error(`${input.name}: ${problem.message}`);
      }
    });
  }

  // Of the generate extension, which has inputs by their names and no shapes.
  #streamBody(call) {
    const body = { ...call.parameters };
    for (const input of call.inputs) {
      const elements = jsonElements(input);
      if (elements === null) throw new Error(`${input.name}: streams take what JSON can say only`);
      body[input.name] = elements.length === 1 ? elements[0] : elements;
    }
    return body;
  }

  // The commands follow what is written, a moment later.
  #changed() {
    clearTimeout(this.#late);
    this.#late = setTimeout(() => this.#showSnippets(), 150);
  }

  #showSnippets() {
    try {
      const call = this.#call();
      if (this.decoupled) {
        const stream = { ...call, body: this.#streamBody(call) };
        this.curl.show(streamCurl(stream));
        this.python.show(streamPython(stream));
      } else {
        call.inputs = this.#encoded(call);
        const { text, file } = curlCommand(call);
        this.curl.show(text, file);
        this.python.show(pythonScript(call));
      }
    } catch (problem) {
      this.curl.show(`# ${problem.message.replaceAll("\n", " ")}`);
      this.python.show(`# ${problem.message.replaceAll("\n", " ")}`);
    }
  }

  // --- Running --------------------------------------------------------------------------------------------------------

  #toggleRepeat() {
    if (this.#repeating) this.end();
    else this.#start(true);
  }

  // Gives up what runs.
  end() {
    this.#repeating = false;
    this.#running?.abort();
  }

  async #start(repeat = false) {
    if (this.#running) return;
    const running = this.#running = new AbortController();
    this.#repeating = repeat;
    this.repeat.setAttribute("aria-pressed", String(repeat));
    this.run.disabled = true;
    this.stop.disabled = false;
    this.state.className = "state";
    this.state.textContent = "running";
    try {
      if (this.decoupled) await this.#stream(running.signal);
      else await this.#infer(running.signal);
    } catch (problem) {
      if (problem.name !== "AbortError") this.#failed(problem);
      else if (!repeat) this.state.textContent += " – stopped";
    }
    this.#running = null;
    this.#repeating = false;
    this.repeat.setAttribute("aria-pressed", "false");
    this.run.disabled = false;
    this.stop.disabled = true;
  }

  #failed(problem) {
    this.state.className = "state bad";
    this.state.textContent = "failed";
    this.answer.replaceChildren(problemNote(problem));
  }

  async #infer(signal) {
    const wanted = this.#call(), inputs = this.#encoded(wanted);
    const path = `${modelPath(this.model, this.version)}/infer`;
    const request = inferRequest(inputs, wanted.outputs, wanted.parameters);
    let count = 0, spent = 0;
    do {
      const begun = performance.now();
      const answer = await call(path, { method: "POST", body: request.body, headers: request.headers, signal });
      const bytes = new Uint8Array(await answer.arrayBuffer());
      spent += performance.now() - begun;
      count += 1;
      if (count > 1) this.state.textContent = `${count} requests, ${milliseconds(spent / count)} each`;
      else {
        this.state.textContent = `${milliseconds(spent)}, ${byteText(bytes.length)}`;
        this.#show(inferAnswer(bytes, answer.headers.get("Inference-Header-Content-Length")), wanted.outputs);
      }
    } while (this.#repeating);
  }

  #show({ outputs }, wanted) {
    const classified = new Set(wanted.filter(({ parameters }) => parameters).map(({ name }) => name));
    this.answer.replaceChildren(...outputs.map((output) => outputCard(output, classified.has(output.name))));
  }

  async #stream(signal) {
    const wanted = this.#call();
    const body = jsonText(this.#streamBody(wanted));
    const begun = performance.now();
    const answer = await call(`${modelPath(this.model, this.version)}/generate_stream`, { method: "POST", body, signal });
    const list = el("div", { class: "events" });
    this.answer.replaceChildren(list);
    const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader(), events = new EventReader();
    let count = 0;
    for (let part = await reader.read(); !part.done; part = await reader.read()) {
      for (const event of events.push(part.value)) {
        const said = JSON.parse(event);
        if (said.error !== undefined) throw new CallProblem(200, String(said.error));
        count += 1;
        if (count <= MOST_LISTED) list.append(this.#eventText(said));
      }
      this.state.textContent = `${count} responses in ${milliseconds(performance.now() - begun)}`;
    }
  }

  // A single text as it is, so that words make sentences; anything else on a line of its own.
  #eventText(said) {
    const values = this.metadata.outputs.map(({ name }) => said[name]).filter((value) => value !== undefined);
    if (values.length && values.every((value) => typeof value === "string")) return el("span", {}, values.join(" "));
    return el("pre", {}, JSON.stringify(Object.fromEntries(this.metadata.outputs.map(({ name }) => [name, said[name]]))));
  }
}

// A text to copy, with a file that it needs beside it.
class Snippet {
  #url = "";

  constructor(title, copy) {
    this.text = el("pre", { class: "snippet" });
    this.file = el("a", { download: "request.bin", class: "button", hidden: true }, "request.bin");
    this.button = el("button", { type: "button", onclick: () => this.#copy() }, copy);
    this.element = el("div", { class: "code" },
      el("div", { class: "row" }, el("b", {}, title), el("span", { class: "space" }), this.file, this.button), this.text);
  }

  show(text, file = null) {
    this.text.textContent = text;
    if (this.#url) URL.revokeObjectURL(this.#url);
    this.blob = file;
    this.#url = file ? URL.createObjectURL(file) : "";
    this.file.hidden = !file;
    this.file.href = this.#url || "#";
  }

  // Pages over plain HTTP have no clipboard to write to: then the text is marked, to be copied by hand.
  async #copy() {
    try {
      await navigator.clipboard.writeText(this.text.textContent);
      this.button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(this.text);
      this.button.textContent = document.execCommand("copy") ? "Copied" : "Marked";
    }
    setTimeout(() => { this.button.textContent = "Copy"; }, 1500);
  }
}
