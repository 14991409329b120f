"use strict";
// What the statistics say of the moment: rates, latencies and batch sizes between two readings.

// Batch sizes that are told apart; larger ones share a bar.
const MOST_BARS = 16;

const nanoseconds = (durations) => durations.ns / 1e6;

// What happened between two entries of a model's statistics, `seconds` apart. Latencies in ms, null without requests.
function change(before, now, seconds) {
  const between = (read) => read(now) - read(before);
  const requests = between(({ inference_stats: stats }) => stats.success.count);
  const executions = between(({ execution_count }) => execution_count);
  const inferences = between(({ inference_count }) => inference_count);
  const mean = (part) => (requests > 0 ? between(({ inference_stats: stats }) => nanoseconds(stats[part])) / requests : null);
  return {
    inferences: inferences / seconds,
    failures: between(({ inference_stats: stats }) => stats.fail.count),
    latency: mean("success"), queue: mean("queue"), batch: executions > 0 ? inferences / executions : null,
  };
}

// Executions of each batch size since `before`: [[size, count]], in order.
function batchCounts(before, now) {
  const known = new Map((before?.batch_stats ?? []).map((entry) => [entry.batch_size, entry.compute_infer.count]));
  const counts = now.batch_stats
    .map(({ batch_size, compute_infer }) => [batch_size, compute_infer.count - (known.get(batch_size) ?? 0)])
    .filter(([, count]) => count > 0).sort(([a], [b]) => a - b);
  if (counts.length <= MOST_BARS) return counts.map(([size, count]) => [String(size), count]);
  const rest = counts.splice(MOST_BARS - 1);
  return [...counts.map(([size, count]) => [String(size), count]),
    [`${rest[0][0]}+`, rest.reduce((sum, [, count]) => sum + count, 0)]];
}

// The plots of one model version.
class LiveView {
  #first = null;
  #last = null;
  #at = 0;

  constructor() {
    this.throughput = new LinePlot("Inferences per second", [{ label: "inferences", shade: "one" }], shortNumber);
    this.latency = new LinePlot("Latency, mean", [{ label: "whole", shade: "one" }, { label: "in the queue", shade: "two" }],
      milliseconds);
    this.batch = new LinePlot("Batch size, mean", [{ label: "rows", shade: "one" }], shortNumber);
    this.sizes = new BarPlot("Batch sizes", "none since the page was opened");
    this.totals = el("p", { class: "totals" });
    this.element = el("div", {},
      el("div", { class: "plots" }, this.throughput.element, this.latency.element, this.batch.element, this.sizes.element),
      this.totals);
  }

  // `entry`: of the statistics, read at `seconds`.
  show(entry, seconds) {
    this.#first ??= entry;
    const last = this.#last, elapsed = seconds - this.#at;
    // A model that was loaded anew counts from nothing.
    const again = last && entry.inference_stats.success.count < last.inference_stats.success.count;
    if (again) this.#first = null;
    if (last && elapsed > 0 && !again) {
      const found = change(last, entry, elapsed);
      this.throughput.push(seconds, [found.inferences]);
      this.latency.push(seconds, [found.latency, found.queue]);
      this.batch.push(seconds, [found.batch]);
    }
    this.#last = entry;
    this.#at = seconds;
    const counts = batchCounts(this.#first, entry);
    const executions = counts.reduce((sum, [, count]) => sum + count, 0);
    this.sizes.show(counts, executions ? `${shortNumber(executions)} runs` : "–");
    const { success, fail } = entry.inference_stats;
    this.totals.textContent = `Since it was loaded: ${success.count} requests, ${fail.count} failed, `
      + `${entry.inference_count} inferences in ${entry.execution_count} executions`
      + (success.count ? `, ${milliseconds(nanoseconds(success) / success.count)} each` : "");
  }
}
