// A trajectory token by token, and the sentences that raise its RSR most.

const view = { problem: -1, shown: [], mode: "ratio" };
const FIRST_UNITS = 700; // drawn at once; the others follow frame by frame, so that a click is answered at once
const UNITS_A_FRAME = 1500;

const ratioOf = (rank, surprisal) => (surprisal > 0 ? Math.min(rank, data.rankClip) / surprisal : Infinity);

// Tokens as they are shown: those that spell one character together are one unit.
function unitsOf(candidate) {
  if (candidate.units) return candidate.units;
  const { text, lengths, ranks, surprisals } = candidate.tokens;
  const units = [];
  let at = 0,
    first = 0;
  lengths.forEach((length, i) => {
    const start = at;
    at += length;
    if (length === 0 && i + 1 < lengths.length) return;
    let rank = 0,
      surprisal = 0,
      clipped = false;
    for (let k = first; k <= i; k++) {
      rank += Math.min(ranks[k], data.rankClip);
      surprisal += surprisals[k];
      clipped ||= ranks[k] > data.rankClip;
    }
    units.push({ text: text.slice(start, at), start, first, last: i, rank, surprisal, clipped });
    first = i + 1;
  });
  candidate.units = units;
  return units;
}

function tokenClass(unit, mode) {
  const { low, neutral, high } = data.tokenScale;
  const size = unit.last - unit.first + 1;
  let side = "h",
    strength;
  if (mode === "rank") strength = Math.log(unit.rank / size) / Math.log(data.rankClip);
  else if (mode === "surprisal") [side, strength] = ["l", unit.surprisal / size / 8];
  else {
    const ratio = unit.surprisal > 0 ? unit.rank / unit.surprisal : high;
    const bounded = Math.min(high, Math.max(low, ratio));
    if (bounded < neutral) [side, strength] = ["l", Math.log(bounded / neutral) / Math.log(low / neutral)];
    else strength = Math.log(bounded / neutral) / Math.log(high / neutral);
  }
  const step = Math.min(6, Math.round(strength * 6.5 - 0.25));
  return step > 0 ? ` ${side}${step}` : "";
}

function unitElement(candidate, index) {
  const unit = candidate.units[index];
  const breaks = /[\n\r]/.test(unit.text) ? " break" : "";
  const made = element(
    "span",
    { class: `token${tokenClass(unit, view.mode)}${unit.clipped ? " clipped" : ""}${breaks}` },
    visible(unit.text),
  );
  made.unit = index;
  return made;
}

function tokenTooltip(candidate, unit) {
  const { ranks, surprisals } = candidate.tokens;
  const parts = [
    element(
      "div",
      { class: "head" },
      visible(unit.text).replace(/\n/g, "↵").replace(/\t/g, "⇥").replace(/ /g, "␣") || "∅",
    ),
  ];
  for (let k = unit.first; k <= unit.last; k++) {
    const ratio = ratioOf(ranks[k], surprisals[k]);
    parts.push([
      [
        "rank",
        ranks[k] > data.rankClip ? `${whole.format(ranks[k])} (counts as ${data.rankClip})` : whole.format(ranks[k]),
      ],
      ["surprisal", `${tick(surprisals[k])} nats`],
      ["token-level RSR", ratio === Infinity ? "∞" : tick(ratio)],
      ["token", whole.format(k + 1)],
    ]);
  }
  if (unit.last > unit.first) parts.push(`${unit.last - unit.first + 1} tokens spell this`);
  return parts;
}

// The text without colours, its formulae drawn.
const plainView = ({ tokens }) => element("div", { class: "plain" }, writtenText(tokens.text));

