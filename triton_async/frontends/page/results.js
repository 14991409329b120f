"use strict";
// An answer's tensors, shown: as a picture, as classes, as texts, as numbers.

const MOST_LISTED = 400;
const MOST_CLASSES = 5;

// A card of one output: {name, datatype, shape, values}. `classes`: whether its texts are those of a classification.
function outputCard({ name, datatype, shape, values }, classes) {
  const card = el("section", { class: "output" },
    el("h4", {}, el("code", {}, name), " ", el("span", { class: "type" }, `${datatype} ${shapeText(shape)}`)));
  if (!values.length) card.append(el("p", { class: "note" }, "no elements"));
  else if (classes) card.append(classBars(values.map((bytes) => parseClass(textOf(bytes) ?? ""))));
  else if (datatype === "BYTES") card.append(...texts(values));
  else card.append(...numbers(shape, values));
  return card;
}

// "score:index" or "score:index:label".
function parseClass(text) {
  const [score, index, ...label] = text.split(":");
  return { score: Number(score), label: label.length ? label.join(":") : `class ${index}` };
}

function classBars(found) {
  const most = Math.max(...found.map(({ score }) => Math.abs(score))) || 1;
  return el("div", { class: "classes" }, ...found.map(({ score, label }) => {
    const bar = el("i");
    bar.style.width = `${(Math.abs(score) / most) * 100}%`;
    return el("div", { class: "class" }, el("span", {}, label), el("span", { class: "track" }, bar),
      el("b", {}, shortNumber(score)));
  }));
}

function texts(values) {
  const shown = values.slice(0, MOST_LISTED).map((bytes) => {
    if (isPictureFile(bytes)) return encodedPicture(bytes);
    const text = textOf(bytes);
    return el("pre", { class: text === null ? "bytes" : "text" },
      text ?? `${byteText(bytes.length)}: ${Array.from(bytes.subarray(0, 48), (byte) => byte.toString(16).padStart(2, "0")).join(" ")}`);
  });
  return [...shown, ...leftOut(values.length)];
}

// A picture file among the bytes, drawn: nothing is fetched, and nothing in it can ask for anything.
function encodedPicture(bytes) {
  const canvas = el("canvas", { class: "picture" });
  createImageBitmap(new Blob([bytes])).then((picture) => {
    canvas.width = picture.width;
    canvas.height = picture.height;
    canvas.getContext("2d").drawImage(picture, 0, 0);
  }, () => canvas.replaceWith(el("p", { class: "note" }, `${byteText(bytes.length)} that look like a picture`)));
  return canvas;
}

function numbers(shape, values) {
  const parts = [];
  const picture = tensorPicture(shape, values);
  if (picture) parts.push(fill(picture, { class: "picture" }, []));
  if (values.length > 8 && typeof values[0] === "number") parts.push(summary(values));
  const last = shape.at(-1);
  if (typeof values[0] === "number" && last === values.length && last > 16 && last <= 100000) {
    const order = Array.from(values.keys()).sort((a, b) => values[b] - values[a]).slice(0, MOST_CLASSES);
    parts.push(el("p", { class: "small" }, `Largest: ${order.map((at) => `[${at}] ${shortNumber(values[at])}`).join(", ")}`));
  }
  parts.push(el("pre", { class: "numbers" }, numberText(shape, values)), ...leftOut(values.length));
  return parts;
}

function summary(values) {
  let low = Infinity, high = -Infinity, sum = 0;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
    sum += value;
  }
  return el("p", { class: "small" },
    `least ${shortNumber(low)}, mean ${shortNumber(sum / values.length)}, most ${shortNumber(high)}`);
}

// The first elements, a line for each row of the last dim.
function numberText(shape, values) {
  const row = shape.length ? shape.at(-1) : 1, lines = [];
  const text = (value) => (typeof value === "number" && !Number.isInteger(value) ? Number(value.toPrecision(7)) : value);
  const shown = Math.min(values.length, MOST_LISTED);
  for (let at = 0; at < shown; at += row) {
    lines.push(Array.from(values.slice(at, Math.min(at + row, shown)), (value) => String(text(value))).join("  "));
  }
  return lines.join("\n");
}

function leftOut(count) {
  return count > MOST_LISTED ? [el("p", { class: "small" }, `… and ${count - MOST_LISTED} more of ${count}`)] : [];
}
