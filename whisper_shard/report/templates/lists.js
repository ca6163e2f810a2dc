"use strict";
(() => {
  const toNumber = (text) => {
    const match = text.replace(/,/g, "").trim().match(/^[+-]?[0-9]+([.][0-9]+)?/);
    return match ? Number(match[0]) : null;
  };
  const compare = (one, other) => {
    const [a, b] = [toNumber(one), toNumber(other)];
    return a !== null && b !== null ? a - b : one.localeCompare(other, undefined, {numeric: true});
  };

  const sortTable = (table, head, heads) => {
    const isDescending = head.getAttribute("aria-sort") === "ascending";
    const column = heads.indexOf(head);
    const body = table.tBodies[0];
    const rows = Array.from(body.rows);
    const text = (row) => row.cells[column].textContent.trim();
    rows.sort((one, other) => (isDescending ? -1 : 1) * compare(text(one), text(other)));
    heads.forEach((each) => each.removeAttribute("aria-sort"));
    head.setAttribute("aria-sort", isDescending ? "descending" : "ascending");
    body.append(...rows);
  };
  for (const table of document.querySelectorAll("table.sortable")) {
    const heads = Array.from(table.tHead.rows[0].cells);
    for (const head of heads) {
      if (!head.textContent.trim()) continue;
      head.tabIndex = 0;
      head.title = "sort";
      head.addEventListener("click", () => sortTable(table, head, heads));
      head.addEventListener("keydown", (event) => {
        if (event.key === "Enter") sortTable(table, head, heads);
      });
    }
  }

  const MOST_SHOWN = 20;
  for (const list of document.querySelectorAll(".list")) {
    const items = Array.from(list.querySelectorAll(".item"));
    const tools = list.querySelector(".tools");
    if (!items.length || !tools) continue;
    const place = items[0].parentElement;
    const [search, order, count] = ["input", "select", "output"].map((name) => tools.querySelector(name));
    const more = list.querySelector(".more");
    let ranked = items;
    let isExpanded = false;
    const show = () => {
      const words = search.value.toLowerCase().split(/\s+/).filter(Boolean);
      const found = ranked.filter((item) => {
        const text = item.textContent.toLowerCase();
        return words.every((word) => text.includes(word));
      });
      const shown = new Set(isExpanded ? found : found.slice(0, MOST_SHOWN));
      for (const item of items) item.hidden = !shown.has(item);
      count.textContent = words.length ? found.length + " of " + items.length : "";
      more.hidden = shown.size === found.length;
      more.textContent = "show " + (found.length - shown.size) + " more";
    };
    const sort = () => {
      const [name, sign] = order.value.split(" ");
      const value = (item) => Number(item.getAttribute("data-" + name));
      ranked = items.slice().sort((one, other) => Number(sign) * (value(one) - value(other)));
      place.append(...ranked);
      show();
    };
    search.addEventListener("input", show);
    order.addEventListener("change", sort);
    more.addEventListener("click", () => {
      isExpanded = true;
      show();
    });
    tools.hidden = false;
    sort();
  }
})();
