"use strict";
// Elements, and calls of the server. What a server or a model says becomes text nodes, never markup.

const SVG = "http://www.w3.org/2000/svg";

// An element: el("p", {class: "small", onclick: f}, "text", otherElement). null children are left out.
function el(tag, attributes = {}, ...children) {
  return fill(document.createElement(tag), attributes, children);
}

function svg(tag, attributes = {}, ...children) {
  return fill(document.createElementNS(SVG, tag), attributes, children);
}

function fill(element, attributes, children) {
  for (const [name, value] of Object.entries(attributes)) {
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name in element && typeof value === "boolean") element[name] = value;
    else if (value !== null) element.setAttribute(name, String(value));
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined));
  return element;
}

const byId = (id) => document.getElementById(id);

// --- Calls ------------------------------------------------------------------------------------------------------------

// What the caller shows with each call; kept in this page alone.
const access = { key: "", headers: [] };

// A call that failed: `status` is 0 where no server answered.
class CallProblem extends Error {
  constructor(status, message) {
    super(message);
    this.status = status;
  }

  get refused() {
    return this.status === 401 || this.status === 403;
  }
}

// The answer to a call; CallProblem where it is an error.
async function call(path, { method = "GET", body, headers = {}, signal } = {}) {
  const sent = new Headers(headers);
  for (const [name, value] of access.headers) sent.set(name, value);
  if (access.key) sent.set("Authorization", `Bearer ${access.key}`);
  let answer;
  try {
    answer = await fetch(path, { method, body, headers: sent, signal, cache: "no-store" });
  } catch (problem) {
    if (problem.name === "AbortError") throw problem;
    throw new CallProblem(0, "the server does not answer");
  }
  if (!answer.ok) throw new CallProblem(answer.status, await errorText(answer));
  return answer;
}

async function errorText(answer) {
  const text = (await answer.text()).slice(0, 20000);
  try {
    const said = JSON.parse(text.replace(/^data: /, "").trim()).error;
    if (typeof said === "string") return said;
  } catch {
    // Not of ours: what a proxy says.
  }
  return text || `status ${answer.status}`;
}

async function callJson(path, options) {
  return (await call(path, options)).json();
}

// What to show of a call that was refused or failed.
function problemNote(problem) {
  const hint = problem.refused ? " Set what it asks for under Access." : "";
  return el("p", { class: problem.refused ? "note" : "problem" }, problem.message + hint);
}

// --- Texts ------------------------------------------------------------------------------------------------------------

// 1234567 -> "1.23 M"; at most three digits that count.
function shortNumber(value) {
  if (!Number.isFinite(value)) return "–";
  for (const [limit, unit] of [[1e9, " G"], [1e6, " M"], [1e4, " k"]]) {
    if (Math.abs(value) >= limit) return (value / (limit === 1e4 ? 1e3 : limit)).toPrecision(3) + unit;
  }
  if (value === 0 || Math.abs(value) >= 100) return String(Math.round(value));
  return String(Number(value.toPrecision(Math.abs(value) < 0.001 ? 2 : 3)));
}

function milliseconds(value) {
  if (!Number.isFinite(value)) return "–";
  if (value < 1) return `${shortNumber(value * 1000)} µs`;
  return value < 10000 ? `${shortNumber(value)} ms` : `${shortNumber(value / 1000)} s`;
}

function byteText(count) {
  if (count < 1024) return `${count} B`;
  return count < 1 << 20 ? `${(count / 1024).toFixed(1)} KiB` : `${(count / (1 << 20)).toFixed(1)} MiB`;
}
