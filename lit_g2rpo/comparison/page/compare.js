"use strict";
// Everything from a run is put into the page as text or as a number, never as markup.

const LIGHT = ["#1f6fd6", "#d9650a", "#15803d", "#b4238f", "#a16207", "#0e7f92", "#b91c1c", "#6d45c9"];
const DARK = ["#6ea8f5", "#f59e4c", "#4ade80", "#f472d0", "#e5c04b", "#4fd1e0", "#f8847c", "#b39dfa"];
const DASHES = [[], [7, 3], [2, 2]];  // with many groups colors alone are too alike
const OPEN = ["rollout/accuracy", "rollout/reward"];
const dark = matchMedia("(prefers-color-scheme: dark)");
const hidden = new Set();  // places of groups
const drawn = new Map();  // card -> chart

const at = (id) => document.getElementById(id);

function make(tag, text, classes) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (classes) node.className = classes;
  return node;
}

const many = DATA.groups.length > LIGHT.length;

function color(place) {
  if (!many) return (dark.matches ? DARK : LIGHT)[place];
  const hue = (place * 360) / DATA.groups.length;
  return `hsl(${hue} 70% ${(dark.matches ? 58 : 32) + 14 * (place % 2)}%)`;
}

function swatch(place) {
  const node = make("i", undefined, "swatch");
  node.dataset.place = place;
  return node;
}

function paint() {
  for (const node of document.querySelectorAll(".swatch")) node.style.setProperty("--color", color(node.dataset.place));
}

// ---- tables

function sheet(what, links) {
  const table = make("table");
  const head = table.createTHead().insertRow();
  what.columns.forEach((name, column) => head.append(make("th", name, column < what.words ? "word" : "")));
  const body = table.createTBody();
  what.rows.forEach((row, number) => {
    const line = body.insertRow();
    if (row.faint) line.className = "faint";
    row.cells.forEach((text, column) => {
      const cell = line.insertCell();
      const mark = !column && row.group !== null && !row.faint;
      cell.className = (column < what.words ? "word" : "") + (!column && !links ? " mark" : "");
      if (mark) cell.append(swatch(row.group), " ");
      if (!column && links && links[number]) {
        const link = make("a", text);
        link.href = links[number];
        link.title = "rollouts of this run";
        cell.append(link);
      } else {
        cell.append(text);
      }
    });
  });
  const frame = make("div", undefined, "sheet");
  frame.append(table);
  const out = document.createDocumentFragment();
  out.append(make("h2", what.title), frame);
  return out;
}

// ---- charts

const short = (value) => (value === 0 ? "0" : Math.abs(value) < 1e-3 || Math.abs(value) >= 1e5 ? value.toExponential(2) : String(+value.toPrecision(4)));

function datasets(chart) {
  return chart.curves.flatMap((curve, place) => {
    if (!curve.x.length) return [];
    const line = color(place);
    const shared = { borderColor: line, hidden: hidden.has(place), place, pointRadius: 0, pointHoverRadius: 0, pointHitRadius: 8 };
    const points = (value) => curve.x.map((x, index) => ({ x, y: value(index) }));
    const edge = (sign) => points((index) => (curve.half[index] === null ? NaN : curve.mean[index] + sign * curve.half[index]));
    const mean = { ...shared, data: points((index) => curve.mean[index]), borderWidth: 1.6, backgroundColor: line,
      pointHoverRadius: 4, pointHoverBackgroundColor: line, pointHoverBorderColor: line,
      pointRadius: curve.x.length > 40 ? 0 : 2, borderDash: many ? DASHES[place % DASHES.length] : [], curve };
    if (!curve.half) return [mean];
    const band = { ...shared, borderWidth: 0, backgroundColor: `color-mix(in srgb, ${line} 20%, transparent)` };
    return [{ ...band, data: edge(-1), fill: false }, { ...band, data: edge(1), fill: "-1" }, mean];
  });
}

function told(item) {
  const { curve, place } = item.dataset;
  const half = curve.half && curve.half[item.dataIndex];
  const n = typeof curve.n === "number" ? curve.n : curve.n[item.dataIndex];
  const line = make("div");
  line.append(swatch(place), ` ${DATA.groups[place].name}: ${short(item.parsed.y)}` +
    `${typeof half === "number" ? ` ± ${short(half)}` : ""} (${n} seed${n > 1 ? "s" : ""})`);
  return line;
}

// beside the canvas, which would cut it off
function tip({ chart, tooltip }) {
  const node = at("tip");
  node.hidden = !tooltip.opacity || !tooltip.dataPoints.length;
  if (node.hidden) return;
  node.replaceChildren(make("b", `rollout ${tooltip.dataPoints[0].parsed.x}`), ...tooltip.dataPoints.map(told));
  paint();
  const box = chart.canvas.getBoundingClientRect(), gap = 14;
  const x = box.left + tooltip.caretX, y = box.top + tooltip.caretY;
  const right = x + gap + node.offsetWidth < innerWidth;
  node.style.left = `${Math.max(4, right ? x + gap : x - gap - node.offsetWidth)}px`;
  node.style.top = `${Math.max(4, Math.min(y, innerHeight - node.offsetHeight - 4))}px`;
}

