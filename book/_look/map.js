// The prerequisites map: pointing at a lab lights up what it rests on; labs ticked on the progress page are marked.
(() => {
  "use strict";
  const PREFIX = "attention-to-silicon:done:";

  document.addEventListener("DOMContentLoaded", () => {
    document.querySelectorAll(".prereq-map").forEach((map) => {
      const labs = [...map.querySelectorAll(".lab")];
      const needs = [...map.querySelectorAll(".need")];
      const light = (lab) => {
        const on = new Set(lab ? [lab.dataset.lab, ...lab.dataset.above.split(" ")] : []);
        map.classList.toggle("lit", Boolean(lab));
        labs.forEach((each) => each.classList.toggle("on", on.has(each.dataset.lab)));
        needs.forEach((each) => each.classList.toggle("on", on.has(each.dataset.from) && on.has(each.dataset.to)));
      };
      labs.forEach((lab) => {
        lab.addEventListener("pointerenter", () => light(lab));
        lab.addEventListener("pointerleave", () => light(null));
        lab.addEventListener("focus", () => light(lab));
        lab.addEventListener("blur", () => light(null));
        try {
          lab.classList.toggle("done", localStorage.getItem(PREFIX + lab.dataset.lab) === "1");
        } catch {
          // a browser that keeps nothing
        }
      });
    });
  });
})();
