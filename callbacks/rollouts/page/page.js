"use strict";
// What is shown, and what the reader does.

function show() {
  const now = view();
  if (now.number === undefined) return say(now.kind === "validation" && NUMBERS.rollout.length
    ? "No validation is written." : "No rollout is written yet; reload the page in a while.");
  // the reader may have gone on while a rollout was loading
  const still = (render) => () => { if (view().kind === now.kind && view().number === now.number) render(view()); };
  const gone = () => say(`${now.kind} ${now.number} is no longer kept; reload the page`);
  load(now.kind, now.number, still((then) => then.follow ? loadFollowed(then.kind, then.follow, still(renderFollowed)) : render(then)), gone);
}

function controls(now, groups, index) {
  at("kind").value = now.kind;
  options("rollout", NUMBERS[now.kind].map((number) => [number, number]), now.number);
  const tasks = [...new Set(groupsOf(now.kind, now.number).map((group) => group.task))].sort();
  if (now.task && !tasks.includes(now.task)) tasks.push(now.task);
  options("task", [["", "all"], ...tasks.map((task) => [task, task])], now.task);
  // nothing is learned from a validation
  const fits = ([key]) => now.kind === "rollout" || !["-dropped", "dropped", "learned"].includes(key);
  options("sort", SORTS.filter(fits), now.sort);
  options("only", ONLY.filter(fits), now.only);
  at("order").value = now.order;
  if (at("search").value !== now.search) at("search").value = now.search;
  at("place").textContent = now.follow ? "followed" : groups.length ? `${index + 1} of ${groups.length}` : "none";
  at("previous").disabled = now.follow || index < 1;
  at("next").disabled = now.follow || index + 1 >= groups.length;
  at("earlier").disabled = now.number === NUMBERS[now.kind][0];
  at("later").disabled = now.number === NUMBERS[now.kind][NUMBERS[now.kind].length - 1];
  for (const id of ["task", "sort", "only", "search"]) at(id).disabled = Boolean(now.follow);
  at("advantages").hidden = now.kind === "validation";
  at("follow").textContent = now.follow ? "back to the rollout" : "follow this prompt";
  at("main").hidden = !groups.length;
}

function options(id, pairs, value) {
  at(id).replaceChildren(...pairs.map(([key, label]) => {
    const option = make("option", label);
    option.value = key;
    return option;
  }));
  at(id).value = value;
}

function render(now) {
  const groups = chosen(now);
  const index = Math.min(now.group, groups.length) - 1;
  controls(now, groups, index);
  strip(groups, index, now);
  const gone = now.missing ? `${now.kind === "rollout" ? "Rollout" : "Validation"} ${now.missing} is not here. ` : "";
  say(gone + (groups.length ? overview(now, groups) : "No group matches."));
  if (!groups.length) return;
  const group = groups[index];
  const answers = answersOf(group, now, (number) => String(number));
  describe(group, answers);
  const cards = make("div", undefined, "cards");
  const parts = partsOf(group.completions);
  cards.append(...answers.map((answer) => card(answer, parts)));
  at("cards").replaceChildren(cards);
}

function renderFollowed(now) {
  const groups = followed.groups;
  const current = groups.findIndex((group) => group.rollout === now.number);
  controls(now, groups, current);
  strip(groups, current, now);
  if (!groups.length) return say(`${now.follow} is in no ${now.kind} that is kept.`);
  say(`${now.follow} in ${groups.length} of ${NUMBERS[now.kind].length} ${now.kind === "rollout" ? "rollouts" : "validations"}`);
  const all = groups.map((group) => [group, answersOf(group, now, (number) => group.completions.length > 1 ? `${group.rollout}.${number}` : String(group.rollout))]);
  describe(groups[0], all.flatMap(([, answers]) => answers));
  const parts = partsOf(groups.flatMap((group) => group.completions));
  const single = groups.every((group) => group.completions.length === 1);
  const sections = make("div", undefined, single ? "cards" : "");
  sections.append(...all.map(([group, answers]) => {
    const section = make("section", undefined, "followed");
    section.dataset.rollout = group.rollout;
    const cards = make("div", undefined, "cards");
    cards.append(...answers.map((answer) => card(answer, parts)));
    section.append(make("h2", `${named(now, group.rollout)}: mean reward ${shown(rewardOf(group))}`), cards);
    return section;
  }));
  at("cards").replaceChildren(sections);
}

const named = (now, number) => now.kind === "rollout" ? `rollout ${number}` : `validation after ${number} rollouts`;

function answersOf(group, now, name) {
  const answers = group.completions.map((completion, number) => ({ name: name(number), completion }));
  return now.order === "reward" ? answers.sort((a, b) => b.completion.reward - a.completion.reward) : answers;
}

