"use strict";
// Plots of the last minutes, in SVG. They know nothing of models.

const PLOT = { width: 300, height: 96, left: 0, top: 6, bottom: 14 };
const PLOT_SECONDS = 120;

// A round number a little above `value`, so that axes do not jump.
function niceTop(value) {
  if (!(value > 0)) return 1;
  const unit = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 3, 5, 7.5, 10, 15].map((step) => step * unit).find((top) => top >= value * 1.05);
}

// A card with a headline number and one line for each of `series` ({label, shade}). `format` writes numbers.
class LinePlot {
  #points = [];
  #hover = null;

  constructor(title, series, format) {
    this.series = series;
    this.format = format;
    this.headline = el("strong", {}, "–");
    this.readout = el("span", { class: "readout" });
    this.picture = svg("svg", {
      viewBox: `0 0 ${PLOT.width} ${PLOT.height}`, preserveAspectRatio: "none", role: "img", "aria-label": title,
    });
    this.top = el("span", { class: "axis" });
    this.picture.addEventListener("pointermove", (event) => {
      const box = this.picture.getBoundingClientRect();
      this.#hover = (event.clientX - box.left) / box.width;
      this.#draw();
    });
    this.picture.addEventListener("pointerleave", () => { this.#hover = null; this.#draw(); });
    const legend = series.length > 1
      ? series.map(({ label, shade }) => el("span", { class: `legend ${shade}` }, label)) : [];
    this.element = el("figure", { class: "plot" },
      el("figcaption", {}, el("span", {}, title), this.headline),
      el("div", { class: "canvas" }, this.top, this.picture),
      el("div", { class: "under" }, el("span", { class: "axis" }, "2 min ago"), el("span", { class: "axis" }, "now")),
      el("div", { class: "under" }, ...legend, this.readout));
    this.#draw();
  }

  // `values`: one for each series, null where there is none at `seconds`.
  push(seconds, values) {
    this.#points.push({ seconds, values });
    while (this.#points[0].seconds < seconds - PLOT_SECONDS) this.#points.shift();
    this.headline.textContent = values[0] === null ? "–" : this.format(values[0]);
    this.#draw();
  }

  #draw() {
    const points = this.#points, end = points.at(-1)?.seconds ?? 0;
    const top = niceTop(Math.max(0, ...points.flatMap(({ values }) => values.map((value) => value ?? 0))));
    const x = (seconds) => PLOT.width * (1 - (end - seconds) / PLOT_SECONDS);
    const y = (value) => PLOT.top + (PLOT.height - PLOT.top - PLOT.bottom) * (1 - value / top);
    const floor = y(0), parts = [svg("line", { class: "grid", x1: 0, x2: PLOT.width, y1: floor, y2: floor }),
      svg("line", { class: "grid", x1: 0, x2: PLOT.width, y1: PLOT.top, y2: PLOT.top })];
    this.series.forEach(({ shade }, at) => {
      for (const run of runs(points, at)) {
        const line = run.map(({ seconds, values }) => `${x(seconds).toFixed(1)},${y(values[at]).toFixed(1)}`);
        if (at === 0) {
          parts.push(svg("polygon", { class: `area ${shade}`, points: [
            `${x(run[0].seconds).toFixed(1)},${floor}`, ...line, `${x(run.at(-1).seconds).toFixed(1)},${floor}`].join(" ") }));
        }
        parts.push(svg("polyline", { class: `line ${shade}`, points: line.join(" ") }));
      }
    });
    this.readout.textContent = "";
    if (this.#hover !== null && points.length) {
      const wanted = end - PLOT_SECONDS * (1 - this.#hover);
      const near = points.reduce((best, point) =>
        (Math.abs(point.seconds - wanted) < Math.abs(best.seconds - wanted) ? point : best));
      parts.push(svg("line", { class: "cursor", x1: x(near.seconds), x2: x(near.seconds), y1: PLOT.top, y2: floor }));
      this.readout.textContent = near.values.map((value) => (value === null ? "–" : this.format(value))).join(" · ");
    }
    this.picture.replaceChildren(...parts);
    this.top.textContent = this.format(top);
  }
}

// The stretches of points that have a value of series `at`.
function runs(points, at) {
  const found = [];
  let open = null;
  for (const point of points) {
    if (point.values[at] === null) open = null;
    else if (open) open.push(point);
    else found.push(open = [point]);
  }
  return found;
}

// A card with a bar for each of some counts.
class BarPlot {
  constructor(title, empty) {
    this.headline = el("strong", {}, "–");
    this.bars = el("div", { class: "bars" });
    this.empty = empty;
    this.element = el("figure", { class: "plot" },
      el("figcaption", {}, el("span", {}, title), this.headline), this.bars);
  }

  // `counts`: [label, count] of each bar.
  show(counts, headline) {
    this.headline.textContent = headline;
    const most = Math.max(1, ...counts.map(([, count]) => count));
    if (!counts.length) {
      this.bars.replaceChildren(el("span", { class: "axis" }, this.empty));
      return;
    }
    this.bars.replaceChildren(...counts.map(([label, count]) => {
      const bar = el("i");
      bar.style.height = `${Math.max(2, (count / most) * 72)}px`;
      return el("span", { class: "bar", title: `${count} executions of ${label}` }, bar, el("b", {}, label));
    }));
  }
}
