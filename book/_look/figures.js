// Plotly draws a figure as soon as it is read, when the page may not have its final width: fit it once all is there.
// On a narrow screen it cuts long titles off: break them into lines instead, and make room above the figure.
(() => {
  "use strict";
  const PER_CHARACTER = 8;
  const LINE = 19;

  const broken = (text, most) => {
    const lines = [""];
    for (const word of text.replace(/<br\s*\/?>/g, " ").split(/\s+/)) {
      const last = lines[lines.length - 1];
      if (last && last.length + word.length + 1 > most) lines.push(word);
      else lines[lines.length - 1] = last ? `${last} ${word}` : word;
    }
    return lines;
  };

  window.addEventListener("load", () => {
    document.querySelectorAll(".js-plotly-plot").forEach(async (figure) => {
      await window.Plotly.Plots.resize(figure);
      const text = figure.layout && figure.layout.title && figure.layout.title.text;
      const width = figure.clientWidth;
      if (!text || !width || text.length * PER_CHARACTER < width - 30) return;
      const lines = broken(text, Math.max(16, Math.floor((width - 30) / PER_CHARACTER)));
      const above = (figure._fullLayout && figure._fullLayout.margin.t) || 50;
      const change = {
        "title.text": lines.join("<br>"),
        "title.x": 0.02,
        "title.xanchor": "left",
        "title.font.size": 14,
        "margin.t": above + LINE * (lines.length - 1),
      };
      if (figure.layout.height) change.height = figure.layout.height + LINE * (lines.length - 1);
      window.Plotly.relayout(figure, change);
    });
  });
})();
