"use strict";
// What lies beside the page, and which part of it the address asks for.

const MOST_LOADED = 4;
const NUMBERS = typeof RUN === "undefined" ? {} : { rollout: RUN.rollouts, validation: RUN.validations || [] };
const loaded = new Map();  // kind and number of a rollout -> its groups
let followed = {};  // the groups of one prompt, the earliest rollout first

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

function say(text) {
  at("message").textContent = text;
}

// ---- the address says what is shown, so that a view can be bookmarked

const known = (pairs, key) => (pairs.some(([name]) => name === key) ? key : "");

function view() {
  const query = new URLSearchParams(location.hash.slice(1));
  const training = query.has("rollout") || (!query.has("validation") && NUMBERS.rollout.length);
  const kind = training ? "rollout" : "validation";
  const numbers = NUMBERS[kind], wanted = query.get(kind), there = wanted && numbers.includes(Number(wanted));
  return {
    kind,
    number: there ? Number(wanted) : numbers[numbers.length - 1],
    missing: wanted && !there ? wanted : "",
    task: query.get("task") || "",
    group: Math.max(1, Math.floor(Number(query.get("group"))) || 1),
    search: query.get("search") || "",
    sort: known(SORTS, query.get("sort")),
    only: known(ONLY, query.get("only")),
    order: query.get("order") || "",
    follow: query.get("follow") || "",
  };
}

function go(change) {
  const { kind, number, missing, ...rest } = { ...view(), ...change };
  const query = new URLSearchParams(Object.entries({ [kind]: number ?? "", ...rest }).filter(([key, value]) => value !== "" || key === kind));
  location.replace("#" + query);
}

// ---- scripts beside the page, since a page from disk may read no other file

function addRollout(number, groups) {
  loaded.set(`rollout ${number}`, groups);
}

function addValidation(number, groups) {
  loaded.set(`validation ${number}`, groups);
}

const groupsOf = (kind, number) => loaded.get(`${kind} ${number}`) || [];

function load(kind, number, then, failed) {
  const key = `${kind} ${number}`;
  if (loaded.has(key)) return then();
  if (loaded.size >= MOST_LOADED) loaded.delete(loaded.keys().next().value);
  say(`loading ${key} ...`);
  const script = make("script");
  script.src = `${kind}_${String(number).padStart(6, "0")}.js`;
  script.onload = () => { script.remove(); then(); };
  script.onerror = () => { script.remove(); failed(); };
  document.head.append(script);
}

function loadFollowed(kind, id, then) {
  if (followed.kind === kind && followed.id === id) return then();
  const groups = [];
  const next = (place) => {
    if (view().kind !== kind || view().follow !== id) return;
    if (place === NUMBERS[kind].length) {
      followed = { kind, id, groups };
      return then();
    }
    const number = NUMBERS[kind][place];
    const take = () => groups.push(...groupsOf(kind, number).filter((group) => group.id === id));
    load(kind, number, () => { take(); next(place + 1); }, () => next(place + 1));
  };
  next(0);
}

// ---- order and choice of groups

const share = (group, holds) => mean(group.completions.map((c) => Number(Boolean(holds(c)))));
const rewardOf = (group) => mean(group.completions.map((c) => c.reward));

const MEASURES = {
  reward: rewardOf,
  spread: (group) => Math.sqrt(mean(group.completions.map((c) => (c.reward - rewardOf(group)) ** 2))),
  truncated: (group) => share(group, (c) => c.truncated),
  error: (group) => share(group, (c) => c.error),
  dropped: (group) => share(group, (c) => c.valid === false),
};

const SORTS = [
  ["", "as sampled"],
  ["reward", "lowest reward first"],
  ["-reward", "highest reward first"],
  ["spread", "smallest spread first"],
  ["-spread", "largest spread first"],
  ["-truncated", "most truncated first"],
  ["-error", "most errors first"],
  ["-dropped", "dropped first"],
];

const ONLY = [
  ["", "all groups", () => true],
  ["low", "mean reward below 0.5", (group) => rewardOf(group) < 0.5],
  ["high", "mean reward 0.5 or more", (group) => rewardOf(group) >= 0.5],
  ["differ", "rewards that differ", (group) => MEASURES.spread(group) > 0],
  ["equal", "rewards all equal", (group) => MEASURES.spread(group) === 0],
  ["truncated", "with a truncated completion", (group) => MEASURES.truncated(group) > 0],
  ["error", "with an error", (group) => MEASURES.error(group) > 0],
  ["dropped", "with a dropped completion", (group) => MEASURES.dropped(group) > 0],
  ["learned", "learned from", (group) => MEASURES.dropped(group) < 1],
];

const measureOf = (now) => now.sort.replace(/^-/, "") || "reward";

function chosen(now) {
  const words = now.search.toLowerCase();
  const has = (text) => text.toLowerCase().includes(words);
  const [, , fits] = ONLY.find(([key]) => key === now.only);
  const found = groupsOf(now.kind, now.number).filter((group) => (!now.task || group.task === now.task) && fits(group) &&
    (!words || has(group.id) || has(group.prompt) || has(group.gold) || group.completions.some((c) => has(c.text))));
  if (!now.sort) return found;
  const measure = MEASURES[measureOf(now)], sign = now.sort.startsWith("-") ? -1 : 1;
  return found.sort((a, b) => sign * (measure(a) - measure(b)));
}
