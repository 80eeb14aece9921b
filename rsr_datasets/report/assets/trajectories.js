// The candidates of a problem side by side, token by token.

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
      "What raises its RSR most",
    ),
    list,
  );
}

const writtenMessages = (messages) =>
  messages.map(({ role, text }) =>
    element(
      "div",
      {},
      role ? element("div", { class: "role" }, role) : null,
      element("p", { class: "written", dir: "auto" }, visible(text)),
    ),
  );

function candidateView(candidate) {
  const body = element("div", { class: "body" });
  if (candidate.tokens) {
    body.append(tokenView(candidate));
    if (candidate.omittedTokens)
      body.append(
        element(
          "p",
          { class: "quiet" },
          `… ${count(candidate.omittedTokens, "more token")}, left out to keep the page small`,
        ),
      );
  } else if (candidate.messages?.length) {
    body.append(...writtenMessages(candidate.messages));
    if (candidate.omittedCharacters)
      body.append(
        element(
          "p",
          { class: "quiet" },
          `… ${count(candidate.omittedCharacters, "more character")}, left out to keep the page small`,
        ),
      );
  } else body.append(element("p", { class: "quiet" }, "The row has no text to show."));
  const numbers =
    candidate.rsr === null
      ? candidate.status
      : `RSR ${fixed(candidate.rsr)} = ${fixed(candidate.rank)} / ${fixed(candidate.surprisal)} · ${count(candidate.numTokens, "token")}`;
  return element(
    "article",
    { class: "candidate" },
    element(
      "header",
      {},
      hasTeachers ? teacherName(candidate.teacher) : null,
      element("span", { class: "numbers" }, numbers),
    ),
    body,
    candidate.tokens && candidate.rsr !== null ? segmentList(candidate) : null,
  );
}

const MINOR = new Set([1, 2, 4]); // columns that a narrow screen leaves out; they stand above the text too

function candidateTable(problem) {
  const rows = problem.candidates.map((candidate, index) => {
    const box = element("input", {
      type: "checkbox",
      onchange: () => {
        view.shown = box.checked ? [...view.shown, index] : view.shown.filter((other) => other !== index);
        box.closest("tr").classList.toggle("shown", box.checked);
        drawCandidates();
      },
    });
    box.checked = view.shown.includes(index);
    const name = element(
      "label",
      {},
      box,
      hasTeachers ? teacherName(candidate.teacher) : `row ${whole.format(candidate.row)}`,
    );
    const status = candidate.status === "scored" ? "" : visible(candidate.status);
    return element(
      "tr",
      { class: box.checked ? "shown" : "" },
      element("td", {}, name),
      ...[
        fixed(candidate.rsr),
        fixed(candidate.rank),
        fixed(candidate.surprisal),
        whole.format(candidate.numTokens),
        whole.format(candidate.row),
        status,
      ].map((text, i) => element("td", { class: MINOR.has(i) ? "minor" : "" }, text)),
    );
  });
  const names = ["RSR", "avg. rank", "avg. surprisal", "tokens", "row", ""].map((text, i) =>
    element("th", { class: MINOR.has(i) ? "minor" : "" }, text),
  );
  const head = [element("th", {}, "candidate"), ...names];
  return element(
    "div",
    { class: "scroll-x" },
    element("table", {}, element("thead", {}, element("tr", {}, ...head)), element("tbody", {}, ...rows)),
  );
}

function colorScale() {
  const { low, neutral, high } = data.tokenScale;
  const swatches = (classes) =>
    element("span", { class: "swatches" }, ...classes.map((name) => element("span", { class: name })));
  const steps = (side) => [1, 2, 3, 4, 5, 6].map((step) => `${side}${step}`);
  const clip = element(
    "span",
    {},
    "· ",
    element("span", { class: "token clipped" }, "underlined"),
    `: rank above ${data.rankClip}`,
  );
  if (view.mode === "rank")
    return element(
      "div",
      { class: "scale" },
      "rank 1",
      swatches(["", ...steps("h")]),
      `${data.rankClip} and more`,
      clip,
    );
  if (view.mode === "surprisal")
    return element("div", { class: "scale" }, "0 nats", swatches(["", ...steps("l")]), "8 and more", clip);
  return element(
    "div",
    { class: "scale" },
    `lowers the RSR · ${tick(low)}`,
    swatches([...steps("l").reverse(), "", ...steps("h")]),
    `${tick(high)} · raises it; no colour at ${fixed(neutral, 2)}, the data set's RSR`,
    clip,
  );
}

function drawTrajectories() {
  const problem = problems[view.problem];
  const hasTokens = problem.candidates.some((candidate) => candidate.tokens);
  byId("color-label").hidden = !hasTokens;
  const left = problem.numCandidates - problem.candidates.length;
  byId("trajectory-view").replaceChildren(
    element("h3", { class: "problem-name" }, visible(problem.label)),
    ...(problem.prompt.length ? [element("div", { class: "prompt" }, ...writtenMessages(problem.prompt))] : []),
    ...problem.images.map((source) => element("img", { class: "thumbnail", src: source, alt: "image of the problem" })),
    candidateTable(problem),
    ...(left
      ? [
          element(
            "p",
            { class: "quiet" },
            `${problem.candidates.length} of its ${whole.format(problem.numCandidates)} candidates are in this page.`,
          ),
        ]
      : []),
    ...(hasTokens ? [colorScale()] : []),
    element("div", { class: "candidates", id: "candidates" }),
  );
  drawCandidates();
}

