// Reads curves off: with the pointer, by touch, or with the arrow keys. Everything else on the page works without it.
"use strict";
const say = (value) => {
  const tiny = value !== 0 && Math.abs(value) < 1e-4;
  const text = tiny ? value.toExponential() : value.toLocaleString("en", { maximumFractionDigits: 8 });
  return text.replaceAll("-", "\u2212");
};
const nearest = (points, step) =>
  points.reduce((best, point) => (Math.abs(point[0] - step) < Math.abs(best[0] - step) ? point : best));
for (const figure of document.querySelectorAll("figure.curve")) {
  const { span, steps, curves } = JSON.parse(figure.dataset.curves);
  const svg = figure.querySelector("svg");
  const cursor = svg.querySelector(".cursor");
  const output = figure.querySelector("output");
  const last = output.textContent;
  const logged = [...new Set(curves.flatMap((curve) => curve.at.map((point) => point[0])))].sort((a, b) => a - b);
  let place = null;
  const show = (number) => {
    place = Math.min(Math.max(number, 0), logged.length - 1);
    const step = logged[place];
    const part = span[0] + (span[1] - span[0]) * (step - steps[0]) / (steps[1] - steps[0]);
    const x = part * svg.viewBox.baseVal.width;
    cursor.setAttribute("x1", x);
    cursor.setAttribute("x2", x);
    cursor.setAttribute("visibility", "visible");
    const values = curves.map((curve) => {
      const [at, value] = nearest(curve.at, step);
      return `${curve.name} ${say(value)}${at === step ? "" : ` (step ${at.toLocaleString("en")})`}`.trim();
    });
    output.textContent = `${values.join(", ")} at step ${step.toLocaleString("en")}`;
  };
  const hide = () => {
    place = null;
    cursor.setAttribute("visibility", "hidden");
    output.textContent = last;
  };
  const follow = (event) => {
    const box = svg.getBoundingClientRect();
    const part = ((event.clientX - box.left) / box.width - span[0]) / (span[1] - span[0]);
    const step = steps[0] + part * (steps[1] - steps[0]);
    show(logged.indexOf(nearest(logged.map((one) => [one]), step)[0]));
  };
  svg.addEventListener("pointermove", follow);
  svg.addEventListener("pointerdown", follow);
  svg.addEventListener("pointerleave", hide);
  figure.addEventListener("blur", hide);
  figure.addEventListener("keydown", (event) => {
    const to = {
      ArrowLeft: place === null ? logged.length - 1 : place - 1,
      ArrowRight: place === null ? 0 : place + 1,
      Home: 0,
      End: logged.length - 1,
    }[event.key];
    if (event.key === "Escape") hide();
    if (to === undefined) return;
    event.preventDefault();
    show(to);
  });
}
