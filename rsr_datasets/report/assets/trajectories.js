// The candidates of a problem side by side.

const writtenMessages = (messages) =>
  messages.map(({ role, text }) =>
    element("div", {}, role ? element("div", { class: "role" }, role) : null, writtenText(text)),
  );

function candidateView(candidate) {
  const body = element("div", { class: "body" });
  if (candidate.tokens) {
    body.append(view.mode === "text" ? plainView(candidate) : tokenView(candidate));
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
      ...marksOf(candidate),
      element("span", { class: "numbers" }, numbers),
    ),
    scrollHint(body),
    candidate.tokens && candidate.rsr !== null && view.mode !== "text" ? segmentList(candidate) : null,
  );
}

// Whether a candidate was selected, and whether it is correct, where that is known.
function marksOf({ selected, correct }) {
  const marks = selected ? [element("span", { class: "selected badge" }, "selected")] : [];
  if (correct !== null) marks.push(correct ? CORRECT() : INCORRECT());
  return marks;
}

const CORRECT = () =>
  element("span", { class: "correct mark", role: "img", "aria-label": "correct", title: "correct" }, "✓");
const INCORRECT = () =>
  element("span", { class: "incorrect mark", role: "img", "aria-label": "incorrect", title: "incorrect" }, "✗");

// Header, what explains it, the cell of a candidate, and whether a narrow screen leaves the column out.
const COLUMNS = [
  ["RSR", "lower is better", ({ rsr }) => fixed(rsr), false],
  ["average rank", `clipped at ${data.rankClip}`, ({ rank }) => fixed(rank), true],
  ["average surprisal", "nats per token", ({ surprisal }) => fixed(surprisal), true],
  ["length", "scored tokens", ({ numTokens }) => whole.format(numTokens), false],
  ["row", "of the data set", ({ row }) => whole.format(row), true],
];
const STATUS = ["status", "", ({ status }) => (status === "scored" ? "" : visible(status)), false];

function candidateTable(problem) {
  const columns = problem.candidates.some(({ status }) => status !== "scored") ? [...COLUMNS, STATUS] : COLUMNS;
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
      element(
        "span",
        { class: "who" },
        hasTeachers ? teacherName(candidate.teacher) : `row ${whole.format(candidate.row)}`,
        ...marksOf(candidate),
      ),
    );
    const cells = columns.map(([, , cell, isMinor]) =>
      element("td", isMinor ? { class: "minor" } : {}, cell(candidate)),
    );
    return element("tr", { class: box.checked ? "shown" : "" }, element("td", {}, name), ...cells);
  });
  const head = (name, explained, isMinor) =>
    element("th", isMinor ? { class: "minor" } : {}, name, element("span", { class: "explained" }, explained));
  const names = columns.map(([name, explained, , isMinor]) => head(name, explained, isMinor));
  return scrollHint(
    element(
      "div",
      { class: "scroll-x" },
      element(
        "table",
        {},
        element("thead", {}, element("tr", {}, head("candidate", "a tick shows its text below"), ...names)),
        element("tbody", {}, ...rows),
      ),
    ),
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
  if (view.mode === "text") return "";
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
    ...(problem.prompt.length
      ? [
          scrollHint(
            element(
              "div",
              { class: "prompt", tabindex: 0, role: "region", "aria-label": "Prompt" },
              ...writtenMessages(problem.prompt),
            ),
          ),
        ]
      : []),
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

function openProblem(index, chosen) {
  view.problem = (index + problems.length) % problems.length;
  const { candidates } = problems[view.problem];
  // The chosen candidate, or the first selected one, beside the best one or the next.
  const candidate =
    chosen ??
    Math.max(
      0,
      candidates.findIndex(({ selected }) => selected),
    );
  const other = candidate === 0 ? 1 : 0;
  view.shown = [candidate, other].filter((i) => i < candidates.length);
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
