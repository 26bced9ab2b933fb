// The picture on the front page: point at a word and see where one attention step looks, and what it brings back.
// Tokens and scores are computed by the page's code cell; only the softmax is done here, because the slider changes it.
(() => {
  "use strict";

  const softmax = (scores) => {
    const top = Math.max(...scores);
    const parts = scores.map((s) => Math.exp(s - top));
    const sum = parts.reduce((a, b) => a + b, 0);
    return parts.map((p) => p / sum);
  };

  const start = (lens) => {
    const { tokens, scores, first } = JSON.parse(lens.querySelector("script").textContent);
    const line = lens.querySelector(".lens-tokens");
    const said = lens.querySelector(".lens-said");
    const slider = lens.querySelector("input");
    const reading = lens.querySelector("output");
    let query = first;

    const words = tokens.map((token, at) => {
      const word = document.createElement("button");
      word.type = "button";
      word.textContent = token;
      word.addEventListener("pointerenter", (event) => event.pointerType === "mouse" && show(at));
      word.addEventListener("focus", () => show(at));
      word.addEventListener("click", () => show(at));
      line.append(word, " ");
      return word;
    });

    const show = (at) => {
      query = at;
      const scale = Number(slider.value);
      reading.textContent = scale.toFixed(1);
      const weights = softmax(scores[at].map((s) => s * scale));
      const brought = new Map();
      words.forEach((word, i) => {
        const weight = weights[i] || 0;
        word.style.setProperty("--weight", weight.toFixed(4));
        word.classList.toggle("query", i === at);
        word.classList.toggle("future", i > at);
        word.classList.toggle("seen", weight > 0.25 && i !== at);
        word.setAttribute("aria-pressed", String(i === at));
        word.title = i <= at ? `weight ${weight.toFixed(3)}` : "the future: hidden";
        if (weight) brought.set(tokens[i], (brought.get(tokens[i]) || 0) + weight);
      });
      const best = [...brought].sort((a, b) => b[1] - a[1]).slice(0, 3);
      said.replaceChildren(
        ...best.map(([token, weight]) => {
          const row = document.createElement("li");
          row.style.setProperty("--weight", weight.toFixed(4));
          const name = document.createElement("b");
          name.textContent = token;
          row.append(name, ` ${Math.round(100 * weight)}%`);
          return row;
        }),
      );
    };
    slider.addEventListener("input", () => show(query));
    show(first);
  };

  document.addEventListener("DOMContentLoaded", () => document.querySelectorAll(".lens").forEach(start));
})();
