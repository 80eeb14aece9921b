// Trajectories as points: of the plane of rank and surprisal, and of length and RSR.

const points = data.points;
const problems = data.texts.problems;
const numPoints = points.row.length;
const trajectoryOfRow = new Map(); // row -> [problem, candidate] of the texts in the page
problems.forEach((problem, p) =>
  problem.candidates.forEach((candidate, c) => trajectoryOfRow.set(candidate.row, [p, c])),
);
const ringTexts = trajectoryOfRow.size > 0 && points.row.some((row) => !trajectoryOfRow.has(row));
const hasSelection = data.overview.selected !== null;
const [truncatedPoints, selectedPoints, correctPoints, incorrectPoints] = [
  points.truncated,
  points.selected,
  points.correct,
  points.incorrect,
].map((indices) => new Set(indices));
const highlighted = new Set(); // teachers that are not faded; all of them where it is empty
const plots = [];
const isFaded = (teacher) => highlighted.size > 0 && !highlighted.has(teacher);

class Plot {
  constructor(holder, { x, y, xLimits, yLimits, xLabel, yLabel, below, above, label }) {
    Object.assign(this, { x, y, xLimits, yLimits, xLabel, yLabel, below, above, current: -1 });
    this.canvas = element("canvas", { role: "img", "aria-label": label, tabindex: 0 });
    holder.append(this.canvas);
    this.byX = [...x.keys()].sort((a, b) => x[a] - x[b]);
    this.canvas.addEventListener("pointermove", (event) => this.hover(event));
    this.canvas.addEventListener("pointerleave", () => this.select(-1));
    this.canvas.addEventListener("click", (event) => {
      this.hover(event);
      if (this.current >= 0) openRow(this.current);
    });
    this.canvas.addEventListener("keydown", (event) => this.key(event));
    this.canvas.addEventListener("blur", () => this.select(-1));
    new ResizeObserver(() => this.draw()).observe(holder);
    plots.push(this);
  }

  measure() {
    this.width = this.canvas.parentElement.clientWidth;
    this.height = Math.round(Math.min(560, Math.max(320, this.width * 0.56)));
    this.margin = { left: 46, right: 40, top: 22, bottom: 44 };
    const { left, right, top, bottom } = this.margin;
    const across = logScale(this.xLimits),
      up = logScale(this.yLimits);
    this.toX = (value) => left + across(value) * (this.width - left - right);
    this.toY = (value) => this.height - bottom - up(value) * (this.height - top - bottom);
    this.px = this.x.map(this.toX);
    this.py = this.y.map(this.toY);
  }

  draw() {
    this.measure();
    if (!this.width) return; // not shown yet; drawn once it has a size
    const ratio = devicePixelRatio || 1;
    this.canvas.width = this.width * ratio;
    this.canvas.height = this.height * ratio;
    this.canvas.style.height = `${this.height}px`;
    // Everything but the mark of the current point, which would else cost a redraw of them all.
    this.picture = element("canvas", { width: this.canvas.width, height: this.canvas.height });
    const pen = this.picture.getContext("2d");
    pen.scale(ratio, ratio);
    const colors = themeColors();
    pen.font = `12px ${getComputedStyle(document.body).fontFamily}`;
    this.drawAxes(pen, colors);
    this.below?.(pen, this, colors);
    const stamps = [false, true].map((ring) =>
      [false, true].map((filled) => teachers.map((_, i) => this.stamp(i, colors, ratio, ring, filled))),
    );
    const alpha = Math.min(0.9, Math.max(0.35, 40 / Math.sqrt(numPoints)));
    const layers = [0, 1, 2].map(() => []);
    for (let i = 0; i < numPoints; i++) layers[isFaded(points.teacher[i]) ? 0 : selectedPoints.has(i) ? 2 : 1].push(i);
    layers.forEach((layer, depth) =>
      layer.forEach((i) => {
        const isRinged = ringTexts && trajectoryOfRow.has(points.row[i]);
        const isFilled = !hasSelection || selectedPoints.has(i);
        pen.globalAlpha = !depth ? 0.07 : isRinged || depth === 2 ? 1 : alpha;
        const stamp = stamps[Number(isRinged)][Number(isFilled)][points.teacher[i]];
        pen.drawImage(stamp, this.px[i] - 6, this.py[i] - 6, 12, 12);
      }),
    );
    pen.globalAlpha = 1;
    this.above?.(pen, this, colors);
    this.pen = this.canvas.getContext("2d");
    this.pen.scale(ratio, ratio);
    this.colors = colors;
    this.mark();
  }

  // One marker drawn once: thousands of paths would make every redraw slow.
  stamp(index, colors, ratio, ring, filled) {
    const stamp = element("canvas", { width: 12 * ratio, height: 12 * ratio });
    const pen = stamp.getContext("2d");
    pen.scale(ratio, ratio);
    pen.translate(6, 6);
    const [color, shape] = teachers[index].style;
    const path = new Path2D(SHAPES[shape](numPoints > 3000 ? 2.6 : numPoints > 300 ? 3.2 : 4.2));
    pen.fillStyle = colors.series[color];
    pen.globalAlpha = filled ? 1 : 0.15;
    pen.fill(path);
    pen.globalAlpha = 1;
    pen.strokeStyle = ring ? colors.text : colors.series[color];
    if (ring || !filled) pen.stroke(path);
    return stamp;
  }