function describe(group, answers) {
  const facts = { task: group.task, type: group.problem_type, id: group.id, "true answer": group.gold };
  at("facts").replaceChildren(...Object.entries(facts).flatMap(([name, value]) => [make("dt", name), make("dd", value)]));
  at("prompt").textContent = group.prompt;
  at("images").replaceChildren(...group.images.map((path) => picture(path, group, answers)));
  const shapes = [group, ...answers.map((answer) => answer.completion)];
  at("drawn").hidden = !group.images.length || !shapes.some((one) => one.boxes.length || one.points.length);
}

function overview(now, groups) {
  const all = groups.flatMap((group) => group.completions);
  const of = (read) => mean(all.map(read));
  const where = named(now, now.number);
  return `${where[0].toUpperCase()}${where.slice(1)}, step ${groups[0].step}, ${now.task || "all tasks"}: ${groups.length} groups, ` +
    `reward ${shown(of((c) => c.reward))}, accuracy ${shown(of((c) => c.parts.accuracy))}, ` +
    `length ${shown(of((c) => c.length), 1)} tokens, entropy ${shown(of((c) => c.entropy))} nats, ` +
    `truncated ${shown(100 * of((c) => c.truncated), 0)} %` +
    (now.kind === "rollout" ? `, dropped ${shown(100 * of((c) => !c.valid), 0)} %` : "");
}

function strip(groups, current, now) {
  const rows = new Map();
  const measure = now.follow ? "reward" : measureOf(now);
  groups.forEach((group, index) => {
    const row = now.follow || now.sort ? "" : group.task;
    if (!rows.has(row)) rows.set(row, row ? [make("small", row)] : []);
    const value = MEASURES[measure](group);
    const button = make("button", shown(value), group.completions.every((c) => c.valid === false) ? "dropped" : "");
    button.style.setProperty("--level", Math.min(1, Math.max(0, value)));
    button.title = `${group.id}: ${measure} ${shown(value)}` + (button.className ? ", dropped" : "");
    if (now.follow) {
      button.prepend(make("small", group.rollout));
      button.title = named(now, group.rollout);
    }
    if (index === current) button.setAttribute("aria-current", "true");
    button.onclick = () => now.follow ? reveal(group.rollout) : go({ group: index + 1 });
    rows.get(row).push(button);
  });
  const what = { reward: "mean reward", spread: "standard deviation of the rewards" }[measure] || `share of completions, ${measure}`;
  at("strip").replaceChildren(make("small", `${what} of each ${now.follow ? now.kind : "group"}:`), ...[...rows.values()].map((nodes) => {
    const row = make("span");
    row.append(...nodes);
    return row;
  }));
}

// ---- what the reader does

function reveal(rollout) {
  document.querySelector(`.followed[data-rollout="${rollout}"]`).scrollIntoView({ block: "start" });
}

function step(by) {
  const now = view();
  if (now.follow || !loaded.has(`${now.kind} ${now.number}`)) return;
  const groups = chosen(now);
  const next = Math.min(now.group, groups.length) + by;
  if (next >= 1 && next <= groups.length) go({ group: next });
}

function move(by) {
  const now = view(), next = NUMBERS[now.kind][NUMBERS[now.kind].indexOf(now.number) + by];
  if (next !== undefined) go({ number: next });
}

function toggleFollow() {
  const now = view(), groups = chosen(now);
  if (now.follow) go({ follow: "" });
  else if (groups.length) go({ follow: groups[Math.min(now.group, groups.length) - 1].id });
}

const other = (kind) => go({ kind, number: undefined, group: 1, follow: "", sort: "", only: "", task: "" });

function start() {
  document.title = at("title").textContent = `Rollouts of ${RUN.title}`;
  at("kind").onchange = (event) => other(event.target.value);
  at("rollout").onchange = (event) => go({ number: Number(event.target.value) });
  for (const id of ["task", "sort", "only"]) at(id).onchange = (event) => go({ [id]: event.target.value, group: 1 });
  at("order").onchange = (event) => go({ order: event.target.value });
  at("search").oninput = (event) => go({ search: event.target.value, group: 1 });
  at("previous").onclick = () => step(-1);
  at("next").onclick = () => step(1);
  at("earlier").onclick = () => move(-1);
  at("later").onclick = () => move(1);
  at("follow").onclick = toggleFollow;
  addEventListener("hashchange", show);
  addEventListener("keydown", (event) => {
    const keys = {
      ArrowLeft: () => step(-1), ArrowRight: () => step(1), "[": () => move(-1), "]": () => move(1), f: toggleFollow,
      v: () => other(view().kind === "rollout" ? "validation" : "rollout"), "/": () => at("search").focus(),
    };
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
