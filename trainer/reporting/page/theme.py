"""The report's style sheet and script, kept as text so that the page needs no other file."""

from __future__ import annotations

STYLE = """
:root {
  color-scheme: light dark;
  --page: #f6f6f4; --card: #ffffff; --line: #e4e3df; --ink: #1c1d21; --soft: #62646d;
  --faint: #8b8d96; --d: #2f6fd0; --g: #d9601a; --real: #12866f; --fake: #b83280;
  --a: #4b57c4; --b: #a86a00; --c: #5b6b7d; --good: #12866f; --bad: #c0362c;
  --r0: #2f6fd0; --r1: #d9601a; --r2: #12866f; --r3: #b83280; --r4: #7a4fc9; --r5: #8a7400;
  --r6: #c0362c; --r7: #4d6472;
}
@media (prefers-color-scheme: dark) {
  :root {
    --page: #131417; --card: #1c1d22; --line: #2f3138; --ink: #ececef; --soft: #a5a8b3;
    --faint: #7d808c; --d: #6ea6f5; --g: #f59253; --real: #3fc3a4; --fake: #ee7bb9;
    --a: #98a2fb; --b: #e0ab4c; --c: #9fb0c3; --good: #3fc3a4; --bad: #f5857b;
    --r0: #6ea6f5; --r1: #f59253; --r2: #3fc3a4; --r3: #ee7bb9; --r4: #b79af2; --r5: #d8c04a;
    --r6: #f5857b; --r7: #a3bac7;
  }
}
* { box-sizing: border-box; }
body {
  margin: 0 auto; padding: 40px 28px 56px; max-width: 1240px; background: var(--page);
  color: var(--ink); font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Noto Sans",
  "Liberation Sans", sans-serif; font-variant-numeric: tabular-nums;
}
h1 { margin: 0; font-size: 30px; line-height: 1.2; letter-spacing: -0.02em;
  overflow-wrap: anywhere; }
h2 { margin: 44px 0 14px; font-size: 19px; letter-spacing: -0.01em; }
h2 small { margin-left: 10px; color: var(--soft); font-size: 13px; font-weight: 400;
  letter-spacing: 0; }
h3 { margin: 0; font-size: 15px; }
header .title { display: flex; flex-wrap: wrap; align-items: center; gap: 8px 14px; }
header p { margin: 6px 0 0; color: var(--soft); }
.chip {
  padding: 2px 11px; border: 1px solid var(--line); border-radius: 99px; background: var(--card);
  color: var(--soft); font-size: 13px; overflow-wrap: anywhere;
}
.state::before {
  content: ""; display: inline-block; width: 8px; height: 8px; margin-right: 7px;
  border-radius: 50%; background: var(--faint);
}
.state.finished::before { background: var(--good); }
.state.running::before { background: var(--d); }
.state.interrupted::before { background: var(--bad); }
.bar { height: 6px; margin: 22px 0 0; border-radius: 3px; background: var(--line);
  overflow: hidden; }
.bar > div { height: 100%; border-radius: 3px; background: var(--d); }
.bar.finished > div { background: var(--good); }
.card { margin: 0; padding: 16px 18px; border: 1px solid var(--line); border-radius: 10px;
  background: var(--card); min-width: 0; }
.tiles { display: grid; grid-template-columns: repeat(auto-fit, minmax(150px, 1fr)); gap: 12px;
  margin-top: 18px; }
.tiles .card { padding: 12px 16px; }
.tiles dt { color: var(--soft); font-size: 13px; }
.tiles dd { margin: 0; font-size: 21px; font-weight: 600; letter-spacing: -0.01em; }
.tiles small { display: block; color: var(--faint); font-size: 13px; font-weight: 400;
  letter-spacing: 0; }
.problems { margin-top: 18px; border-left: 4px solid var(--bad); }
.problems p { margin: 0; }
.grids { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(420px, 100%), 1fr));
  gap: 14px; align-items: start; }
.grids figure:only-child { max-width: 860px; }
.grids figcaption { display: flex; flex-wrap: wrap; justify-content: space-between;
  gap: 2px 16px; margin-bottom: 10px; }
.grids figcaption p { width: 100%; margin: 4px 0 0; color: var(--soft); font-size: 13px; }
.grids figcaption .legend { width: 100%; }
.grids output, .grids figcaption span { color: var(--soft); font-size: 14px; }
.grids img { display: block; width: 100%; height: auto; border-radius: 6px; }
.frame[hidden] { display: none; }
.distributions svg { display: block; width: 100%; height: auto; }
.distributions text { fill: var(--faint); font-size: 11px; }
.distributions .end { text-anchor: end; } .distributions .middle { text-anchor: middle; }
.distributions .line { stroke-width: 2; }
.anchor { fill: currentColor; fill-opacity: 0.13; stroke: currentColor; stroke-opacity: 0.45; }
.slider { display: flex; align-items: center; gap: 12px; margin-top: 12px; }
.slider input { flex: 1; min-width: 0; accent-color: var(--d); }
.slider button { width: 34px; height: 30px; border: 1px solid var(--line); border-radius: 7px;
  background: var(--page); color: var(--ink); font-size: 12px; cursor: pointer; }
.charts { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(430px, 100%), 1fr));
  gap: 14px; }
.chart { position: relative; display: flex; flex-direction: column; }
.chart figcaption { display: flex; flex-wrap: wrap; justify-content: space-between; gap: 0 16px;
  margin-bottom: 10px; flex: 1; align-content: flex-start; }
.chart figcaption p { width: 100%; margin: 1px 0 0; color: var(--soft); font-size: 13px; }
.chart em { font-style: normal; color: var(--faint); }
.chart svg { display: block; width: 100%; height: auto; touch-action: pan-y; }
.chart text { fill: var(--faint); font-size: 11px; }
.chart .end { text-anchor: end; } .chart .middle { text-anchor: middle; }
.rule { stroke: var(--line); fill: none; }
.mark { stroke: currentColor; stroke-dasharray: 4 3; }
.line { fill: none; stroke: currentColor; stroke-width: 1.7; stroke-linejoin: round;
  stroke-linecap: round; }
.raw { stroke-width: 1; opacity: 0.35; }
.band { fill: currentColor; opacity: 0.13; }
circle { fill: currentColor; }
.pointer { stroke: var(--faint); stroke-dasharray: 3 3; }
.chart svg text.at { fill: var(--soft); }
.legend { display: flex; flex-wrap: wrap; gap: 2px 16px; margin: 0; padding: 0; list-style: none;
  font-size: 13px; color: var(--soft); }
.legend i { display: inline-block; width: 14px; height: 3px; margin: 0 7px 3px 0;
  border-radius: 2px; background: currentColor; }
.legend b { color: var(--ink); font-weight: 600; }
.d { color: var(--d); } .g { color: var(--g); } .real { color: var(--real); }
.fake { color: var(--fake); } .a { color: var(--a); } .b { color: var(--b); }
.c { color: var(--c); }
.anchor1 { color: var(--real); } .anchor0 { color: var(--fake); }
.r0 { color: var(--r0); } .r1 { color: var(--r1); } .r2 { color: var(--r2); }
.r3 { color: var(--r3); } .r4 { color: var(--r4); } .r5 { color: var(--r5); }
.r6 { color: var(--r6); } .r7 { color: var(--r7); }
.legend li { display: flex; align-items: center; gap: 7px; }
.legend li i { margin: 0; }
.legend .anchor1 i, .legend .anchor0 i { height: 10px; border: 1px solid; opacity: 0.5; }
.legend span { color: var(--soft); }
.tables { columns: 360px 3; column-gap: 14px; }
.tables .card { break-inside: avoid; margin-bottom: 14px; }
table { width: 100%; border-collapse: collapse; font-size: 13.5px; }
.tables h3 { margin-bottom: 6px; }
td { padding: 4px 0; border-top: 1px solid var(--line); vertical-align: top; }
tr:first-child td { border-top: 0; }
td:first-child { padding-right: 14px; color: var(--soft); white-space: nowrap; }
td:last-child { text-align: right; overflow-wrap: anywhere; }
.wide { overflow-x: auto; } .wide.runs { margin-top: 18px; }
.wide th { text-align: right; padding: 4px 0 4px 20px; font-weight: 600; }
.wide td + td { text-align: right; padding-left: 20px; }
.wide i { display: inline-block; width: 14px; height: 3px; margin: 0 7px 3px 0;
  border-radius: 2px; background: currentColor; }
.classes table { width: auto; } .classes .share { width: 220px; vertical-align: middle; }
.classes .share div { height: 8px; border-radius: 2px; background: var(--real); }
.runs td:first-child { font-weight: 600; color: var(--ink); }
footer { margin-top: 36px; color: var(--faint); font-size: 13px; }
@media print { .slider { display: none; } body { padding: 0; } }
@media (max-width: 560px) { body { padding: 24px 14px 40px; } }
"""

