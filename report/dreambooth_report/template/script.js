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
    const exported = step === slider.dataset.chosen ? ", exported" : "";
    output.textContent = `Step ${Number(step).toLocaleString("en")}${exported}`;
    range.setAttribute("aria-valuetext", output.textContent);
  };
  range.addEventListener("input", show);
  slider.hidden = false;
  show();
})();
