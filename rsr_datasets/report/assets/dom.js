"use strict";

// The base of the other scripts: elements, numbers as text, the tooltip.
//
// All text of the data reaches the page through text nodes: element() and drawing() are the only makers of elements,
// and neither parses markup.

const data = JSON.parse(document.getElementById("data").textContent);
const root = document.documentElement;
const byId = (id) => document.getElementById(id);

function element(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key === "style") Object.assign(made.style, value);
    else if (key === "dataset") Object.assign(made.dataset, value);
    else if (key.startsWith("on")) made.addEventListener(key.slice(2), value);
    else if (key === "class") made.className = value;
    else made.setAttribute(key, value);
  }
  made.append(...children.filter((child) => child !== null && child !== undefined));
  return made;
}

function drawing(tag, attributes = {}, ...children) {
  const made = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

const whole = new Intl.NumberFormat("en-US");
const compact = new Intl.NumberFormat("en-US", { notation: "compact", maximumFractionDigits: 1 });
const count = (n, noun) => `${whole.format(n)} ${noun}${n === 1 ? "" : "s"}`;
const fixed = (value, digits = 3) => (value === null || value === undefined ? "–" : value.toFixed(digits));
const percent = (part, total) => (total ? `${((100 * part) / total).toFixed(1)}%` : "–");
const tick = (value) => (value >= 10000 ? compact.format(value) : String(Number(value.toPrecision(3))));

// Control characters have no picture of their own; escape sequences of terminals would vanish without these.
const visible = (text) =>
  text.replace(/[\u0000-\u0008\u000b-\u001f\u007f]/g, (c) =>
    c === "\u007f" ? "␡" : String.fromCodePoint(0x2400 + c.charCodeAt(0)),
  );

function linearLevels(low, high, most) {
  const power = 10 ** Math.floor(Math.log10((high - low) / most));
  const step = power * [1, 2, 5, 10].find((multiple) => (high - low) / (power * multiple) <= most);
  const levels = [];
  for (let i = Math.ceil(low / step); i * step <= high; i++) levels.push(Number((i * step).toPrecision(6)));
  return levels;
}

// Round numbers for a logarithmic axis; between two that are near each other, multiples of one step.
function roundLevels(low, high, most) {
  const levels = [];
  for (const steps of [[1, 1.5, 2, 3, 4, 5, 6, 8], [1, 1.5, 2, 3, 5, 7], [1, 2, 3, 5], [1, 2, 5], [1, 3], [1]]) {
    levels.length = 0;
    for (let power = Math.floor(Math.log10(low)); power <= Math.ceil(Math.log10(high)); power++)
      for (const step of steps) {
        const level = Number((step * 10 ** power).toPrecision(6));
        if (level >= low && level <= high) levels.push(level);
      }
    if (levels.length < 4 && high > low) return linearLevels(low, high, most);
    if (levels.length <= most) return levels;
  }
  return levels.filter((_, i) => i % Math.ceil(levels.length / most) === 0);
}

const logScale =
  ([low, high]) =>
  (value) =>
    Math.log(Math.min(high, Math.max(low, value)) / low) / Math.log(high / low);

// A box that scrolls says so at the edge where it goes on.
function scrollHint(box) {
  const update = () => {
    box.classList.toggle("more-below", box.scrollHeight - box.clientHeight - box.scrollTop > 8);
    box.classList.toggle("more-right", box.scrollWidth - box.clientWidth - box.scrollLeft > 8);
  };
  box.addEventListener("scroll", update, { passive: true });
  const observer = new ResizeObserver(update);
  for (const each of [box, ...box.children]) observer.observe(each);
  return box;
}

const tooltip = byId("tooltip");
let shownAtScroll = 0;

function showTooltip(x, y, [...parts]) {
  const nodes = parts.filter(Boolean).map((part) => {
    if (typeof part === "string") return element("p", { class: "quiet" }, part);
    if (!Array.isArray(part)) return part;
    return element("dl", {}, ...part.flatMap(([term, value]) => [element("dt", {}, term), element("dd", {}, value)]));
  });
  tooltip.replaceChildren(...nodes);
  tooltip.hidden = false;
  shownAtScroll = scrollY;
  const { width, height } = tooltip.getBoundingClientRect();
  const left = x + 14 + width < innerWidth ? x + 14 : Math.max(4, x - 14 - width);
  const top = y + 14 + height < innerHeight ? y + 14 : Math.max(4, y - 14 - height);
  Object.assign(tooltip.style, { left: `${Math.min(left, Math.max(4, innerWidth - width - 4))}px`, top: `${top}px` });
}

function hideTooltip() {
  tooltip.hidden = true;
}

// A scroll that came before the tooltip, such as that of a focus by keyboard, is told of after it.
addEventListener("scroll", () => Math.abs(scrollY - shownAtScroll) > 4 && hideTooltip(), { passive: true });
