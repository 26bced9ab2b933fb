// The checklist on the progress page: what is ticked is remembered in this browser and nowhere else.
(() => {
  "use strict";
  const PREFIX = "attention-to-silicon:done:";

  document.addEventListener("DOMContentLoaded", () => {
    const boxes = [...document.querySelectorAll("[data-progress] input[data-key]")];
    const sum = document.querySelector("[data-progress-sum]");
    const count = () => {
      if (!sum) return;
      const open = boxes.filter((box) => !box.disabled);
      sum.textContent = `${open.filter((box) => box.checked).length} of ${open.length} done`;
    };
    boxes.forEach((box) => {
      try {
        box.checked = !box.disabled && localStorage.getItem(PREFIX + box.dataset.key) === "1";
      } catch {
        return; // a browser that keeps nothing: the boxes still work until the page is closed
      }
      box.addEventListener("change", () => {
        if (box.checked) localStorage.setItem(PREFIX + box.dataset.key, "1");
        else localStorage.removeItem(PREFIX + box.dataset.key);
        count();
      });
    });
    count();
  });
})();
