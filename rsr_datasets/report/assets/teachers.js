// Teachers as dots with intervals, bars and histograms; colour and shape of each are the same everywhere.

const teachers = data.teachers;
const hasTeachers = data.overview.teachers !== null;
const polygon = (points) => (r) => `M${points.map(([x, y]) => `${x * r},${y * r}`).join("L")}Z`;
const quarter = [
  [0.4, -1.2],
  [0.4, -0.4],
  [1.2, -0.4],
];
const turn = (points, angle) =>
  points.map(([x, y]) => [x * Math.cos(angle) - y * Math.sin(angle), x * Math.sin(angle) + y * Math.cos(angle)]);
const plus = [0, 1, 2, 3].flatMap((quarters) => turn(quarter, (quarters * Math.PI) / 2));
const SHAPES = [
  (r) => `M${-r},0A${r},${r} 0 1 0 ${r},0A${r},${r} 0 1 0 ${-r},0Z`,
  polygon([
    [-0.9, -0.9],
    [0.9, -0.9],
    [0.9, 0.9],
    [-0.9, 0.9],
  ]),
  polygon([
    [0, -1.15],
    [1.1, 0.85],
    [-1.1, 0.85],
  ]),
  polygon([
    [0, -1.25],
    [1.25, 0],
    [0, 1.25],
    [-1.25, 0],
  ]),
  polygon([
    [0, 1.15],
    [1.1, -0.85],
    [-1.1, -0.85],
  ]),
  polygon(plus),
  polygon(turn(plus, Math.PI / 4)),
];

function glyph(index) {
  const [color, shape] = teachers[index].style;
  const path = drawing("path", { d: SHAPES[shape](4.6) });
  path.style.fill = `var(--c${color})`;
  return drawing("svg", { class: "glyph", viewBox: "-6 -6 12 12", "aria-hidden": "true" }, path);
}

const teacherName = (index) =>
  element(
    "span",
    { class: "name", title: teachers[index].name },
    hasTeachers ? glyph(index) : null,
    element("span", { class: "text" }, visible(teachers[index].name)),
  );

const teacherOrder = teachers
  .map((_, index) => index)
  .sort((a, b) => (teachers[a].rsr[0] ?? Infinity) - (teachers[b].rsr[0] ?? Infinity) || a - b);

function drawOverview() {
  const { overview } = data;
  const [rsr, low, high] = overview.rsr;
  const tiles = [
    [whole.format(overview.rows), "rows"],
    [
      whole.format(overview.scored),
      overview.truncated ? `with a score, ${whole.format(overview.truncated)} of them truncated` : "with a score",
    ],
    [overview.problems === null ? null : whole.format(overview.problems), `problems (${overview.problemColumn})`],
    [hasTeachers ? whole.format(overview.teachers) : null, "teachers"],
    [compact.format(overview.tokens), "scored tokens"],
    [overview.images ? whole.format(overview.images) : null, "images"],
    [fixed(rsr), low === null ? "RSR of all rows" : `RSR of all rows [${fixed(low)}, ${fixed(high)}]`],
  ];
  if (overview.selected) {
    tiles.push([
      whole.format(overview.selected.rows),
      `rows selected (${percent(overview.selected.rows, overview.rows)})`,
    ]);
    tiles.push([fixed(overview.selected.rsr[0]), "RSR of the selection"]);
  }
  for (const [value, text] of tiles)
    if (value !== null)
      byId("tiles").append(element("div", { class: "tile" }, element("b", {}, value), element("span", {}, text)));

  const most = Math.max(1, ...overview.statuses.map(([, n]) => n));
  const bars = element("div", { class: "statuses" });
  // One bar alone says what the tiles say.
  for (const [status, n] of overview.scored < overview.rows || overview.truncated ? overview.statuses : [])
    bars.append(
      element("span", {}, visible(status), element("span", { class: "quiet" }, STATUSES[status] ?? "")),
      element("span", { class: "bar", style: { width: `${(100 * n) / most}%` } }),
      element("span", { class: "numbers" }, `${whole.format(n)}  (${percent(n, overview.rows)})`),
    );
  byId("statuses").append(bars);
  drawScoring();
  if (overview.metrics.length) byId("statuses").append(metricTable(overview.metrics));
}

const STATUSES = {
  scored: "on the whole response",
  truncated: "scored on the part that fits",
  skipped_too_long: "longer than the student reads",
  no_response: "nothing to score",
  bad_row: "cannot be read",
  template_dropped_text: "the chat template leaves text out",
  nonfinite: "no surprisal, or not a number",
  pruned: "not read to the end by a selection",
};

function drawScoring() {
  const { scoring, settings } = data.overview;
  const facts = [...scoring, ["ranks clipped at", String(data.rankClip)]];
  if (settings) facts.push(["settings", settings]);
  byId("statuses").append(
    element(
      "dl",
      { class: "facts" },
      ...facts.map(([term, value]) => element("div", {}, element("dt", {}, term), element("dd", {}, visible(value)))),
    ),
  );
  if (!scoring.length)
    byId("statuses").append(
      element(
        "p",
        { class: "quiet" },
        "The data does not say which student gave the scores: score_dataset writes it, build_report(..., scorer=) adds it.",
      ),
    );
}