function draw(card) {
  if (drawn.has(card)) return;
  const style = getComputedStyle(document.body);
  const tone = (name) => style.getPropertyValue(name).trim();
  const axis = (title) => ({ title: { display: Boolean(title), text: title, color: tone("--soft") }, grid: { color: tone("--line") },
    border: { color: tone("--line") }, ticks: { color: tone("--soft"), maxTicksLimit: 7, maxRotation: 0 } });
  const chart = new Chart(card.querySelector("canvas"), {
    type: "line",
    data: { datasets: datasets(DATA.charts[card.dataset.metric]) },
    options: {
      animation: false, parsing: false, normalized: true, maintainAspectRatio: false, spanGaps: false,
      interaction: { mode: "nearest", axis: "x", intersect: false },
      scales: { x: { type: "linear", ...axis("rollouts") }, y: axis("") },
      plugins: {
        legend: { display: false },
        tooltip: {
          enabled: false, external: tip,
          filter: (item) => item.dataset.curve !== undefined,
          itemSort: (a, b) => b.parsed.y - a.parsed.y,
        },
      },
    },
  });
  drawn.set(card, chart);
}

function clear(card) {
  if (drawn.has(card)) drawn.get(card).destroy();
  drawn.delete(card);
}

// a canvas takes megabytes, and there may be hundreds
const seen = new IntersectionObserver((entries) => {
  for (const entry of entries) (entry.isIntersecting ? draw : clear)(entry.target);
}, { rootMargin: "400px" });

function card(metric) {
  const chart = DATA.charts[metric];
  const node = make("article", undefined, "chart");
  node.dataset.metric = metric;
  const title = make("h3", metric);
  if (chart.every > 1) title.append(make("small", `, 1 of ${chart.every} points drawn`));
  const plot = make("div", undefined, "plot");
  const canvas = make("canvas");
  canvas.setAttribute("role", "img");
  canvas.setAttribute("aria-label", `${metric} over rollouts`);
  plot.append(canvas);
  node.append(title, plot, figures(chart));
  seen.observe(node);
  return node;
}

function figures(chart) {
  if (chart.at === null) return make("p", "no rollout that all runs share", "legend");
  const table = make("table");
  const head = table.createTHead().insertRow();
  const compared = DATA.groups.length > 1;
  const names = ["", `${chart.mean ? "mean to" : "at"} ${chart.at}`, ...(compared ? [`minus group ${DATA.baseline + 1}`, "p"] : [])];
  head.append(...names.map((name) => make("th", name)));
  const body = table.createTBody();
  chart.figures.forEach((texts, place) => {
    if (!texts[0]) return;
    const row = body.insertRow();
    const mark = make("td", undefined, "word mark");
    mark.append(swatch(place), ` ${place + 1}`);
    mark.title = DATA.groups[place].name;
    row.append(mark, ...texts.slice(0, names.length - 1).map((text) => make("td", text)));
  });
  const frame = make("div", undefined, "figures");
  frame.append(table);
  return frame;
}

// ---- what is chosen

function fill() {
  const words = at("search").value.trim().toLowerCase();
  const wanted = (metric) => !words || metric.toLowerCase().includes(words);
  for (const node of [...drawn.keys()]) clear(node);
  seen.disconnect();
  at("first").replaceChildren(...DATA.first.filter(wanted).map(card));
  const parts = new Map();
  for (const metric of Object.keys(DATA.charts)) {
    if (DATA.first.includes(metric) || !wanted(metric)) continue;
    const part = metric.split("/").slice(0, metric.startsWith("val/") || metric.startsWith("rollout/") ? 2 : 1).join("/");
    parts.set(part, [...(parts.get(part) || []), metric]);
  }
  at("others").replaceChildren(...[...parts].map(([part, metrics]) => {
    const node = make("details");
    const name = make("summary", `${part} `);
    name.append(make("small", `${metrics.length} chart${metrics.length > 1 ? "s" : ""}`));
    const charts = make("div", undefined, "charts");
    node.append(name, charts);
    node.ontoggle = () => {
      if (node.open && !charts.children.length) charts.append(...metrics.map(card));
      paint();
    };
    node.open = words !== "" || OPEN.includes(part);
    return node;
  }));
  at("nothing").hidden = Object.keys(DATA.charts).some(wanted);
  paint();
}

function toggle(place, button) {
  if (!hidden.delete(place)) hidden.add(place);
  button.setAttribute("aria-pressed", String(!hidden.has(place)));
  for (const chart of drawn.values()) {
    for (const dataset of chart.data.datasets) if (dataset.place === place) dataset.hidden = hidden.has(place);
    chart.update();
  }
}

function start() {
  for (const chart of Object.values(DATA.charts)) for (const curve of chart.curves) curve.x ??= chart.x;
  at("legend").append(...DATA.groups.map((group, place) => {
    const button = make("button");
    button.append(swatch(place), `${place + 1} ${group.name}`);
    button.title = "show or hide this group";
    button.setAttribute("aria-pressed", "true");
    button.onclick = () => toggle(place, button);
    return button;
  }));
  at("notes").append(...DATA.notes.map((note) => make("li", note)));
  at("sheets").append(...DATA.sheets.map((what) => sheet(what)));
  at("runs").append(sheet(DATA.runs, DATA.links));
  at("of").textContent = `Curves of ${DATA.metric}`;
  at("search").oninput = fill;
  addEventListener("scroll", () => { at("tip").hidden = true; }, { passive: true });
  dark.onchange = () => {
    const cards = [...drawn.keys()];
    cards.forEach(clear);
    cards.forEach(draw);
    paint();
  };
  fill();
}

start();
