// Typeset the equations of a page, at load and after each change of page.
document$.subscribe(() =>
  renderMathInElement(document.body, {
    delimiters: [
      { left: "\\(", right: "\\)", display: false },
      { left: "\\[", right: "\\]", display: true },
    ],
    output: "htmlAndMathml",
  }),
);