SCRIPT = """
"use strict";
const format = new Intl.NumberFormat("en");

// Every figure with a slider; moving one by hand takes the others to the same moment.
const players = [];
for (const figure of document.querySelectorAll(".frames")) {
  const frames = [...figure.querySelectorAll(".frame")];
  const slider = figure.querySelector("input");
  const output = figure.querySelector("output");
  const button = figure.querySelector("button");
  if (!slider) continue;
  const at = frames.map((frame) => Number(frame.dataset.images));
  let timer = 0;
  const show = () => {
    frames.forEach((frame, index) => {
      frame.toggleAttribute("hidden", index !== slider.valueAsNumber);
    });
    output.textContent = frames[slider.valueAsNumber].dataset.label;
  };
  const stop = () => { clearInterval(timer); timer = 0; button.textContent = "\\u25B6"; };
  const goTo = (images) => {
    stop();
    const distances = at.map((value) => Math.abs(value - images));
    slider.value = distances.indexOf(Math.min(...distances));
    show();
  };
  const lead = () => {
    show();
    const images = at[slider.valueAsNumber];
    if (Number.isNaN(images)) return;
    players.forEach((other) => { if (other.figure !== figure) other.goTo(images); });
  };
  players.push({figure, goTo});
  slider.addEventListener("input", () => { stop(); lead(); });
  button.addEventListener("click", () => {
    if (timer) { stop(); return; }
    if (slider.valueAsNumber === frames.length - 1) slider.value = 0;
    button.textContent = "\\u275A\\u275A";
    lead();
    timer = setInterval(() => {
      slider.value = slider.valueAsNumber + 1;
      lead();
      if (slider.valueAsNumber === frames.length - 1) stop();
    }, 350);
  });
}

const SVG = "http://www.w3.org/2000/svg";
for (const figure of document.querySelectorAll(".chart")) {
  const {x, y, frame} = JSON.parse(figure.dataset.chart);
  const [left, width, top, height, end, low, high] = frame;
  const svg = figure.querySelector("svg");
  const values = [...figure.querySelectorAll(".legend b")];
  const last = values.map((value) => value.textContent);
  const line = document.createElementNS(SVG, "path");
  line.setAttribute("class", "pointer");
  const label = document.createElementNS(SVG, "text");
  svg.append(line, label);
  const hide = () => {
    line.removeAttribute("d");
    label.textContent = "";
    values.forEach((value, index) => { value.textContent = last[index]; });
  };
  svg.addEventListener("pointermove", (event) => {
    const box = svg.getBoundingClientRect();
    const at = ((event.clientX - box.left) / box.width * svg.viewBox.baseVal.width - left)
      / width * end;
    let nearest = 0;
    x.forEach((value, index) => {
      if (Math.abs(value - at) < Math.abs(x[nearest] - at)) nearest = index;
    });
    const place = left + width * x[nearest] / end;
    line.setAttribute("d", `M${place} ${top}v${height}`);
    label.setAttribute("class", place > left + width / 2 ? "at end" : "at");
    label.setAttribute("x", place + (place > left + width / 2 ? -6 : 6));
    label.setAttribute("y", top + 11);
    label.textContent = `${format.format(x[nearest])} images`;
    values.forEach((value, index) => {
      const number = y[index][nearest];
      value.textContent = number === null ? "\\u2013"
        : String(Number(number.toPrecision(4))).replace("-", "\\u2212");
    });
  });
  svg.addEventListener("pointerleave", hide);
}
"""
