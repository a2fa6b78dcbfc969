"use strict";
// Everything from a run is put into the page as text or as a number, never as markup: completions are not to be trusted.

const HOT = 2;  // entropy that has the full colour, nats
const STRONG = 2;  // advantage that has the full colour
const MOST_LOADED = 4;
const SVG = "http://www.w3.org/2000/svg";
const loaded = new Map();  // number of a rollout -> its groups

const at = (id) => document.getElementById(id);

function make(tag, text, classes) {
  const node = document.createElement(tag);
  if (text !== undefined) node.textContent = text;
  if (classes) node.className = classes;
  return node;
}

const shown = (value, digits = 2) => (value === null || value === undefined ? "-" : value.toFixed(digits));
const signed = (value, digits = 2) => (value > 0 ? "+" : "") + shown(value, digits);
const small = (value) => (value !== null && value < 0.001 ? value.toExponential(1) : shown(value, 3));
const mean = (values) => values.reduce((sum, value) => sum + value, 0) / (values.length || 1);

// ---- the address says what is shown, so that a view can be bookmarked

function view() {
  const query = new URLSearchParams(location.hash.slice(1));
  const numbers = RUN.rollouts;
  const wanted = Number(query.get("rollout"));
  return {
    rollout: numbers.includes(wanted) ? wanted : numbers[numbers.length - 1],
    missing: query.has("rollout") && !numbers.includes(wanted) ? query.get("rollout") : "",
    task: query.get("task") || "",
    group: Math.max(1, Math.floor(Number(query.get("group"))) || 1),
    search: query.get("search") || "",
    order: query.get("order") || "",
  };
}

function go(change) {
  const { missing, ...next } = { ...view(), ...change };
  const query = new URLSearchParams(Object.entries(next).filter(([, value]) => value !== ""));
  location.replace("#" + query);
}

// ---- data: scripts beside the page, since a page from disk may read no other file

function addRollout(number, groups) {
  loaded.set(number, groups);
}

function load(number, then) {
  if (loaded.has(number)) return then();
  if (loaded.size >= MOST_LOADED) loaded.delete(loaded.keys().next().value);
  say(`loading rollout ${number} ...`);
  const script = make("script");
  script.src = `rollout_${String(number).padStart(6, "0")}.js`;
  script.onload = then;
  script.onerror = () => say(`rollout ${number} is no longer kept; reload the page`);
  document.head.append(script);
}

function say(text) {
  at("message").textContent = text;
}

// ---- what is chosen

function chosen(now) {
  const words = now.search.toLowerCase();
  const has = (text) => text.toLowerCase().includes(words);
  return loaded.get(now.rollout).filter((group) => (!now.task || group.task === now.task) &&
    (!words || has(group.id) || has(group.prompt) || has(group.gold) || group.completions.some((c) => has(c.text))));
}

function show() {
  const now = view();
  if (now.rollout === undefined) return say("No rollout is written yet; reload the page in a while.");
  load(now.rollout, () => {
    if (view().rollout === now.rollout) render(now);
  });
}

function render(now) {
  const groups = chosen(now);
  const index = Math.min(now.group, groups.length) - 1;
  options("rollout", RUN.rollouts.map((number) => [number, number]), now.rollout);
  const tasks = [...new Set(loaded.get(now.rollout).map((group) => group.task))].sort();
  if (now.task && !tasks.includes(now.task)) tasks.push(now.task);
  options("task", [["", "all"], ...tasks.map((task) => [task, task])], now.task);
  at("order").value = now.order;
  if (document.activeElement !== at("search")) at("search").value = now.search;
  at("place").textContent = groups.length ? `${index + 1} of ${groups.length}` : "none";
  at("previous").disabled = index < 1;
  at("next").disabled = index + 1 >= groups.length;
  at("earlier").disabled = now.rollout === RUN.rollouts[0];
  at("later").disabled = now.rollout === RUN.rollouts[RUN.rollouts.length - 1];
  at("main").hidden = !groups.length;
  strip(groups, index);
  const gone = now.missing ? `Rollout ${now.missing} is not here. ` : "";
  say(gone + (groups.length ? overview(now, groups) : "No group matches."));
  if (groups.length) renderGroup(groups[index], now);
}

