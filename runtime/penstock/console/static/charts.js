"use strict";
// Charts: stacked bars, lines or points over time. Dragging sets the time of the page; a click opens the calls behind an interval.
(() => {
  const css = (name) => getComputedStyle(document.documentElement).getPropertyValue(name).trim();
  const COLOURS = { good: "--good", warn: "--warn", bad: "--bad", off: "--off", run: "--run" };
  const colour = (kind) => css(COLOURS[kind] ?? `--c${kind}`);
  const round = (value) => (value >= 10 ? Math.round(value) : Number(value.toPrecision(2)));
  const clock = new Intl.DateTimeFormat(undefined, { timeStyle: "short" });
  const day = new Intl.DateTimeFormat(undefined, { day: "numeric", month: "short" });
  const moment = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
  const none = (value) => value === null || value === undefined;
  const FIGURES = {
    seconds: (value) => (none(value) ? "–" : value === 0 ? "0" : value >= 1 ? `${round(value)} s` : `${round(value * 1000)} ms`),
    count: (value) => (none(value) ? "–" : Intl.NumberFormat().format(value)),
  };

  // Bars are stacked: each line is drawn over the sum of those before it, the last one first.
  const stacked = (lines) => {
    const sums = [];
    return lines.map((line) => line.values.map((value, index) => (sums[index] = (sums[index] ?? 0) + (value ?? 0))));
  };
  const plot = (chart) => {
    const bars = chart.style === "bars", order = chart.lines.map((_, index) => index);
    const columns = bars ? stacked(chart.lines) : chart.lines.map((line) => line.values);
    if (bars) order.reverse();
    const figure = FIGURES[chart.unit];
    const series = order.map((index) => {
      const line = chart.lines[index], shade = colour(line.kind);
      return {
        label: line.name, stroke: shade, width: bars ? 0 : 2, fill: bars ? shade : undefined,
        paths: bars ? uPlot.paths.bars({ size: [0.8, 40] }) : chart.style === "points" ? () => null : undefined,
        points: { show: chart.style === "points" || (!bars && chart.times.length < 40), size: chart.style === "points" ? 7 : 4, fill: shade },
        value: (_, __, ___, at) => figure(none(at) ? null : line.values[at]),
      };
    });
    return { data: [chart.times, ...order.map((index) => columns[index])], series };
  };

  const markers = (chart) => ({ hooks: { draw: (u) => {
    for (const marker of chart.markers ?? []) {
      const x = u.valToPos(marker.at, "x", true);
      if (x < u.bbox.left || x > u.bbox.left + u.bbox.width) continue;
      u.ctx.save();
      u.ctx.strokeStyle = u.ctx.fillStyle = css("--muted");
      u.ctx.setLineDash([4, 3]);
      u.ctx.beginPath(); u.ctx.moveTo(x, u.bbox.top); u.ctx.lineTo(x, u.bbox.top + u.bbox.height); u.ctx.stroke();
      u.ctx.fillText(marker.text.slice(0, 40), x + 4, u.bbox.top + 12 * devicePixelRatio);
      u.ctx.restore();
    }
  } } });

  const address = (text, from, to) => text.replaceAll("{from}", from).replaceAll("%7Bfrom%7D", from).replaceAll("{to}", to).replaceAll("%7Bto%7D", to);
  const choose = (from, to) => {
    const url = new URL(location.href);
    for (const name of ["before", "after", "cursor"]) url.searchParams.delete(name);
    url.searchParams.set("from", Math.floor(from));
    url.searchParams.set("to", Math.ceil(to));
    location.assign(url);
  };

  const draw = (place, chart) => {
    place._data = chart;
    place._chart?.destroy();
    if (!chart.times.length) return;
    const { data, series } = plot(chart);
    const step = chart.times.length > 1 ? chart.times[1] - chart.times[0] : 60;
    const span = chart.span ?? [chart.times[0], chart.times.at(-1)], long = span[1] - span[0] > 200000;
    const axis = { stroke: css("--muted"), grid: { stroke: css("--line"), width: 1 }, ticks: { show: false }, font: "12px system-ui" };
    let dragged = false;
    const options = {
      width: place.clientWidth, height: 190, series: [{ value: (_, at) => (at ? moment.format(new Date(at * 1000)) : "–") }, ...series],
      cursor: { y: false, drag: { x: true, y: false, setScale: false } },
      scales: { ...(chart.span && { x: { range: () => chart.span } }), y: { range: (_, low, high) => [0, high > 0 ? high * 1.1 : 1] } },
      axes: [{ ...axis, space: 70, values: (_, marks) => marks.map((mark) => (long ? day : clock).format(new Date(mark * 1000))) },
        { ...axis, size: 60, values: (_, marks) => marks.map((mark) => (chart.unit === "seconds" ? FIGURES.seconds(mark) : Number.isInteger(mark) ? FIGURES.count(mark) : "")) }],
      plugins: [markers(chart)],
      hooks: { setSelect: [(u) => {
        dragged = u.select.width > 8;
        if (dragged) choose(u.posToVal(u.select.left, "x"), u.posToVal(u.select.left + u.select.width, "x"));
      }] },
    };
    place._chart = new uPlot(options, data, place);
    place._chart.over.addEventListener("click", () => {
      const at = place._chart.cursor.idx;
      if (dragged || none(at)) return;
      const target = chart.links?.[at] || (chart.link && address(chart.link, chart.times[at], chart.times[at] + step));
      if (target) location.assign(target);
    });
    if (chart.link || chart.links?.length) place._chart.over.style.cursor = "pointer";
  };

  const load = async (url) => {
    const answer = await fetch(url, { headers: { "HX-Request": "true" } }).catch(() => null);
    return answer?.ok ? answer.json() : null;
  };
  for (const place of document.querySelectorAll("[data-graph]")) {
    draw(place, JSON.parse(place.dataset.graph));
    if (place.dataset.poll) setInterval(async () => {
      const chart = document.hidden ? null : await load(place.dataset.poll);
      if (chart) draw(place, chart);
    }, 15000);
  }

  const redraw = () => { for (const place of document.querySelectorAll("[data-graph]")) if (place._data) draw(place, place._data); };
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", redraw);
  let wide = innerWidth;
  addEventListener("resize", () => { if (innerWidth !== wide) { wide = innerWidth; redraw(); } });
})();