  drawAxes(pen, colors) {
    const { left, right, top, bottom } = this.margin;
    pen.strokeStyle = colors.line;
    pen.fillStyle = colors.muted;
    pen.lineWidth = 1;
    pen.textAlign = "center";
    pen.textBaseline = "top";
    for (const level of roundLevels(...this.xLimits, this.width < 520 ? 5 : 9)) {
      const at = Math.round(this.toX(level)) + 0.5;
      line(pen, at, top, at, this.height - bottom);
      pen.fillText(tick(level), at, this.height - bottom + 6);
    }
    pen.textAlign = "right";
    pen.textBaseline = "middle";
    for (const level of roundLevels(...this.yLimits, 8)) {
      const at = Math.round(this.toY(level)) + 0.5;
      line(pen, left, at, this.width - right, at);
      pen.fillText(tick(level), left - 6, at);
    }
    pen.fillStyle = colors.text;
    pen.textAlign = "center";
    pen.textBaseline = "bottom";
    pen.fillText(this.xLabel, (left + this.width - right) / 2, this.height - 3);
    pen.textAlign = "left";
    pen.textBaseline = "top";
    pen.fillText(this.yLabel, 2, 1);
  }

  mark() {
    this.pen.clearRect(0, 0, this.width, this.height);
    this.pen.drawImage(this.picture, 0, 0, this.width, this.height);
    if (this.current < 0) return;
    const at = [this.px[this.current], this.py[this.current]];
    this.pen.beginPath();
    this.pen.arc(...at, 8, 0, 2 * Math.PI);
    this.pen.strokeStyle = this.colors.text;
    this.pen.lineWidth = 2;
    this.pen.stroke();
  }

  hover(event) {
    const box = this.canvas.getBoundingClientRect();
    const x = event.clientX - box.left,
      y = event.clientY - box.top;
    let nearest = -1,
      least = event.pointerType === "touch" ? 24 ** 2 : 14 ** 2;
    for (let i = 0; i < numPoints; i++) {
      const distance = (this.px[i] - x) ** 2 + (this.py[i] - y) ** 2;
      if (distance < least && !isFaded(points.teacher[i])) [nearest, least] = [i, distance];
    }
    this.select(nearest);
  }

  key(event) {
    const step = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1 }[event.key];
    if (step) {
      event.preventDefault();
      const open = this.byX.filter((i) => !isFaded(points.teacher[i]));
      const place = open.indexOf(this.current);
      this.select(open[Math.min(open.length - 1, Math.max(0, place + step))] ?? -1);
    } else if (event.key === "Enter" && this.current >= 0) openRow(this.current);
  }

  select(index) {
    if (index !== this.current) {
      this.current = index;
      this.mark();
    }
    if (index < 0) return hideTooltip();
    const box = this.canvas.getBoundingClientRect();
    showTooltip(box.left + this.px[index], box.top + this.py[index], pointTooltip(index));
  }
}

function line(pen, x0, y0, x1, y1) {
  pen.beginPath();
  pen.moveTo(x0, y0);
  pen.lineTo(x1, y1);
  pen.stroke();
}

function themeColors() {
  const style = getComputedStyle(root);
  const color = (name) => style.getPropertyValue(`--${name}`).trim();
  return {
    text: color("text"),
    muted: color("muted"),
    line: color("line"),
    bg: color("bg"),
    series: [0, 1, 2, 3, 4, 5, 6].map((i) => color(`c${i}`)),
  };
}

function pointTooltip(index) {
  const facts = [
    ["RSR", fixed(points.rsr[index])],
    ["average rank", fixed(points.rank[index])],
    ["average surprisal", `${fixed(points.surprisal[index])} nats`],
    ["tokens", whole.format(points.tokens[index])],
    ["row", whole.format(points.row[index])],
  ];
  if (truncatedPoints.has(index)) facts.push(["status", "truncated"]);
  if (correctPoints.has(index) || incorrectPoints.has(index))
    facts.push(["correct", correctPoints.has(index) ? "✓ yes" : "✗ no"]);
  if (hasSelection) facts.push(["selected", selectedPoints.has(index) ? "yes" : "no"]);
  const head = hasTeachers ? teacherName(points.teacher[index]) : null;
  const problem = points.problemLabels[points.problem[index]];
  const hint = trajectoryOfRow.has(points.row[index]) ? "click to read it" : "its text is not in this page";
  return [head, element("div", { class: "head" }, visible(problem)), facts, hint];
}

