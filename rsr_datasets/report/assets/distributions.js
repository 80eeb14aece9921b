// How RSR and length are distributed, teacher by teacher.

function drawDistributions() {
  const chart = byId("distribution-chart");
  const scales = { rsr: logScale(data.axes.rsr), tokens: logScale(data.axes.tokens) };
  const levels = { rsr: roundLevels(...data.axes.rsr, 5), tokens: roundLevels(...data.axes.tokens, 5) };
  const format = { rsr: (value) => fixed(value, 2), tokens: (value) => count(Math.round(value), "token") };
  const axisCell = (key) =>
    element(
      "div",
      { class: "cell" },
      strip("", ...axisMarks(levels[key], scales[key], tick)),
      element("span", { class: "numbers" }),
    );
  const axis = () =>
    element("div", { class: "row axis" }, element("span", { class: "name" }), axisCell("rsr"), axisCell("tokens"));
  chart.append(
    element(
      "div",
      { class: "row head" },
      element("span", { class: "name" }, hasTeachers ? "teacher" : ""),
      ...["RSR of a trajectory, lower is better", "length of a trajectory in scored tokens"].map((text) =>
        element("div", { class: "cell" }, element("span", {}, text), element("span", { class: "numbers" }, "median")),
      ),
    ),
    axis(),
  );
  byId("distributions-lead").append(
    "All trajectories with a score, on logarithmic axes. The line is the median, the bar below it the middle half.",
    teachers.some(({ distributions }) => distributions.rsr?.bins)
      ? " The first and last bins hold what lies beyond the axis."
      : "",
    teachers.some(({ distributions }) => distributions.rsr?.values)
      ? " Where trajectories are few, each is a dot."
      : "",
  );
  for (const index of teacherOrder) {
    const cells = ["rsr", "tokens"].map((key) =>
      histogram(
        teachers[index].distributions[key],
        teachers[index].style[0],
        scales[key],
        levels[key],
        format[key],
        key,
      ),
    );
    chart.append(element("div", { class: "row" }, teacherName(index), ...cells));
  }
  if (teacherOrder.length > 8) chart.append(axis());
}

function histogram(distribution, color, position, levels, format, key) {
  const plot = element("div", { class: "histogram" }, ...gridMarks(levels, position));
  const cell = element(
    "div",
    { class: "cell" },
    plot,
    element("span", { class: "numbers" }, distribution ? format(distribution.quartiles[1]) : "none scored"),
  );
  if (!distribution) return cell;
  const { bins, values, quartiles } = distribution;
  const [lower, median, upper] = quartiles.map(position);
  const label = `${key === "rsr" ? "RSR" : "Length"}: median ${format(quartiles[1])}, middle half from ${format(quartiles[0])} to ${format(quartiles[2])}`;
  const marks = values ? element("div", { class: "spots" }, ...spots(values.map(position), color)) : bars(bins, color);
  marks.setAttribute("role", "img");
  marks.setAttribute("aria-label", label);
  plot.append(
    marks,
    element("span", { class: "half", style: { left: `${100 * lower}%`, width: `${100 * (upper - lower)}%` } }),
    element("span", { class: "median", style: { left: `${100 * median}%` } }),
  );
  cell.title = label;
  return cell;
}

function bars(bins, color) {
  const most = Math.max(...bins);
  const steps = bins.map((share, i) => `V${(100 * (1 - share / most)).toFixed(1)}H${i + 1}`).join("");
  const path = drawing("path", { d: `M0,100${steps}V100Z`, "fill-opacity": 0.75 });
  path.style.fill = `var(--c${color})`;
  return drawing("svg", { viewBox: `0 0 ${bins.length} 100`, preserveAspectRatio: "none" }, path);
}

// A dot each, in ascending order; one that would hide another is drawn above it.
function spots(places, color) {
  const ends = [];
  return places.map((place) => {
    const free = ends.findIndex((end) => place - end > 0.03);
    const lane = free < 0 ? ends.length : free;
    ends[lane] = place;
    const background = `var(--c${color})`;
    return element("span", { class: "spot", style: { left: `${100 * place}%`, bottom: `${7 * lane}px`, background } });
  });
}
