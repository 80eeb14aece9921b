// Provenance, the theme, and what is drawn when the page opens.

function drawProvenance() {
  if (!data.provenance.length)
    byId("records").append(
      element(
        "p",
        { class: "quiet" },
        "It has no records: score_dataset and the selections write them; Dataset.map and plain Parquet files do not keep them.",
      ),
    );
  data.provenance.forEach((record, index) =>
    byId("records").append(
      element(
        "details",
        { class: "record" },
        element("summary", {}, `${index + 1}. ${visible(record.step)}`),
        scrollHint(element("pre", { tabindex: 0 }, visible(record.text))),
      ),
    ),
  );
  byId("footer").append(
    `Made by rsr_datasets ${data.version}. Rank-Surprisal Ratio: arXiv:2601.14249. This file loads nothing from elsewhere.`,
  );
}

const SYSTEM = "(prefers-color-scheme: dark)";
const THEMES = { auto: ["◐ system", SYSTEM], light: ["☀ light", "not all"], dark: ["☾ dark", "all"] };
const darkColors = [...document.styleSheets[0].cssRules].find((rule) => rule.media?.mediaText === SYSTEM).media;

function setTheme(theme) {
  [byId("theme").textContent, darkColors.mediaText] = THEMES[theme];
  root.style.colorScheme = theme === "auto" ? "" : theme;
  plots.forEach((plot) => plot.draw());
}

function setUpTheme() {
  let theme = "auto";
  setTheme(theme);
  byId("theme").addEventListener("click", () => {
    const names = Object.keys(THEMES);
    setTheme((theme = names[(names.indexOf(theme) + 1) % names.length]));
  });
  matchMedia(SYSTEM).addEventListener("change", () => setTheme(theme));
  // Canvases keep their colours when printed: paper is light.
  let opened = [];
  addEventListener("beforeprint", () => {
    setTheme("light");
    opened = [...document.querySelectorAll("details:not([open])")];
    opened.forEach((details) => (details.open = true));
  });
  addEventListener("afterprint", () => {
    setTheme(theme);
    opened.forEach((details) => (details.open = false));
  });
}

byId("conclusion-sentences").append(visible(data.conclusion.join(" ")));
drawOverview();
drawTeachers();
drawDiagnosis();
drawDistributions();
drawLegends();
drawPlots();
drawTrajectorySection();
drawProvenance();
document.querySelectorAll("nav, .legend").forEach(scrollHint);
setUpTheme();
