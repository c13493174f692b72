"use strict";
// Times in the viewer's time zone, copy buttons, confirmations, menus, search, and the CSRF token on requests of htmx.
(() => {
  const shortForm = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "short" });
  const fineForm = new Intl.DateTimeFormat(undefined, { dateStyle: "medium", timeStyle: "medium" });
  const relative = (seconds) => {
    const size = Math.abs(seconds);
    const [unit, name] = [[86400, "d"], [3600, "h"], [60, "min"], [1, "s"]].find(([length]) => size >= length) ?? [1, "s"];
    const words = `${Math.floor(size / unit)} ${name}`;
    return seconds >= 0 ? `${words} ago` : `in ${words}`;
  };
  const times = (root) => {
    for (const item of root.querySelectorAll("time[datetime]")) {
      const at = new Date(item.dateTime);
      if ("ago" in item.dataset) {
        item.textContent = relative((Date.now() - at) / 1000);
        item.title = `${fineForm.format(at)} · ${at.toISOString().slice(0, 19).replace("T", " ")} UTC`;
      } else item.textContent = ("fine" in item.dataset ? fineForm : shortForm).format(at);
    }
  };
  // The moment itself, when a time that says "4 min ago" has the focus.
  document.addEventListener("focusin", (event) => { if (event.target.matches?.("time[data-ago]")) event.target.textContent = event.target.title; });
  document.addEventListener("focusout", (event) => { if (event.target.matches?.("time[data-ago]")) times(event.target.parentNode); });

  document.addEventListener("htmx:configRequest", (event) => {
    event.detail.headers["X-CSRFToken"] = document.querySelector("meta[name=csrf-token]").content;
  });
  document.addEventListener("htmx:beforeRequest", (event) => { // no polls in a hidden tab
    if (document.hidden && event.detail.pathInfo.requestPath.includes("poll=1")) event.preventDefault();
  });
  document.addEventListener("htmx:afterSwap", (event) => times(event.detail.target));

  document.addEventListener("click", async (event) => {
    const button = event.target.closest("[data-copy], [data-copy-text]");
    if (!button) return;
    const source = button.dataset.copy ? document.querySelector(button.dataset.copy) : button.previousElementSibling;
    const label = button.textContent;
    try {
      await navigator.clipboard.writeText(button.dataset.copyText ?? source.textContent.trim());
      button.textContent = button.dataset.copyText ? "✓" : "Copied";
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

  // The question of a view, as a dialog. Where it can't be had, the form leads to its page.
  const dialog = document.getElementById("confirm");
  document.addEventListener("submit", async (event) => {
    const form = event.target;
    if (!("ask" in form.dataset)) return;
    event.preventDefault();
    const address = `${form.action}?${new URLSearchParams(new FormData(form))}`;
    const answer = await fetch(address, { headers: { "HX-Request": "true" } }).catch(() => null);
    if (!answer?.ok) { location.assign(address); return; }
    dialog.innerHTML = await answer.text();
    dialog.showModal();
  });
  dialog.addEventListener("click", (event) => { if ("close" in event.target.dataset) dialog.close(); });

  // One menu is open at a time; Escape and a click elsewhere close it.
  const menus = () => document.querySelectorAll("details.drop[open]");
  document.addEventListener("click", (event) => { for (const menu of menus()) if (!menu.contains(event.target)) menu.open = false; });
  const search = document.getElementById("search");
  document.addEventListener("keydown", (event) => {
    if (event.key === "Escape") {
      for (const menu of menus()) { menu.open = false; menu.querySelector("summary").focus(); }
      document.getElementById("hits")?.replaceChildren();
    }
    const typing = event.target.closest("input, textarea, select, [contenteditable]");
    if (search && ((event.key === "k" && (event.ctrlKey || event.metaKey)) || (event.key === "/" && !typing && !event.ctrlKey && !event.altKey))) {
      event.preventDefault();
      search.focus();
      search.select();
    }
  });
  // Arrow keys move between the search box and its results.
  document.querySelector("form.search")?.addEventListener("keydown", (event) => {
    if (event.key !== "ArrowDown" && event.key !== "ArrowUp") return;
    const places = [search, ...document.querySelectorAll("#hits a")];
    const next = places.indexOf(document.activeElement) + (event.key === "ArrowDown" ? 1 : -1);
    if (places[next]) { event.preventDefault(); places[next].focus(); }
  });

  times(document);
  // The first field with a fault; a fault without a field, or the message of an error page.
  const failed = performance.getEntriesByType("navigation")[0]?.responseStatus >= 400;
  const fault = document.querySelector("[aria-invalid=true]") ?? (failed && document.querySelector("main [role=alert]"));
  if (fault) { if (!fault.matches("input, select, textarea")) fault.tabIndex = -1; fault.focus(); }
  setInterval(() => { if (!document.hidden && !document.activeElement?.matches("time")) times(document); }, 30000);
})();