function options(id, pairs, value) {
  at(id).replaceChildren(...pairs.map(([key, label]) => {
    const option = make("option", label);
    option.value = key;
    return option;
  }));
  at(id).value = value;
}

function overview(now, groups) {
  const all = groups.flatMap((group) => group.completions);
  const of = (read) => mean(all.map(read));
  return `Rollout ${now.rollout}, step ${groups[0].step}, ${now.task || "all tasks"}: ${groups.length} groups, ` +
    `reward ${shown(of((c) => c.reward))}, accuracy ${shown(of((c) => c.parts.accuracy))}, ` +
    `length ${shown(of((c) => c.length), 1)} tokens, entropy ${shown(of((c) => c.entropy))} nats, ` +
    `truncated ${shown(100 * of((c) => c.truncated), 0)} %, dropped ${shown(100 * of((c) => !c.valid), 0)} %`;
}

function strip(groups, current) {
  const rows = new Map();
  groups.forEach((group, index) => {
    if (!rows.has(group.task)) rows.set(group.task, [make("small", group.task)]);
    const value = mean(group.completions.map((c) => c.reward));
    const button = make("button", shown(value), group.completions.every((c) => !c.valid) ? "dropped" : "");
    button.style.setProperty("--level", Math.min(1, Math.max(0, value)));
    button.title = `${group.id}: mean reward ${shown(value)}` + (button.className ? ", dropped" : "");
    if (index === current) button.setAttribute("aria-current", "true");
    button.onclick = () => go({ group: index + 1 });
    rows.get(group.task).push(button);
  });
  at("strip").replaceChildren(make("small", "mean reward of each group:"), ...[...rows.values()].map((nodes) => {
    const row = make("span");
    row.append(...nodes);
    return row;
  }));
}

// ---- one group

function renderGroup(group, now) {
  const facts = { task: group.task, type: group.problem_type, id: group.id, "true answer": group.gold };
  at("facts").replaceChildren(...Object.entries(facts).flatMap(([name, value]) => [make("dt", name), make("dd", value)]));
  at("prompt").textContent = group.prompt;
  const order = group.completions.map((_, number) => number);
  if (now.order === "reward") order.sort((a, b) => group.completions[b].reward - group.completions[a].reward);
  at("images").replaceChildren(...group.images.map((path) => picture(path, group)));
  at("drawn").hidden = !group.images.length || ![group, ...group.completions].some((one) => one.boxes.length || one.points.length);
  const scored = Object.keys(group.completions[0].parts);
  const parts = scored.filter((name) => ["accuracy", "format"].includes(name) || group.completions.some((c) => c.parts[name]));
  at("cards").replaceChildren(...order.map((number) => card(group.completions[number], number, parts)));
}

function picture(path, group) {
  const frame = make("div", undefined, "image");
  const image = make("img");
  image.onload = () => frame.classList.toggle("tiny", Math.max(image.naturalWidth, image.naturalHeight) < 200);
  image.src = path;
  image.alt = "image of the prompt";
  const drawing = document.createElementNS(SVG, "svg");
  drawing.setAttribute("viewBox", "0 0 1000 1000");
  drawing.setAttribute("preserveAspectRatio", "none");
  group.completions.forEach((completion, number) => {
    const opacity = 0.3 + 0.7 * Math.min(1, Math.max(0, completion.parts.accuracy || 0));
    drawing.append(drawn(completion, "predicted", `${number}: accuracy ${shown(completion.parts.accuracy)}`, opacity, number));
  });
  drawing.append(drawn(group, "true", "true", 1));
  frame.append(image, drawing);
  return frame;
}