function tokenView(candidate) {
  const units = unitsOf(candidate);
  const holder = element("div", {
    class: "tokens written",
    dir: "auto",
    tabindex: 0,
    role: "group",
    "aria-label": "Tokens; arrow keys move from one to the next",
  });
  let drawn = 0;
  const drawTo = (end) => {
    const part = document.createDocumentFragment();
    for (; drawn < Math.min(end, units.length); drawn++) part.append(unitElement(candidate, drawn));
    holder.append(part);
  };
  const drawOn = () => {
    if (!holder.isConnected) return;
    drawTo(drawn + UNITS_A_FRAME);
    if (drawn < units.length) requestAnimationFrame(drawOn);
  };
  drawTo(FIRST_UNITS);
  if (drawn < units.length) requestAnimationFrame(() => requestAnimationFrame(drawOn));
  candidate.drawAll = () => drawTo(units.length);

  let cursor = -1;
  const show = (index) => {
    holder.children[cursor]?.classList.remove("cursor");
    cursor = index;
    const made = holder.children[cursor];
    if (!made) return hideTooltip();
    made.classList.add("cursor");
    made.scrollIntoView({ block: "nearest" });
    const box = made.getBoundingClientRect();
    showTooltip(box.left, box.bottom - 8, tokenTooltip(candidate, units[cursor]));
  };
  const point = (event) => {
    const made = event.target.closest(".token");
    if (made) showTooltip(event.clientX, event.clientY + 6, tokenTooltip(candidate, units[made.unit]));
    else hideTooltip();
  };
  holder.addEventListener("pointermove", point);
  holder.addEventListener("pointerdown", point);
  holder.addEventListener("pointerleave", hideTooltip);
  holder.addEventListener("blur", () => show(-1));
  holder.addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    if (!step) return;
    event.preventDefault();
    show(Math.min(drawn - 1, Math.max(0, cursor + step)));
  });
  candidate.holder = holder;
  return holder;
}

// How much lower the trajectory's RSR would be without each sentence or line.
function segmentsOf(candidate) {
  const { text } = candidate.tokens;
  const units = unitsOf(candidate);
  const ranks = candidate.rank * candidate.numTokens,
    surprisals = candidate.surprisal * candidate.numTokens;
  const ends = [...text.matchAll(/[.!?]["')\]}]*\s+|[。！？；]["”』」]*|\n+/g)].map(
    (match) => match.index + match[0].length,
  );
  const segments = [];
  let next = 0;
  units.forEach((unit, i) => {
    // Most tokens of a sentence's first word begin with the space before it.
    const word = unit.text.trimStart();
    const start = word ? unit.start + unit.text.length - word.length : unit.start;
    while (next < ends.length && start >= ends[next]) next++;
    let segment = segments.at(-1);
    if (!segment || segment.end !== next)
      segments.push((segment = { end: next, first: i, last: i, rank: 0, surprisal: 0 }));
    segment.last = i;
    segment.rank += unit.rank;
    segment.surprisal += unit.surprisal;
  });
  for (const segment of segments) {
    const without = (ranks - segment.rank) / (surprisals - segment.surprisal);
    segment.raises = surprisals - segment.surprisal > 1e-6 * surprisals ? candidate.rsr - without : 0;
    segment.text = units
      .slice(segment.first, segment.last + 1)
      .map((unit) => unit.text)
      .join("")
      .trim();
  }
  return segments
    .filter((segment) => segment.text && segment.raises >= 0.0005)
    .sort((a, b) => b.raises - a.raises)
    .slice(0, 5);
}

function segmentList(candidate) {
  const segments = segmentsOf(candidate);
  if (!segments.length) return null;
  const list = element("ol");
  for (const segment of segments)
    list.append(
      element(
        "li",
        {},
        element(
          "button",
          {
            type: "button",
            title: "Show it in the text",
            onclick: () => {
              candidate.drawAll();
              const tokens = candidate.holder.children;
              for (const token of candidate.holder.querySelectorAll(".marked")) token.classList.remove("marked");
              for (let i = segment.first; i <= segment.last; i++) tokens[i].classList.add("marked");
              const body = candidate.holder.parentElement;
              body.scrollTop = tokens[segment.first].offsetTop - body.offsetTop - 40;
            },
          },
          element("b", {}, `+${segment.raises.toFixed(3)}`),
          element("span", { class: "excerpt" }, visible(segment.text.slice(0, 300))),
        ),
      ),
    );
  return element(
    "div",
    { class: "segments" },
    element(
      "h4",
      { title: "The trajectory's RSR less its RSR without the sentence or line" },
      "Sentences that raise its RSR most",
    ),
    list,
  );
}