function drawCandidates() {
  byId("candidates").replaceChildren(
    ...view.shown.map((index) => candidateView(problems[view.problem].candidates[index])),
  );
  hideTooltip();
}

function openProblem(index, candidate = 0) {
  view.problem = (index + problems.length) % problems.length;
  // The chosen candidate beside the best one, or the best beside the next.
  const other = candidate === 0 ? 1 : 0;
  view.shown = [candidate, other].filter((i) => i < problems[view.problem].candidates.length);
  byId("problem-search").value = "";
  byId("problem-search").placeholder = visible(problems[view.problem].label);
  drawTrajectories();
}

function openRow(point) {
  const found = trajectoryOfRow.get(points.row[point]);
  if (found) openProblem(...found);
  else {
    const [, problem, facts] = pointTooltip(point);
    view.problem = -1;
    byId("trajectory-view").replaceChildren(
      element("h3", { class: "problem-name" }, problem.textContent),
      hasTeachers ? teacherName(points.teacher[point]) : "",
      element("p", {}, facts.map(([term, value]) => `${term} ${value}`).join(" · ")),
      element(
        "p",
        { class: "note" },
        problems.length
          ? `The text of this row is not in the page, which holds that of ${count(problems.length, "problem")}; choose one above, or look up row ${points.row[point]} of the data set.`
          : `The page holds no text; look up row ${points.row[point]} of the data set.`,
      ),
    );
    hideTooltip();
  }
  byId("trajectories").scrollIntoView();
}

function drawTrajectorySection() {
  const { texts, overview } = data;
  const lead = byId("trajectories-lead");
  if (!problems.length) {
    const why =
      texts.hasText || texts.hasTokenizer
        ? "There is no row whose text fits in the page."
        : "The data set holds scores without the text of its rows, so there is nothing to read here.";
    lead.append(why);
    return;
  }
  const total = overview.problems ?? overview.rows;
  const noun = overview.problems === null ? "row" : "problem";
  const which =
    problems.length < total
      ? `The text of ${whole.format(problems.length)} of ${count(total, noun)} is in this page, chosen at random`
      : `The text of every ${noun} is in this page`;
  const cut = [...trajectoryOfRow.values()].some(
    ([p, c]) => problems[p].candidates[c].omittedTokens || problems[p].candidates[c].omittedCharacters,
  );
  lead.append(`${which}${cut ? `; longer trajectories are cut off after ${count(texts.tokenLimit, "token")}` : ""}.`);
  if (!texts.hasTokens || !texts.hasTokenizer) {
    const missing = !texts.hasTokens
      ? "The data set has no token columns (RSRScorer(..., token_columns=True) adds them), so trajectories are shown as plain text."
      : "No tokenizer was given (build_report(..., tokenizer=...) takes the student's), so trajectories are shown as plain text.";
    lead.after(element("p", { class: "note" }, missing));
  }
  byId("trajectory-controls").hidden = false;
  byId("problem-previous").addEventListener("click", () => openProblem(view.problem < 0 ? 0 : view.problem - 1));
  byId("problem-next").addEventListener("click", () => openProblem(view.problem + 1));
  byId("color-mode").addEventListener("change", (event) => {
    view.mode = event.target.value;
    if (view.problem >= 0) drawTrajectories();
  });
  setUpSearch();
  openProblem(0);
}

function setUpSearch() {
  const input = byId("problem-search"),
    list = byId("problem-list");
  const searchable = problems.map((problem) =>
    `${problem.label}\n${problem.prompt.map((message) => message.text).join("\n")}`.toLowerCase(),
  );
  let found = [],
    active = 0;
  const close = () => {
    list.hidden = true;
    input.setAttribute("aria-expanded", "false");
  };
  const choose = (index) => {
    close();
    input.blur();
    openProblem(index);
  };
  const activate = (place) => {
    active = Math.max(0, Math.min(found.length - 1, place));
    [...list.children].forEach((item, i) => item.setAttribute("aria-selected", String(i === active)));
    list.children[active]?.scrollIntoView({ block: "nearest" });
  };
  const search = () => {
    const words = input.value.toLowerCase().split(/\s+/).filter(Boolean);
    found = problems
      .map((_, index) => index)
      .filter((index) => words.every((word) => searchable[index].includes(word)))
      .slice(0, 100);
    list.replaceChildren(
      ...found.map((index) =>
        element(
          "li",
          {
            role: "option",
            onmousedown: (event) => {
              event.preventDefault();
              choose(index);
            },
          },
          element("span", { class: "label" }, visible(problems[index].label)),
          element("span", { class: "excerpt" }, visible(problems[index].prompt.at(-1)?.text.slice(0, 200) ?? "")),
        ),
      ),
    );
    if (!found.length) list.append(element("li", { class: "empty" }, "no such problem in this page"));
    list.hidden = false;
    input.setAttribute("aria-expanded", "true");
    activate(0);
  };
  input.addEventListener("input", search);
  input.addEventListener("focus", search);
  input.addEventListener("blur", close);
  input.addEventListener("keydown", (event) => {
    if (event.key === "ArrowDown" || event.key === "ArrowUp") {
      event.preventDefault();
      activate(active + (event.key === "ArrowDown" ? 1 : -1));
    } else if (event.key === "Enter" && found.length) choose(found[active]);
    else if (event.key === "Escape") input.blur();
  });
}
