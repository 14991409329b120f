"use strict";
// The page: the list of models, the one that is looked at, and what is read over and over.

const STATISTICS_MS = 1000;
const INDEX_MS = 5000;
// With more models than this only the statistics of the one that is looked at are read.
const MOST_WATCHED = 100;

const state = {
  rows: [], problem: null, chosen: "", version: "", view: null, rates: new Map(), before: new Map(), form: null, shown: 0,
};

// --- The list of models -----------------------------------------------------------------------------------------------

// name -> its rows of the index, latest version first.
function byModel(rows) {
  const models = new Map();
  for (const row of rows) models.set(row.name, [...(models.get(row.name) ?? []), row]);
  for (const versions of models.values()) versions.sort((a, b) => Number(b.version ?? 0) - Number(a.version ?? 0));
  return models;
}

function stateOf(versions) {
  const states = versions.map((row) => row.state ?? "");
  for (const known of ["READY", "LOADING", "UNLOADING", "UNAVAILABLE"]) if (states.includes(known)) return known;
  return "not loaded";
}

async function readIndex(choosing = true) {
  try {
    state.rows = await callJson("v2/repository/index", { method: "POST", body: "{}" });
    state.problem = null;
  } catch (problem) {
    state.problem = problem;
    if (problem.refused) state.rows = await rowsOfStatistics();
  }
  showList();
  if (choosing && !state.chosen && state.rows.length) choose(state.rows.find((row) => row.state === "READY")?.name ?? state.rows[0].name);
}

// Whoever may not read the index may perhaps read the statistics, which name what is loaded.
async function rowsOfStatistics() {
  try {
    const { model_stats: entries } = await callJson("v2/models/stats");
    return entries.map(({ name, version }) => ({ name, version, state: "READY" }));
  } catch {
    return [];
  }
}

function showList() {
  const wanted = byId("search").value.trim().toLowerCase(), models = byModel(state.rows);
  const items = [];
  for (const [name, versions] of models) {
    if (!name.toLowerCase().includes(wanted)) continue;
    const condition = stateOf(versions), rate = state.rates.get(name);
    items.push(el("a", {
      href: `#${encodeURIComponent(name)}`, class: name === state.chosen ? "model chosen" : "model",
      title: `${name}: ${condition}`, "aria-current": name === state.chosen ? "true" : null,
    }, el("i", { class: `dot ${condition.toLowerCase().replace(" ", "-")}` }), el("span", { class: "name" }, name),
    el("span", { class: "rate" }, rate ? `${shortNumber(rate)}/s` : "")));
  }
  byId("list").replaceChildren(...items);
  byId("count").textContent = models.size === 1 ? "1 model" : `${models.size} models`;
  const note = byId("list-note");
  note.replaceChildren(...(state.problem ? [problemNote(state.problem)] : []));
  byId("by-name").hidden = !state.problem?.refused;
}

// --- The model that is looked at --------------------------------------------------------------------------------------

function choose(name, version = "") {
  if (!name) return;
  state.form?.end();
  Object.assign(state, { chosen: name, version, view: null, form: null });
  showList();
  showModel();
}

async function showModel() {
  const turn = ++state.shown, name = state.chosen, place = byId("model");
  const path = modelPath(name, state.version);
  const [metadata, config] = await Promise.allSettled([callJson(path), callJson(`${path}/config`)]);
  if (turn !== state.shown) return;
  const rows = byModel(state.rows).get(name) ?? [];
  const parts = [modelHead(name, rows, metadata.value, config.value)];
  for (const row of rows) {
    if (row.reason && row.state !== "READY") parts.push(el("p", { class: "problem" }, `version ${row.version}: ${row.reason}`));
  }
  if (metadata.status === "rejected") {
    parts.push(section("About", problemNote(metadata.reason)));
  } else {
    state.view = new LiveView();
    state.form = new TryForm({ model: name, version: state.version, metadata: metadata.value, config: config.value ?? null });
    state.liveNote = el("div", {});
    parts.push(section("Now", state.view.element, state.liveNote),
      section("Inputs and outputs", tensorTable(metadata.value, config.value)), section("Try it", state.form.element));
  }
  if (config.status === "fulfilled") {
    parts.push(el("details", { class: "card" }, el("summary", {}, "Config"),
      el("pre", { class: "config" }, JSON.stringify(config.value, null, 2))));
  } else if (metadata.status === "fulfilled") parts.push(section("Config", problemNote(config.reason)));
  place.replaceChildren(...parts);
  readStatistics();
}

function section(title, ...children) {
  return el("section", { class: "card" }, el("h3", {}, title), ...children);
}

