"use strict";
// Sends calls that a reader tries, and keeps the curl command up to date. What is entered lives until the page is left.
(() => {
  const server = document.body.dataset.server;
  const keys = document.getElementById("keys");
  keys?.reset(); // some browsers restore fields
  keys?.addEventListener("submit", (event) => event.preventDefault());
  const quoted = (text) => (/^[\w@%+=:,./-]+$/.test(text) ? text : `'${text.replaceAll("'", "'\\''")}'`);

  // What a form says to send: address, headers and body.
  const requestOf = (form) => {
    const { method, path, schemes } = form.dataset;
    const query = new URLSearchParams(), headers = [];
    let address = path, body, media = "";
    const pairs = [];
    for (const field of form.querySelectorAll("[data-in]")) {
      const { in: place, name } = field.dataset, file = field.files?.[0];
      if (place === "body") {
        media = field.dataset.media;
        body = field.type === "file" ? file : field.value;
        continue;
      }
      if (place === "form") {
        media = field.closest("[data-media]").dataset.media;
        if (file ?? field.value) pairs.push([name, file ?? field.value]);
        continue;
      }
      if (!field.value) continue;
      const values = "many" in field.dataset ? field.value.split("\n").filter(Boolean) : [field.value];
      if (place === "path") address = address.replace(`{${name}}`, encodeURIComponent(field.value));
      else if (place === "query") for (const value of values) query.append(name, value);
      else headers.push([name, field.value]);
    }
    const given = [];
    for (const name of schemes.split(" ").filter(Boolean)) {
      const field = keys?.querySelector(`[data-scheme="${name}"][data-kind]`);
      if (!field?.value) continue;
      const { kind, name: where } = field.dataset;
      if (kind === "query") query.set(where, field.value);
      else if (kind === "header") given.push([where, field.value]);
      else if (kind === "http") given.push(["Authorization", `${where} ${field.value}`]);
      else if (kind === "basic") {
        const user = keys.querySelector(`[data-scheme="${name}"][data-part=user]`).value;
        given.push(["Authorization", `Basic ${btoa(String.fromCharCode(...new TextEncoder().encode(`${user}:${field.value}`)))}`]);
      }
    }
    if (media === "multipart/form-data") {
      body = new FormData();
      for (const [name, value] of pairs) body.append(name, value);
    } else if (media && !body && pairs.length) body = new URLSearchParams(pairs);
    if (media && media !== "multipart/form-data") headers.push(["Content-Type", media]);
    return { method, url: `${server}${address}${query.size ? `?${query}` : ""}`, headers, given, body, pairs, media };
  };

  // The command names credentials by shell variables: none ends up in a shell's history.
  const commandOf = (form, first) => {
    const { method, url, headers, pairs, body, media } = requestOf(form);
    const words = ["curl"];
    if (method !== "GET") words.push("-X", method);
    words.push(quoted(new URL(url, location.origin).href.replaceAll("%7B", "{").replaceAll("%7D", "}")), ...first);
    for (const [name, value] of headers) words.push("-H", quoted(`${name}: ${value}`));
    if (media === "multipart/form-data") for (const [name, value] of pairs) words.push("-F", quoted(value.name ? `${name}=@${value.name}` : `${name}=${value}`));
    else if (typeof body === "string" || body instanceof URLSearchParams) words.push("--data-binary", quoted(String(body)));
    else if (body) words.push("--data-binary", quoted(`@${body.name}`));
    return words.join(" ");
  };

  const element = (tag, text) => Object.assign(document.createElement(tag), { textContent: text });
  const show = async (place, answer, took) => {
    const parts = [element("p", `${answer.status} ${answer.statusText} · ${took} ms`)];
    const headers = document.createElement("details");
    headers.append(element("summary", "Headers of the response"), element("pre", [...answer.headers].map((pair) => pair.join(": ")).join("\n")));
    parts.push(headers);
    const kind = answer.headers.get("Content-Type") ?? "", content = await answer.blob();
    if (/json|text|xml/.test(kind)) {
      let text = await content.text();
      if (kind.includes("json")) try { text = JSON.stringify(JSON.parse(text), null, 2); } catch { /* shown as it is */ }
      const body = element("pre", text);
      body.tabIndex = 0;
      parts.push(body);
    } else if (content.size) parts.push(Object.assign(element("a", `Save the response (${content.size} bytes)`), { href: URL.createObjectURL(content), download: "response" }));
    place.replaceChildren(...parts);
  };

  for (const form of document.querySelectorAll("form.try")) {
    form.hidden = false;
    const line = form.parentNode.querySelector("code.line"), reply = form.querySelector(".reply");
    // The words of the credentials, as the server wrote them.
    const first = line.textContent.match(/ (-H "[^"]*\$[^"]*"|-u "[^"]*"|--cert "[^"]*"|--key "[^"]*")/g)?.map((word) => word.trim()) ?? [];
    form.addEventListener("input", () => { line.textContent = commandOf(form, first); });
    form.addEventListener("submit", async (event) => {
      event.preventDefault();
      const { method, url, headers, given, body } = requestOf(form);
      reply.replaceChildren(element("p", "Sending…"));
      const began = performance.now();
      try {
        const answer = await fetch(url, { method, headers: [...headers, ...given], body });
        await show(reply, answer, Math.round(performance.now() - began));
      } catch (error) {
        reply.replaceChildren(Object.assign(element("p", `Not sent: ${error.message}`), { className: "error" }));
      }
    });
  }
  for (const button of document.querySelectorAll("[data-copy]")) {
    button.hidden = false;
    button.addEventListener("click", async () => {
      await navigator.clipboard.writeText(document.getElementById(button.dataset.copy).textContent);
      button.textContent = "Copied";
      setTimeout(() => { button.textContent = "Copy command"; }, 2000);
    });
  }
  // A link to an operation or a schema opens it.
  const open = () => {
    const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
    if (target?.matches("details")) { target.open = true; target.scrollIntoView(); }
  };
  addEventListener("hashchange", open);
  document.addEventListener("click", (event) => { if (event.target.closest("a[href^='#']")) setTimeout(open); });
  open();
})();
