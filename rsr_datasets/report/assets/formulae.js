// Written text with its formulae drawn as MathML by KaTeX, which is in pages that have any.

const FORMULA = new RegExp(
  [
    String.raw`\$\$(?<display>[^$]+?)\$\$`,
    String.raw`\\\[(?<brackets>[\s\S]+?)\\\]`,
    String.raw`\\\((?<round>[\s\S]+?)\\\)`,
    String.raw`(?<environment>\\begin\{(?<name>(?:align|gather|equation|cases|[bpvV]?matrix)\*?)\}[\s\S]+?\\end\{\k<name>\})`,
    // A price is no formula: no space after the first sign or before the second one, and no digit after it.
    String.raw`(?<![\\$\w])\$(?!\s)(?<inline>(?:[^$\\\n]|\\.)+?)(?<!\s)\$(?![\d$])`,
  ].join("|"),
  "g",
);
// Between two signs, and outside of \text{...}: several words, or an amount of money and a word.
const PROSE = /[a-z]{3,} [a-z]{3,}|^\d[\d.,]*[ ,;)][^\\^_{=+<>*/-]*$/;
const MACROS = { "\\pmb": "\\boldsymbol", "\\fcolorbox": "\\@secondoftwo{#1#2}{\\fbox{#3}}" }; // KaTeX would need styles
const waiting = [];

// A paragraph whose formulae are drawn some in each frame; one that does not parse stays text.
function writtenText(text) {
  const paragraph = element("p", { class: "written", dir: "auto" });
  let end = 0;
  for (const match of typeof katex === "undefined" ? [] : text.matchAll(FORMULA)) {
    const { display, brackets, round, environment, inline } = match.groups;
    if (inline && PROSE.test(inline.replace(/\\\w+\{[^{}]*\}/g, ""))) continue;
    const holder = element("span", {}, visible(match[0]));
    waiting.push([holder, display ?? brackets ?? round ?? environment ?? inline, !(round || inline)]);
    paragraph.append(visible(text.slice(end, match.index)), holder);
    end = match.index + match[0].length;
  }
  paragraph.append(visible(text.slice(end)));
  if (waiting.length) requestAnimationFrame(drawFormulae);
  return paragraph;
}

function drawFormulae() {
  for (const [holder, formula, displayMode] of waiting.splice(0, 60)) {
    const drawn = element("span", { class: displayMode ? "formula display" : "formula", title: formula });
    const options = { output: "mathml", displayMode, strict: "ignore", maxSize: 20, macros: { ...MACROS } };
    try {
      katex.render(formula, drawn, options);
      holder.replaceWith(drawn);
    } catch (error) {
      if (!(error instanceof katex.ParseError)) throw error;
    }
  }
  if (waiting.length) requestAnimationFrame(drawFormulae);
}