function modelHead(name, rows, metadata, config) {
  const condition = rows.length ? stateOf(rows) : metadata ? "READY" : "";
  const versions = rows.map(({ version }) => version).filter(Boolean);
  const select = versions.length < 2 ? el("span", { class: "fact" }, `version ${versions[0] ?? metadata?.versions?.at(-1) ?? "?"}`)
    : el("select", { "aria-label": "version", onchange: () => choose(name, select.value) },
    el("option", { value: "" }, `latest of ${versions.length}`),
    ...versions.map((version) => el("option", { value: version, selected: version === state.version }, `version ${version}`)));
  const facts = [];
  if (metadata?.platform) facts.push(metadata.platform);
  if (config) {
    if (config.max_batch_size > 0) facts.push(`batches to ${config.max_batch_size}`);
    if (config.dynamic_batching) facts.push("dynamic batching");
    if (config.sequence_batching) facts.push("sequences");
    if (config.ensemble_scheduling) facts.push("ensemble");
    if (config.model_transaction_policy?.decoupled) facts.push("decoupled");
    if (config.response_cache?.enable) facts.push("response cache");
  }
  return el("div", { class: "head" }, el("h2", {}, name),
    condition ? el("span", { class: `pill ${condition.toLowerCase().replace(" ", "-")}` }, condition) : null,
    select, ...facts.map((fact) => el("span", { class: "fact" }, fact)));
}

function tensorTable(metadata, config) {
  const optional = new Set((config?.input ?? []).filter((input) => input.optional).map(({ name }) => name));
  const row = (kind) => ({ name, datatype, shape }) => el("tr", {}, el("td", {}, kind), el("td", {}, el("code", {}, name)),
    el("td", {}, datatype), el("td", {}, `[${shape.join(", ")}]`), el("td", {}, optional.has(name) ? "optional" : ""));
  return el("div", { class: "scroll" }, el("table", {}, el("tbody", {},
    ...metadata.inputs.map(row("input")), ...metadata.outputs.map(row("output")))));
}

// --- What is read over and over ---------------------------------------------------------------------------------------

async function readStatistics() {
  if (!state.chosen || !state.view) return;
  const all = new Set(state.rows.map(({ name }) => name)).size <= MOST_WATCHED && !state.problem;
  const view = state.view, chosen = state.chosen, version = state.version;
  try {
    const { model_stats: entries } = await callJson(all ? "v2/models/stats" : `${modelPath(chosen, version)}/stats`);
    if (view !== state.view) return;
    const now = performance.now() / 1000;
    noteRates(entries, now);
    const own = entries.filter((entry) => entry.name === chosen && (!version || entry.version === version));
    own.sort((a, b) => Number(b.version) - Number(a.version));
    if (own.length) view.show(own[0], now);
    state.liveNote.replaceChildren();
  } catch (problem) {
    if (view === state.view) state.liveNote.replaceChildren(problemNote(problem));
  }
}

function noteRates(entries, now) {
  const counts = new Map();
  for (const { name, inference_count: count } of entries) counts.set(name, (counts.get(name) ?? 0) + count);
  for (const [name, count] of counts) {
    const before = state.before.get(name);
    if (before && now > before.now) state.rates.set(name, Math.max(0, count - before.count) / (now - before.now));
    state.before.set(name, { count, now });
  }
  showList();
}

async function readServer() {
  const pill = byId("ready");
  try {
    await call("v2/health/ready");
    pill.textContent = "ready";
    pill.className = "pill ready";
  } catch (problem) {
    pill.textContent = problem.refused ? "no access" : problem.status ? "not ready" : "no answer";
    pill.className = "pill unavailable";
  }
  if (byId("server").textContent) return;
  try {
    const { name, version } = await callJson("v2");
    byId("server").textContent = `${name} ${version}`;
  } catch {
    // Not for this caller.
  }
}

// Runs `work` now and every `milliseconds`, one at a time, and not while nobody looks.
async function keep(work, milliseconds) {
  for (;;) {
    if (!document.hidden) await work();
    await new Promise((resolve) => { setTimeout(resolve, milliseconds); });
  }
}

// --- Access -----------------------------------------------------------------------------------------------------------

function readAccess() {
  access.key = byId("key").value.trim();
  access.headers = byId("headers").value.split("\n").map((line) => line.split(/:(.*)/s)).filter(([name, value]) => value && name.trim())
    .map(([name, value]) => [name.trim(), value.trim()]);
  try {
    new Headers(access.headers);
  } catch {
    access.headers = [];
    return "these are no headers";
  }
  return "";
}

function begin() {
  const dialog = byId("access");
  byId("open-access").addEventListener("click", () => dialog.showModal());
  byId("use-access").addEventListener("click", () => {
    const wrong = readAccess();
    byId("access-note").textContent = wrong;
    if (wrong) return;
    dialog.close();
    byId("server").textContent = "";
    readServer();
    readIndex().then(() => choose(state.chosen, state.version));
  });
  byId("search").addEventListener("input", showList);
  byId("by-name").addEventListener("submit", (event) => {
    event.preventDefault();
    location.hash = encodeURIComponent(byId("model-name").value.trim());
  });
  const follow = () => {
    let name = "";
    try {
      name = decodeURIComponent(location.hash.slice(1));
    } catch {
      // No name of ours.
    }
    if (name !== state.chosen) choose(name);
  };
  addEventListener("hashchange", follow);
  keep(readServer, INDEX_MS);
  readIndex(false).then(() => {
    follow();
    keep(readIndex, INDEX_MS);
    keep(readStatistics, STATISTICS_MS);
  });
}

begin();
