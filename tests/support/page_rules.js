// What a page breaks of the rules that all pages follow: rule → places, as short texts.
() => {
  const main = document.querySelector("main");
  const all = (query, root = document) => [...root.querySelectorAll(query)];
  const squeezed = (text) => text.replace(/\s+/g, " ").trim();
  const textOf = (element) => {
    const copy = element.cloneNode(true);
    for (const hidden of copy.querySelectorAll("[aria-hidden=true], small.count")) hidden.remove();
    for (const image of copy.querySelectorAll("svg[aria-label]")) image.replaceWith(image.getAttribute("aria-label"));
    return squeezed(copy.textContent);
  };
  const nameOf = (element) => element.getAttribute("aria-label") || textOf(element) || element.title || "";
  const shown = (element) => element.checkVisibility({ visibilityProperty: true });
  const found = {};
  const report = (rule, text) => (found[rule] ??= []).push(text.slice(0, 160));

  // Columns, before the parts of the page that are closed are opened.
  for (const table of all(".table", main).filter(shown)) {
    if (table.scrollWidth > table.clientWidth + 1) report("columns", `${table.getAttribute("aria-label")}: ${table.scrollWidth} of ${table.clientWidth}`);
  }
  for (const part of all("details:not(.phone)")) part.open = true;

  const acting = all("a, button, summary").filter((element) => shown(element) && !element.closest(".phone"));
  const rowOf = (element) => element.closest("tr, li, nav, .route, main, header, .bar") ?? document;
  const actOf = (element) => {
    if (element.href) return element.href;
    const form = element.form;
    return form ? `${form.action} ${new URLSearchParams(new FormData(form))} ${element.value}`.replace(/csrf_token=[^& ]*/, "") : element;
  };
  const byName = Map.groupBy(acting, nameOf);
  for (const [name, elements] of byName) {
    if (!name) for (const element of elements) report("names", `without a name: ${element.outerHTML}`);
    const groups = elements.every((element) => element.href) ? [...Map.groupBy(elements, rowOf).values()] : [elements];
    for (const group of groups) {
      const acts = Map.groupBy(group, actOf).size;
      if (name && acts > 1) report("names", `${acts} × ${name}`);
    }
  }

  // Links lead somewhere; buttons act.
  for (const link of all("a")) {
    const href = link.getAttribute("href");
    if (link.hasAttribute("role") || !href || href === "#" || href.startsWith("javascript")) report("links", link.outerHTML);
  }
  for (const form of all("form")) {
    const fields = all("input:not([type=hidden]), select, textarea", form);
    if (form.method === "get" && !("ask" in form.dataset) && !fields.length) report("links", `only navigates: ${form.outerHTML}`);
  }
  for (const element of all("[role=link], [onclick]")) report("links", element.outerHTML);

  // Headings lead in order, and begin with the one of the page.
  const levels = all("h1, h2, h3, h4, h5, h6", main).filter(shown).map((heading) => Number(heading.tagName[1]));
  if (levels.filter((level) => level === 1).length !== 1 || levels[0] !== 1) report("headings", `begins with ${levels.slice(0, 3)}`);
  levels.forEach((level, index) => { if (index && level > levels[index - 1] + 1) report("headings", levels.slice(0, index + 1).join(" ")); });

  // IDs differ, of elements and in lists.
  for (const [id, elements] of Map.groupBy(all("[id]"), (element) => element.id)) if (elements.length > 1) report("ids", `id=${id}`);
  for (const table of all("table", main)) {
    for (const [text, codes] of Map.groupBy(all("code[title]", table), textOf)) {
      if (new Set(codes.map((code) => code.title)).size > 1) report("ids", `${text} is several in one list`);
    }
  }

  // Each chart has its numbers as a table; each danger its page to confirm.
  for (const chart of all("[data-graph]")) {
    if (!chart.closest("figure")?.querySelector("table:not(.u-legend) tbody tr")) report("charts", chart.getAttribute("aria-label") ?? chart.outerHTML);
  }
  const destructive = /^(revoke|delete|remove|disable|cancel|end|drop|wipe|reset|clear|stop|expire|rotate|reject|lock)\b/i;
  for (const button of all("form button").filter((button) => button.type === "submit")) {
    const form = button.form;
    if (form.method !== "post" || form.classList.contains("confirm")) continue;
    const fields = all("input:not([type=hidden]), select, textarea", form);
    if (textOf(button) === "End session") continue; // its user signs in again
    if (button.classList.contains("danger") || (!fields.length && destructive.test(textOf(button)))) report("dangers", `${textOf(button)}: ${form.getAttribute("action")}`);
  }
  for (const form of all("form.confirm")) {
    const answers = all("button, a.button", form).map(textOf);
    if (answers.length < 2 || new Set(answers).size < answers.length) report("answers", answers.join(" or "));
  }
  return found;
}
