// The rows of the report that are left → a table that can be searched, sorted, filtered, and taken away as a manifest.
// Whatever comes from the report reaches the page as text (textContent), never as markup.
"use strict";
(() => {
  const PAGE_ROWS = 25;
  const PRINTED_ROWS = 1000;
  const byId = (id) => document.getElementById(id);
  const words = JSON.parse(byId("words").textContent);
  const at = (name) => words.columns.indexOf(name, words.first);
  const [LINE, ORDER, OUTCOME, REASON, DETAIL] = ["line", "order_id", "outcome", "reason", "detail"].map(at);
  const [STATUS, CODE, MESSAGE, ATTEMPTS, TIME] = ["http_status", "code", "message", "attempts", "duration_ms"].map(at);
  // A text in the page's language, with values in its braces.
  const _ = (text, values = {}) =>
    Object.entries(values).reduce((told, [name, value]) => told.replaceAll(`{${name}}`, value), words.texts[text]);
  const number = new Intl.NumberFormat("en-US");

  const rows = [];
  let texts = []; // of each row what a search looks through, made at the first search
  let shown = []; // places in `rows`, filtered and sorted
  let page = 0;
  const wish = { search: "", outcomes: new Set(), reason: "", key: "line", down: false };

  // As `neutral` in sheet.py has it: the mark that keeps a spreadsheet from running a cell, which is not shown.
  const formula = /^'(?='*\s*[=+\-@\t\r\n＝＋－＠])/;
  const plain = (cell) => cell.replace(formula, "");
  const cell = (row, place) => plain(row[place]);

  function element(name, className, text) {
    const made = document.createElement(name);
    if (className) made.className = className;
    if (text !== undefined) made.textContent = visible(text);
    return made;
  }

  // What can't be seen, or turns the direction of what can, is named: an order number must be the one it looks like.
  const unseen = /(?![\t\n\r])[\p{Cc}\p{Cf}\p{Cs}\p{Zl}\p{Zp}\p{Noncharacter_Code_Point}\u034f\u115f\u1160\u17b4\u17b5\u3164\uffa0]/gu;
  function visible(text) {
    return text.replace(unseen, (c) => {
      const code = c.codePointAt(0).toString(16);
      return code.length < 3 ? `\\x${code.padStart(2, "0")}` : code.length < 5 ? `\\u${code.padStart(4, "0")}` : `\\U${code.padStart(8, "0")}`;
    });
  }

  // A word of the report's own data: it keeps its direction to itself.
  function data(name, className, text) {
    const made = element(name, className, text);
    made.dir = "auto";
    return made;
  }

  function seconds(row) {
    const time = Number(row[TIME]);
    if (!row[TIME] || Number.isNaN(time)) return "";
    if (time < 1000) return _("{n} ms", { n: number.format(time) });
    if (time < 60000) return _("{n} s", { n: (time / 1000).toFixed(1) });
    return _("{minutes} min {seconds} s", {
      minutes: Math.floor(time / 60000),
      seconds: String(Math.floor((time % 60000) / 1000)).padStart(2, "0"),
    });
  }

  const tone = (row) => (row[REASON] === words.aside ? "person" : words.tones[row[OUTCOME]] || "person");

  const answer = (row) => [row[STATUS], row[CODE] && _("code {code}", { code: cell(row, CODE) })].filter(Boolean).join(" · ");

  // Each column: its name, what it is sorted by, and what it shows.
  const several = words.first > 0;
  const columns = [
    ["line", _("Line"), (row) => Number(row[LINE]) || 0, (row, td) => {
      td.textContent = visible(row[LINE]);
      if (several) td.append(data("div", "detail clip", cell(row, 0)));
    }],
    ["order", _("Order"), (row) => cell(row, ORDER), (row, td) => td.append(data("div", "id clip", cell(row, ORDER)))],
    ["outcome", _("Outcome"), (row) => row[OUTCOME], (row, td) => {
      td.append(element("span", `dot ${tone(row)}`), visible(words.outcomes[row[OUTCOME]] || cell(row, OUTCOME)));
    }],
    ["reason", _("Reason, and what to do"), (row) => row[REASON], (row, td) => {
      const sentence = words.sentences[row[REASON]];
      const step = words.steps[row[OUTCOME]];
      if (sentence) td.append(element("div", "", sentence));
      const isSaid = sentence && (tone(row) !== "again" || words.again.includes(row[REASON]));
      if (step && !isSaid) td.append(element("div", "", `→ ${step}`));
      const why = element("div", "detail clip");
      why.append(element("code", "", cell(row, REASON)));
      if (row[DETAIL]) why.append(" · ", data("span", "", cell(row, DETAIL)));
      td.append(why);
    }],
    ["answer", _("Endpoint’s answer"), (row) => cell(row, MESSAGE) || answer(row), (row, td) => {
      if (row[MESSAGE]) td.append(data("div", "clip", cell(row, MESSAGE)));
      if (answer(row)) td.append(element("div", "detail", answer(row)));
    }],
    ["attempts", _("Sends"), (row) => Number(row[ATTEMPTS]) || 0, (row, td) => { td.textContent = row[ATTEMPTS] === "0" ? "" : visible(row[ATTEMPTS]); }],
    ["time", _("Time"), (row) => Number(row[TIME]) || 0, (row, td) => { td.textContent = seconds(row); }],
  ];
  const numeric = new Set(["attempts", "time"]);

  // Decoding: a text, a text to be remembered (in a list of its own), or the number of a remembered one.
  const known = words.columns.map(() => []);
  function decode(row) {
    for (let place = 0; place < row.length; place++) {
      const value = row[place];
      if (typeof value === "number") row[place] = known[place][value];
      else if (typeof value !== "string") known[place].push((row[place] = value[0]));
    }
    rows.push(row);
  }

  function matching() {
    const parts = wish.search.toLowerCase().split(/\s+/).filter(Boolean);
    if (parts.length && texts.length < rows.length) texts = rows.map((row) => row.map(plain).join("\n").toLowerCase());
    const found = [];
    for (let place = 0; place < rows.length; place++) {
      const row = rows[place];
      if (wish.outcomes.size && !wish.outcomes.has(row[OUTCOME])) continue;
      if (wish.reason !== "" && row[REASON] !== wish.reason) continue;
      if (parts.every((part) => texts[place].includes(part))) found.push(place);
    }
    return found;
  }

  function sorted(places) {
    const [, , value] = columns.find(([key]) => key === wish.key);
    const by = new Map(places.map((place) => [place, value(rows[place])]));
    const way = wish.down ? -1 : 1;
    return places.sort((a, b) => {
      const [x, y] = [by.get(a), by.get(b)];
      if (x === "" || y === "") return (x === "") - (y === "") || a - b; // what is empty stands last
      return x < y ? -way : x > y ? way : a - b;
    });
  }

  function line(place) {
    const row = rows[place];
    const tr = element("tr");
    tr.setAttribute("role", "row");
    for (const [key, name, , show] of columns) {
      const td = element("td", `c-${key}${numeric.has(key) ? " number" : ""}`);
      td.setAttribute("role", "cell");
      show(row, td);
      if (td.childNodes.length && (numeric.has(key) || key === "line" || key === "answer")) td.dataset.name = name;
      tr.append(td);
    }
    const td = element("td", "c-more");
    td.setAttribute("role", "cell");
    const button = element("button", "more", _("All cells"));
    button.type = "button";
    button.setAttribute("aria-expanded", "false");
    button.setAttribute("aria-label", visible(_("All cells of line {line}", { line: row[LINE] })));
    button.addEventListener("click", () => open(button, tr, row));
    td.append(button);
    tr.append(td);
    return tr;
  }

  function open(button, tr, row) {
    const isOpen = button.getAttribute("aria-expanded") === "true";
    button.setAttribute("aria-expanded", String(!isOpen));
    if (isOpen) return tr.nextSibling.remove();
    const list = element("dl", "all");
    words.columns.forEach((name, place) => {
      if (row[place] === "") return;
      list.append(data("dt", "", plain(name)), data("dd", "", cell(row, place)));
    });
    const all = element("tr", "opened");
    const td = element("td");
    td.colSpan = columns.length + 1;
    td.append(list);
    all.append(td);
    tr.after(all);
  }

  function draw(first, count) {
    const body = document.createDocumentFragment();
    for (const place of shown.slice(first, first + count)) body.append(line(place));
    byId("table").tBodies[0].replaceChildren(body);
  }

  function turn(to) {
    const pages = Math.max(1, Math.ceil(shown.length / PAGE_ROWS));
    page = Math.min(Math.max(0, to), pages - 1);
    draw(page * PAGE_ROWS, PAGE_ROWS);
    const first = page * PAGE_ROWS + 1;
    const last = Math.min(shown.length, first + PAGE_ROWS - 1);
    const count = number.format(shown.length);
    const told = shown.length === 1 ? _("{n} row", { n: count }) : _("{n} rows", { n: count });
    const isAll = shown.length === rows.length;
    byId("shown").textContent = isAll ? told : _("{rows} (of {all})", { rows: told, all: number.format(rows.length) });
    byId("place").textContent = _("{first} – {last} of {all}", {
      first: number.format(first), last: number.format(last), all: count,
    });
    byId("pager").hidden = pages === 1;
    byId("before").disabled = page === 0;
    byId("after").disabled = page === pages - 1;
    byId("none").hidden = shown.length > 0;
    byId("table").hidden = shown.length === 0;
    byId("download").disabled = shown.length === 0;
  }

  function refresh() {
    shown = sorted(matching());
    turn(0);
  }

  function counted(place, of) {
    const counts = new Map();
    for (const row of of) counts.set(row[place], (counts.get(row[place]) || 0) + 1);
    return [...counts].sort(([, a], [, b]) => b - a);
  }

  function offerReasons() {
    const of = rows.filter((row) => !wish.outcomes.size || wish.outcomes.has(row[OUTCOME]));
    const counts = counted(REASON, of);
    if (!counts.some(([reason]) => reason === wish.reason)) wish.reason = "";
    const select = byId("reason");
    const all = element("option", "", _("All ({n})", { n: number.format(of.length) }));
    all.value = "";
    select.replaceChildren(all);
    for (const [reason, count] of counts) {
      if (reason === "") continue;
      const option = element("option", "", `${plain(reason)} (${number.format(count)})`.slice(-80));
      option.value = reason;
      select.append(option);
    }
    select.value = wish.reason;
  }

  function offerOutcomes() {
    const place = byId("outcome-filter");
    for (const [outcome, count] of counted(OUTCOME, rows).slice(0, 20)) {
      const button = element("button");
      button.type = "button";
      button.dataset.outcome = outcome;
      button.setAttribute("aria-pressed", "false");
      button.append(element("span", `dot ${words.tones[outcome] || "person"}`), visible((words.outcomes[outcome] || plain(outcome)).slice(0, 40) || _("(none)")));
      button.append(element("span", "count", number.format(count)));
      button.addEventListener("click", () => {
        if (!wish.outcomes.delete(outcome)) wish.outcomes.add(outcome);
        button.setAttribute("aria-pressed", String(wish.outcomes.has(outcome)));
        offerReasons();
        refresh();
      });
      place.append(button);
    }
  }

  function offerSorting() {
    const tr = element("tr");
    tr.setAttribute("role", "row");
    for (const [key, name] of columns) {
      const th = element("th", `c-${key}${numeric.has(key) ? " number" : ""}`);
      th.scope = "col";
      th.setAttribute("role", "columnheader");
      const button = element("button", "", name);
      button.type = "button";
      button.addEventListener("click", () => {
        wish.down = wish.key === key ? !wish.down : numeric.has(key); // of times and sends the most come first
        wish.key = key;
        tellSorting();
        refresh();
      });
      th.dataset.key = key;
      th.append(button);
      tr.append(th);
    }
    const more = element("th", "c-more");
    more.setAttribute("role", "columnheader");
    more.append(element("span", "unseen", _("All cells")));
    tr.append(more);
    byId("table").tHead.append(tr);
  }

  function tellSorting() {
    for (const th of byId("table").tHead.rows[0].cells) {
      if (th.dataset.key === wish.key) th.setAttribute("aria-sort", wish.down ? "descending" : "ascending");
      else th.removeAttribute("aria-sort");
    }
  }

  // The same columns as the report, so that the next run knows it as one; the cells as they stand there, neutral.
  function download() {
    const quoted = (text) => (/[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text);
    const csv = (cells) => `${cells.map(quoted).join(",")}\r\n`;
    const parts = ["\ufeff", csv(words.columns)];
    for (const place of shown) parts.push(csv(rows[place]));
    const url = URL.createObjectURL(new Blob(parts, { type: "text/csv;charset=utf-8" }));
    const link = element("a");
    link.href = url;
    link.download = `${words.stem}.left.csv`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 60000);
  }

  function begin() {
    offerSorting();
    tellSorting();
    offerOutcomes();
    offerReasons();
    for (const part of document.querySelectorAll("#table, #table thead, #table tbody")) {
      part.setAttribute("role", part.tagName === "TABLE" ? "table" : "rowgroup");
    }
    let waiting = 0;
    byId("search").addEventListener("input", () => {
      clearTimeout(waiting);
      waiting = setTimeout(() => {
        wish.search = byId("search").value;
        refresh();
      }, rows.length > 5000 ? 150 : 0);
    });
    byId("filters").addEventListener("submit", (event) => event.preventDefault());
    byId("reason").addEventListener("change", () => {
      wish.reason = byId("reason").value;
      refresh();
    });
    byId("clear").addEventListener("click", () => {
      byId("search").value = wish.search = wish.reason = "";
      wish.outcomes.clear();
      for (const button of byId("outcome-filter").querySelectorAll("button")) button.setAttribute("aria-pressed", "false");
      offerReasons();
      refresh();
      byId("search").focus();
    });
    byId("download").addEventListener("click", download);
    byId("before").addEventListener("click", () => turn(page - 1));
    byId("after").addEventListener("click", () => turn(page + 1));
    // On paper nobody turns pages of a table.
    addEventListener("beforeprint", () => {
      draw(0, PRINTED_ROWS);
      const more = shown.length > PRINTED_ROWS ? `; the first ${number.format(PRINTED_ROWS)} are printed` : "";
      byId("shown").append(more);
    });
    addEventListener("afterprint", () => turn(page));
    byId("rows").hidden = false;
    refresh();
    document.documentElement.dataset.ready = "true";
  }

  // One element at a time, so that the page can be scrolled while a long report is read.
  const waiting = [...document.querySelectorAll("script.rows")];
  function read() {
    const next = waiting.shift();
    if (next) {
      for (const row of JSON.parse(next.textContent)) decode(row);
      next.remove();
      setTimeout(read);
    } else if (rows.length) begin();
    else document.documentElement.dataset.ready = "true";
  }
  requestAnimationFrame(() => setTimeout(read));
})();