function drawIsoLines(pen, plot, colors) {
  const [xLow, xHigh] = plot.xLimits,
    [yLow, yHigh] = plot.yLimits;
  pen.strokeStyle = colors.text;
  pen.fillStyle = colors.muted;
  pen.lineWidth = 0.8;
  pen.setLineDash([5, 4]);
  for (const level of data.plane.levels) {
    const from = Math.max(xLow, yLow / level),
      to = Math.min(xHigh, yHigh / level);
    if (from >= to) continue;
    line(pen, plot.toX(from), plot.toY(from * level), plot.toX(to), plot.toY(to * level));
    const atTop = to < xHigh;
    pen.textAlign = atTop ? "center" : "left";
    pen.textBaseline = atTop ? "bottom" : "middle";
    pen.fillText(tick(level), plot.toX(to) + (atTop ? 0 : 5), plot.toY(to * level) - (atTop ? 3 : 0));
  }
  pen.setLineDash([]);
  pen.textAlign = "right";
  pen.textBaseline = "top";
  pen.fillText("RSR", plot.width - 2, 4);
}

function drawTrendBand(pen, plot, colors) {
  const at = (row, k) => [plot.toX(row[0]), plot.toY(row[k])];
  pen.beginPath();
  data.trend.forEach((row) => pen.lineTo(...at(row, 1)));
  [...data.trend].reverse().forEach((row) => pen.lineTo(...at(row, 3)));
  pen.fillStyle = colors.muted;
  pen.globalAlpha = 0.25;
  pen.fill();
  pen.globalAlpha = 1;
}

function drawTrendLine(pen, plot, colors) {
  pen.beginPath();
  data.trend.forEach((row) => pen.lineTo(plot.toX(row[0]), plot.toY(row[2])));
  pen.strokeStyle = colors.text;
  pen.lineWidth = 2;
  pen.stroke();
}

function drawPlots() {
  const { overview } = data;
  if (!numPoints) {
    byId("plane-lead").append("No row has a score.");
    byId("length-lead").append("No row has a score.");
    return;
  }
  const sampled =
    numPoints < overview.scored
      ? ` ${whole.format(numPoints)} of ${whole.format(overview.scored)} trajectories are drawn, sampled at random${hasTeachers && overview.teachers > 1 ? ", evenly over the teachers" : ""}.`
      : " Every trajectory with a score is drawn.";
  const click = ringTexts
    ? " Those with an outline have their text in this page; a click opens it."
    : problems.length
      ? " A click opens the trajectory."
      : "";
  const lost = hasSelection ? overview.selected.rows - overview.selected.found : 0;
  byId("plane-lead").append(
    `One point a trajectory; each dashed line is one RSR, and the farther to the lower right, the better for the student.${sampled}${click}`,
  );
  if (lost) byId("plane-lead").append(` ${count(lost, "selected row")} cannot be marked: no scored row is equal.`);
  if (hasSelection)
    for (const legend of document.querySelectorAll("[data-selection]"))
      legend.append(
        element("span", { class: "key" }, element("span", { class: "selected disc" }), "selected"),
        element("span", { class: "key" }, element("span", { class: "disc" }), "not selected"),
      );
  new Plot(byId("plane-plot"), {
    x: points.surprisal,
    y: points.rank,
    xLimits: data.plane.surprisal,
    yLimits: data.plane.rank,
    above: drawIsoLines,
    xLabel: "average surprisal (nats per token)",
    yLabel: `average rank, clipped at ${data.rankClip}`,
    label:
      "Scatter plot of average rank against average surprisal. Arrow keys move from point to point, Enter opens one.",
  });
  byId("length-lead").append(
    data.trend.length
      ? "The line is the median RSR of all trajectories of about that length, the band their middle half; the points are those of the plane."
      : "The points are those of the plane.",
  );
  new Plot(byId("length-plot"), {
    x: points.tokens,
    y: points.rsr,
    xLimits: data.axes.tokens,
    yLimits: data.axes.rsr,
    below: drawTrendBand,
    above: drawTrendLine,
    xLabel: "length (scored tokens)",
    yLabel: "RSR",
    label: "Scatter plot of RSR against length. Arrow keys move from point to point, Enter opens one.",
  });
}

function drawLegends() {
  const legends = [...document.querySelectorAll("[data-legend]")];
  if (!hasTeachers || teachers.length < 2) return;
  const update = () => {
    for (const legend of legends) {
      legend.classList.toggle("filtered", highlighted.size > 0);
      for (const button of legend.children)
        button.setAttribute("aria-pressed", String(highlighted.has(Number(button.dataset.teacher))));
    }
    plots.forEach((plot) => plot.draw());
  };
  for (const legend of legends)
    for (const index of teacherOrder)
      legend.append(
        element(
          "button",
          {
            type: "button",
            title: `Show ${teachers[index].name} alone, or with others`,
            "aria-pressed": "false",
            dataset: { teacher: index },
            onclick: () => {
              if (!highlighted.delete(index)) highlighted.add(index);
              update();
            },
          },
          glyph(index),
          element("span", { class: "text" }, visible(teachers[index].name)),
        ),
      );
}
