"use strict";
// Times in the viewer's time zone, copy buttons, confirmations, charts, and the CSRF token on requests of htmx.
(() => {
  const shortForm = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
  const fineForm = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
  const times = (root) => {
    for (const item of root.querySelectorAll("time[datetime]")) item.textContent = ("fine" in item.dataset ? fineForm : shortForm).format(new Date(item.dateTime));
  };

  document.addEventListener("htmx:configRequest", (event) => {
    event.detail.headers["X-CSRFToken"] = document.querySelector("meta[name=csrf-token]").content;
  });
  document.addEventListener("htmx:beforeRequest", (event) => { // no polls in a hidden tab
    if (document.hidden && event.detail.pathInfo.requestPath.includes("poll=1")) event.preventDefault();
  });
  document.addEventListener("htmx:afterSwap", (event) => times(event.detail.target));

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy]");
    if (!button) return;
    const source = document.querySelector(button.dataset.copy);
    const label = button.textContent;
    try {
      await navigator.clipboard.writeText(source.textContent.trim());
      button.textContent = "Copied";
    } catch {
      getSelection().selectAllChildren(source);
      button.textContent = "Press Ctrl+C";
    }
    setTimeout(() => { button.textContent = label; }, 2000);
  });

  // A box filters the rows of a table by their text; buttons tick the boxes of all rows shown.
  document.addEventListener("input", (event) => {
    const rows = event.target.dataset.narrow;
    if (!rows) return;
    const text = event.target.value.trim().toLowerCase();
    for (const row of document.querySelectorAll(rows)) row.hidden = !row.dataset.text.toLowerCase().includes(text);
  });
  document.addEventListener("keydown", (event) => { if (event.key === "Enter" && event.target.dataset.narrow) event.preventDefault(); });
  document.addEventListener("click", (event) => {
    const start = event.target.dataset.tick;
    if (!start) return;
    const boxes = [...document.querySelectorAll("tbody tr:not([hidden]) input[type=checkbox]")].filter((box) => box.value.startsWith(start));
    const on = boxes.some((box) => !box.checked);
    for (const box of boxes) box.checked = on;
  });

  const dialog = document.getElementById("confirm");
  let pending = null; // the form that the dialog asks about
  document.addEventListener("submit", (event) => {
    const form = event.target;
    if (!form.dataset.confirm || form === pending) return;
    event.preventDefault();
    pending = form;
    dialog.querySelector("#confirm-text").textContent = form.dataset.confirm;
    dialog.querySelector("[data-answer=yes]").textContent = form.dataset.yes || "Confirm";
    dialog.querySelector("[data-answer=no]").textContent = form.dataset.no || "Cancel";
    dialog.showModal();
  });
  dialog.addEventListener("close", () => { pending = null; });
  dialog.addEventListener("click", (event) => {
    const answer = event.target.dataset.answer;
    if (answer === "yes") pending.requestSubmit();
    if (answer) dialog.close();
  });

  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const round = (value) => (value >= 10 ? Math.round(value) : Number(value.toPrecision(2)));
  const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "short" });
  const day = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
  const figure = (value) => (value === null || value === undefined ? "–" : value >= 1 ? `${round(value)} s` : `${round(value * 1000)} ms`);
  const KINDS = {
    calls: { lines: [["succeeded", "--good"], ["rejected", "--warn"], ["server errors", "--bad"]], value: (v) => (v === null || v === undefined ? "–" : String(v)) },
    latency: { lines: [["p50", "--good"], ["p95", "--warn"]], value: figure },
  };
  const draw = (place, kind, data) => {
    place._data = data;
    place._chart?.destroy();
    const axis = { stroke: css("--pico-muted-color"), grid: { stroke: css("--pico-muted-border-color"), width: 1 }, ticks: { show: false }, font: "12px system-ui" };
    const series = KINDS[kind].lines.map(([label, colour]) => ({
      label, stroke: css(colour), width: 2, points: { show: data[0].length < 40, size: 4 }, value: (_, v) => KINDS[kind].value(v),
    }));
    const options = {
      width: place.clientWidth, height: 190, cursor: { y: false }, series: [{ value: (_, v) => (v ? shortForm.format(new Date(v * 1000)) : "–") }, ...series],
      scales: { y: { range: (_, low, high) => [0, high > 0 ? high * 1.1 : 1] } },
      axes: [{ ...axis, space: 70, values: (_, ticks) => ticks.map((tick) => (data[0].at(-1) - data[0][0] > 200000 ? day : clock).format(new Date(tick * 1000))) }, { ...axis, size: 60, values: (_, ticks) => ticks.map((tick) => (kind === "latency" ? (tick ? figure(tick) : "0") : Number.isInteger(tick) ? tick : "")) }],
    };
    place._chart = new uPlot(options, data, place);
  };
  const refresh = async (group) => {
    const answer = await fetch(group.dataset.charts, { headers: { "HX-Request": "true" } });
    if (!answer.ok) return;
    const data = await answer.json();
    for (const place of group.querySelectorAll("[data-chart]")) draw(place, place.dataset.chart, data[place.dataset.chart]);
  };
  const redraw = () => {
    for (const place of document.querySelectorAll("[data-chart]")) if (place._data) draw(place, place.dataset.chart, place._data);
  };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  let wide = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== wide) { wide = innerWidth; redraw(); } });

  times(document);
  document.querySelector(".pages [aria-current]")?.scrollIntoView({ block: "nearest", inline: "nearest" }); // on a narrow screen the entries scroll
  for (const group of document.querySelectorAll("[data-charts]")) {
    refresh(group);
    setInterval(() => { if (!document.hidden) refresh(group); }, 15000);
  }
})();