function metricTable(metrics) {
  const line = (tag, cells) => element("tr", {}, ...cells.map((cell) => element(tag, {}, cell)));
  const rows = metrics.map((metric) => [
    metric.column,
    metric.formula,
    `${metric.direction} is better`,
    metric.value === null ? "–" : Number(metric.value.toPrecision(4)).toString(),
    whole.format(metric.defined),
  ]);
  const head = line("th", ["column", "metric", "", "all rows", "rows where it is defined"]);
  const table = element("table", { class: "metrics" }, head, ...rows.map((row) => line("td", row)));
  return element("details", { class: "help" }, element("summary", {}, "Other metrics"), table);
}

function strip(kind, ...marks) {
  return element("div", { class: `strip ${kind}` }, ...marks);
}

function axisMarks(levels, position, text) {
  return levels.map((level, i) => {
    const at = position(level);
    const edge = at < 0.04 ? "first" : at > 0.96 ? "last" : "";
    return element("span", { class: `tick ${edge}`, style: { left: `${100 * at}%` } }, text(level));
  });
}

const gridMarks = (levels, position) =>
  levels.map((level) => element("span", { class: "grid", style: { left: `${100 * position(level)}%` } }));

function intervalMarks([point, low, high], position, kind, top) {
  if (point === null) return [];
  const marks = [];
  if (low !== null)
    marks.push(
      element("span", {
        class: `interval ${kind}`,
        style: { left: `${100 * position(low)}%`, width: `${100 * (position(high) - position(low))}%`, top },
      }),
    );
  marks.push(element("span", { class: `dot ${kind}`, style: { left: `${100 * position(point)}%`, top } }));
  return marks;
}

function drawTeachers() {
  const { selected, rows: total } = data.overview;
  const before = teachers.map((teacher) => teacher.rsr);
  const after = selected ? teachers.map((teacher) => teacher.selected.rsr ?? [null, null, null]) : [];
  const values = [...before, ...after].flat().filter((value) => value !== null);
  byId("teachers-lead").append(
    "The RSR of each teacher's rows together (Eq. 9), the best first: lower suits the student better. A line is the 95% bootstrap interval.",
  );
  if (selected)
    byId("teachers-lead").append(
      element("br"),
      element("span", { class: "key" }, element("span", { class: "dot" }), "all rows"),
      element("span", { class: "key" }, element("span", { class: "dot after" }), "the selected rows"),
    );
  const chart = byId("teacher-chart");
  chart.classList.toggle("with-shares", Boolean(selected));
  const low = Math.min(...values),
    high = Math.max(...values),
    pad = (high - low) * 0.06 || 0.1;
  const position = (value) => (value - low + pad) / (high - low + 2 * pad);
  const levels = values.length ? linearLevels(low - pad, high + pad, 6) : [];
  const share = (n, of) => (of ? n / of : 0);
  const shares = selected ? teachers.map((t) => [share(t.rows, total), share(t.selected.rows, selected.rows)]) : [];
  const mostShare = Math.max(...shares.flat(), 1e-9);
  const axis = () =>
    element(
      "div",
      { class: "row axis" },
      element("span", { class: "name" }),
      strip("", ...axisMarks(levels, position, tick)),
      element("span", { class: "numbers" }),
    );
  const heads = selected
    ? ["RSR: all → selected · rows", "share of the rows", "all → selected"]
    : ["RSR [95% interval] · rows"];
  const [ofNumbers, ...ofShares] = heads.map((text) => element("span", { class: "numbers" }, text));
  ofShares.forEach((head) => head.classList.add("shares"));
  ofShares[0]?.classList.replace("numbers", "strip");
  chart.append(
    element(
      "div",
      { class: "row head" },
      element("span", { class: "name" }, hasTeachers ? "teacher" : ""),
      strip("", "RSR, lower is better"),
      ofNumbers,
      ...ofShares,
    ),
  );
  if (levels.length && teacherOrder.length > 8) chart.append(axis());
  for (const index of teacherOrder) {
    const teacher = teachers[index];
    const marks = intervalMarks(before[index], position, "", selected ? "32%" : "50%");
    if (selected) marks.push(...intervalMarks(after[index], position, "after", "72%"));
    const text = element("span", { class: "numbers" }, element("b", {}, fixed(teacher.rsr[0])));
    if (selected) text.append(" → ", element("b", {}, fixed(after[index][0])), ` · ${compact.format(teacher.scored)}`);
    else
      text.append(
        teacher.rsr[1] === null ? "" : ` [${fixed(teacher.rsr[1])}, ${fixed(teacher.rsr[2])}]`,
        ` · ${compact.format(teacher.scored)}`,
      );
    const cells = [teacherName(index), strip("", ...gridMarks(levels, position), ...marks), text];
    if (selected) {
      const [was, is] = shares[index];
      cells.push(
        strip(
          "shares",
          was ? element("span", { class: "share", style: { width: `${(100 * was) / mostShare}%`, top: "15%" } }) : "",
          is
            ? element("span", { class: "share after", style: { width: `${(100 * is) / mostShare}%`, top: "55%" } })
            : "",
        ),
        element(
          "span",
          { class: "numbers shares" },
          `${(100 * was).toFixed(1)}% → `,
          element("b", {}, `${(100 * is).toFixed(1)}%`),
        ),
      );
    }
    chart.append(element("div", { class: "row" }, ...cells));
  }
  if (levels.length) chart.append(axis());
}
