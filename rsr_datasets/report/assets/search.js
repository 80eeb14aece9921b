// The box that finds a problem by its name or its prompt.

function setUpSearch() {
  const input = byId("problem-search"),
    list = scrollHint(byId("problem-list"));
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
