// The diagnosis: sentences first, then what the metric goes along with and which simpler picks its own are.

function drawDiagnosis() {
  const { sentences, associations, overlaps, metric } = data.diagnosis;
  byId("diagnosis-sentences").append(...sentences.map((text) => element("li", {}, visible(text))));
  const known = associations.filter((each) => each.overall[0] !== null);
  const isGrouped = known.some((each) => each.within[0] !== null);
  const signed = (value) => (value < 0 ? "−" : "") + Math.abs(value).toFixed(2);
  if (known.length)
    drawIntervals(
      `Spearman correlation of ${metric} with`,
      isGrouped ? ["within a problem", "between problems"] : ["over all rows"],
      known.map((each) => [each.trait, ...(isGrouped ? [each.within, each.between] : [each.overall])]),
      [-1, 1],
      signed,
    );
  if (overlaps.length)
    drawIntervals(
      `Picks of ${metric} that are also the`,
      ["share", "by chance"],
      overlaps.map((each) => [each.rule, each.share, [each.chance, null, null]]),
      [0, 1],
      (value) => `${(100 * value).toFixed(0)}%`,
    );
}

function drawIntervals(title, kinds, rows, range, text) {
  // The axis ends near the data: at the whole, half or quarter of the range.
  const farthest = Math.max(...rows.flatMap(([, ...values]) => values.flat()).map(Math.abs));
  const part = [0.25, 0.5, 1].find((each) => farthest <= each) ?? 1;
  const [low, high] = range.map((end) => end * part);
  const levels = linearLevels(low, high, 5);
  const position = (value) => 0.02 + (0.96 * (value - low)) / (high - low);
  const marks = kinds.map((kind, i) =>
    element("span", { class: "key" }, element("span", { class: i ? "dot after" : "dot" }), kind),
  );
  const chart = element("div", { class: "rows" });
  const cells = (name, strip_, numbers) =>
    element(
      "div",
      { class: "row" },
      element("span", { class: "name" }, element("span", { class: "text" }, name)),
      strip_,
      numbers,
    );
  const short = kinds.map((kind) => kind.replace(/ (a problem|problems)$/, ""));
  const head = cells(
    "",
    strip(""),
    element("span", { class: "numbers" }, `${short[0]} [95% interval]${short[1] ? ` · ${short[1]}` : ""}`),
  );
  head.classList.add("head");
  chart.append(head);
  for (const [name, ...values] of rows) {
    const [value, lower, upper] = values[0];
    const interval = lower === null ? "" : ` [${text(lower)}, ${text(upper)}]`;
    const numbers = element(
      "span",
      { class: "numbers" },
      element("b", {}, value === null ? "–" : text(value)),
      interval,
    );
    if (values.length > 1 && values[1][0] !== null) numbers.append(` · ${text(values[1][0])}`);
    const dots = values.flatMap((each, i) =>
      intervalMarks(each, position, i ? "after" : "", values.length > 1 ? ["32%", "72%"][i] : "50%"),
    );
    chart.append(cells(visible(name), strip("", ...gridMarks(levels, position), ...dots), numbers));
  }
  const axis = cells("", strip("", ...axisMarks(levels, position, text)), element("span", { class: "numbers" }));
  axis.classList.add("axis");
  chart.append(axis);
  byId("diagnosis-charts").append(element("p", { class: "lead" }, `${title} `, element("br"), ...marks), chart);
}
