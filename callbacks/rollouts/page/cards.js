"use strict";
// A completion as a card. What a run wrote is put into the page as text or as a number, never as markup.

const HOT = 2;  // entropy that has the full color, nats
const STRONG = 2;  // advantage that has the full color

function partsOf(completions) {
  const scored = [...new Set(completions.flatMap((c) => Object.keys(c.parts)))];
  return scored.filter((name) => ["accuracy", "format"].includes(name) || completions.some((c) => c.parts[name]));
}

function card({ name, completion }, parts) {
  const node = make("article", undefined, completion.valid === false ? "card out" : "card");
  node.dataset.name = name;
  const head = make("div");
  head.append(make("span", name, "number"), make("b", shown(completion.reward)));
  const pull = completion.advantage;
  if (pull !== undefined) {
    const advantage = make("span", `A ${signed(pull)}`, "advantage");
    advantage.title = "advantage";
    head.append(advantage);
    const strength = Math.min(1, Math.abs(pull) / STRONG) * 85;
    if (pull) node.style.setProperty("--pull", `color-mix(in srgb, var(--${pull > 0 ? "above" : "below"}) ${strength}%, transparent)`);
  }
  for (const flag of [completion.truncated && "truncated", completion.valid === false && "dropped", completion.error]) {
    if (flag) head.append(make("span", flag, "flag"));
  }
  const bars = make("div", undefined, "parts");
  for (const part of parts) {
    const value = completion.parts[part] ?? null;
    const bar = make("i");
    bar.style.setProperty("--share", Math.min(1, Math.abs(value)));
    bars.append(make("span", part), bar, make("span", part === "shaping" ? signed(value) : shown(value), value < 0 ? "less" : ""));
  }
  node.append(head, bars, heat(completion), make("footer", footer(completion)));
  node.onmouseenter = () => focus(name);
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
