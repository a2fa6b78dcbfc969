"use strict";
// Images of a prompt with what was answered drawn over them; coordinates lie on a grid of 0 to 1000 either way.

const SVG = "http://www.w3.org/2000/svg";

function picture(path, group, answers) {
  const frame = make("div", undefined, "image");
  const image = make("img");
  image.onload = () => frame.classList.toggle("tiny", Math.max(image.naturalWidth, image.naturalHeight) < 200);
  image.src = path;
  image.alt = "image of the prompt";
  const drawing = document.createElementNS(SVG, "svg");
  drawing.setAttribute("viewBox", "0 0 1000 1000");
  drawing.setAttribute("preserveAspectRatio", "none");
  for (const { name, completion } of answers) {
    const opacity = 0.3 + 0.7 * Math.min(1, Math.max(0, completion.parts.accuracy || 0));
    drawing.append(drawn(completion, "predicted", `${name}: accuracy ${shown(completion.parts.accuracy)}`, opacity, name));
  }
  drawing.append(drawn(group, "true", "true", 1));
  const marks = labels(group, answers);
  frame.append(image, drawing, ...marks.map((mark) => mark.node));
  new ResizeObserver(() => arrange(frame, marks)).observe(frame);
  return frame;
}

function drawn(what, kind, title, opacity, name) {
  const layer = document.createElementNS(SVG, "g");
  layer.setAttribute("class", kind);
  layer.style.opacity = opacity;
  if (name !== undefined) layer.dataset.name = name;
  const add = (tag, attributes) => {
    const node = document.createElementNS(SVG, tag);
    for (const [key, value] of Object.entries(attributes)) node.setAttribute(key, value);
    const label = document.createElementNS(SVG, "title");
    label.textContent = title;
    node.append(label);
    layer.append(node);
  };
  for (const [left, top, right, bottom] of what.boxes) add("rect", { x: left, y: top, width: right - left, height: bottom - top });
  for (const [x, y] of what.points) add("ellipse", { cx: x, cy: y, rx: 14, ry: 14 });
  return layer;
}

// ---- whose box or point it is; a drawing that is stretched to the image would stretch its text

function labels(group, answers) {
  const marks = [];
  const mark = (what, text, kind, name) => {
    for (const [x, y] of [...what.boxes, ...what.points]) {
      const node = make("span", text, `label ${kind}`);
      if (name !== undefined) {
        node.dataset.name = name;
        node.onmouseenter = () => focus(name);
        node.onmouseleave = () => focus(null);
        node.onclick = () => [...document.querySelectorAll(".card")].find((card) => card.dataset.name === name).scrollIntoView({ block: "center" });
      }
      marks.push({ x, y, node });
    }
  };
  mark(group, "true", "true");
  for (const { name, completion } of answers) mark(completion, name, "predicted", name);
  return marks;
}

function arrange(frame, marks) {
  const placed = marks.map(({ x, y, node }) => ({
    node, at: x * frame.clientWidth / 1000, y: y * frame.clientHeight / 1000 - node.offsetHeight / 2, size: node.offsetWidth, height: node.offsetHeight,
  }));
  const lines = [];
  for (const mark of placed.sort((a, b) => a.y - b.y)) {
    const line = lines[lines.length - 1];
    if (line && mark.y - line.at < line.size && line.width + mark.size <= frame.clientWidth) {
      line.marks.push(mark);
      line.width += mark.size;
    } else lines.push({ at: mark.y, size: mark.height, width: mark.size, marks: [mark] });
  }
  spread(lines, frame.clientHeight);
  for (const line of lines) {
    spread(line.marks.sort((a, b) => a.at - b.at), frame.clientWidth);
    for (const { node, at: left } of line.marks) {
      node.style.left = `${left}px`;
      node.style.top = `${line.at}px`;
    }
  }
}

function spread(things, end) {
  // as near to their places as can be with none on another: first away from the start, then back from the end
  let free = 0;
  for (const thing of things) {
    thing.at = Math.max(thing.at, free);
    free = thing.at + thing.size;
  }
  free = end;
  for (const thing of [...things].reverse()) {
    thing.at = Math.min(thing.at, free - thing.size);
    free = thing.at;
  }
}

function focus(name) {
  for (const layer of document.querySelectorAll(".image .predicted")) {
    layer.classList.toggle("focus", layer.dataset.name === name);
    layer.classList.toggle("rest", name !== null && layer.dataset.name !== name);
  }
}