function drawn(what, kind, title, opacity, number) {
  const layer = document.createElementNS(SVG, "g");
  layer.setAttribute("class", kind);
  layer.style.opacity = opacity;
  if (number !== undefined) layer.dataset.number = number;
  const add = (tag, attributes) => {
    const node = document.createElementNS(SVG, tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    const label = document.createElementNS(SVG, "title");
    label.textContent = title;
    node.append(label);
    layer.append(node);
  };
  for (const [left, top, right, bottom] of what.boxes) add("rect", { x: left, y: top, width: right - left, height: bottom - top });
  for (const [x, y] of what.points) add("ellipse", { cx: x, cy: y, rx: 14, ry: 14 });
  return layer;
}

function focus(number) {
  for (const layer of document.querySelectorAll(".image g.predicted")) {
    layer.classList.toggle("focus", layer.dataset.number === String(number));
    layer.classList.toggle("rest", number !== null && layer.dataset.number !== String(number));
  }
}

function card(completion, number, parts) {
  const node = make("article", undefined, completion.valid ? "card" : "card out");
  const pull = completion.advantage;
  const share = Math.min(1, Math.abs(pull) / STRONG) * 85;
  if (pull) node.style.setProperty("--pull", `color-mix(in srgb, var(--${pull > 0 ? "above" : "below"}) ${share}%, transparent)`);
  const head = make("div");
  head.append(make("span", number, "number"), make("b", shown(completion.reward)));
  const advantage = make("span", `A ${signed(pull)}`, "advantage");
  advantage.title = "advantage";
  head.append(advantage);
  for (const flag of [completion.truncated && "truncated", !completion.valid && "dropped", completion.error]) {
    if (flag) head.append(make("span", flag, "flag"));
  }
  const bars = make("div", undefined, "parts");
  for (const name of parts) {
    const value = completion.parts[name];
    const bar = make("i");
    bar.style.setProperty("--share", Math.min(1, Math.abs(value)));
    bars.append(make("span", name), bar, make("span", name === "shaping" ? signed(value) : shown(value), value < 0 ? "less" : ""));
  }
  node.append(head, bars, heat(completion), make("footer", footer(completion)));
  node.onmouseenter = () => focus(number);
  node.onmouseleave = () => focus(null);
  return node;
}

function heat(completion) {
  const text = make("pre");
  completion.tokens.forEach((piece, place) => {
    const entropy = completion.token_entropy[place];
    const special = /^<\|.*\|>$/.test(piece);
    const token = make("span", piece, special ? "end" : "");
    token.style.setProperty("--heat-level", Math.min(1, entropy / HOT));
    token.title = `token ${place + 1}: entropy ${shown(entropy, 3)} nats`;
    text.append(token);
  });
  return text;
}

function footer(completion) {
  const trainer = completion.trainer_logprobs;
  return `${completion.length} tokens, entropy ${shown(completion.entropy)}, ` +
    `log-probability mean ${shown(completion.logprobs.mean)} least ${shown(completion.logprobs.min)}` +
    (trainer ? `; trainer's mean ${shown(trainer.mean)} least ${shown(trainer.min)}, largest gap ${small(trainer.gap)}` : "");
}

// ---- what the reader does

function step(by) {
  const now = view();
  if (!loaded.has(now.rollout)) return;
  const groups = chosen(now);
  const next = Math.min(now.group, groups.length) + by;
  if (next >= 1 && next <= groups.length) go({ group: next });
}

function move(by) {
  const next = RUN.rollouts[RUN.rollouts.indexOf(view().rollout) + by];
  if (next !== undefined) go({ rollout: next });
}

function start() {
  document.title = at("title").textContent = `Rollouts of ${RUN.title}`;
  at("rollout").onchange = (event) => go({ rollout: Number(event.target.value) });
  at("task").onchange = (event) => go({ task: event.target.value, group: 1 });
  at("order").onchange = (event) => go({ order: event.target.value });
  at("search").oninput = (event) => go({ search: event.target.value, group: 1 });
  at("previous").onclick = () => step(-1);
  at("next").onclick = () => step(1);
  at("earlier").onclick = () => move(-1);
  at("later").onclick = () => move(1);
  addEventListener("hashchange", show);
  addEventListener("keydown", (event) => {
    const keys = { ArrowLeft: () => step(-1), ArrowRight: () => step(1), "[": () => move(-1), "]": () => move(1), "/": () => at("search").focus() };
    const typing = ["INPUT", "SELECT"].includes(event.target.tagName);
    if (typing && event.key === "Escape") event.target.blur();
    if (typing || event.ctrlKey || event.metaKey || event.altKey || !keys[event.key]) return;
    event.preventDefault();
    keys[event.key]();
  });
  show();
}

if (typeof RUN === "undefined") say("rollouts.js is missing beside this page.");
else start();
