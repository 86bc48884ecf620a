(() => {
  const slider = document.querySelector("[data-slider]");
  if (!slider) return;
  const steps = slider.dataset.slider.split(",");
  const range = slider.querySelector("input");
  const output = slider.querySelector("output");
  const strips = document.querySelectorAll("figure[data-step]");
  const show = () => {
    const step = steps[range.value];
    for (const strip of strips) strip.hidden = strip.dataset.step !== step;
    output.textContent = `Step ${Number(step).toLocaleString("en")}`;
    range.setAttribute("aria-valuetext", output.textContent);
  };
  range.addEventListener("input", show);
  slider.hidden = false;
  show();
})();
