// Conveniences only: the page says everything without this script.
"use strict";
const root = document.documentElement;

function tool(text, act) {
  const made = document.createElement("button");
  made.type = "button";
  made.className = "tool";
  made.textContent = text;
  made.addEventListener("click", () => act(made));
  return made;
}

// Dark or light, whatever the screen says.
const dark = () => (root.dataset.theme || (matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light")) === "dark";
document.querySelector("nav")?.append(tool("dark / light", () => { root.dataset.theme = dark() ? "light" : "dark"; }));

// Blocks of code are copied.
for (const block of document.querySelectorAll("pre")) {
  const text = block.textContent;
  block.prepend(tool("copy", async (made) => {
    try {
      await navigator.clipboard.writeText(text);
      made.textContent = "copied";
    } catch {
      getSelection().selectAllChildren(block);  // the reader copies it
      made.textContent = "selected";
    }
  }));
}

// Tables are sorted by the column whose heading is pressed. Names that a row leaves out are those of the row before.
const UNITS = { T: 1e12, G: 1e9, M: 1e6, k: 1e3, m: 1e-3 };
function key(cell) {
  const text = cell.dataset.name || cell.textContent.trim();
  const found = text.replace(/,(?=\d{3})/g, "").match(/^[×+]?(-?\d[\d.]*(?:e[-+]?\d+)?)(?: ([TGMkm])?[BJ]\b)?/);
  return found ? found[1] * (UNITS[found[2]] || 1) : text;
}
for (const table of document.querySelectorAll("table")) {
  const [body] = table.tBodies;
  if (body.rows.length < 3) continue;
  const rows = [...body.rows];
  const names = Number(table.className.match(/names-(\d)/)[1]);
  const named = (row) => [...row.cells].slice(0, names);
  rows.forEach((row, i) => named(row).forEach((cell, j) => {
    cell.dataset.name = cell.textContent || rows[i - 1].cells[j].dataset.name;
  }));
  [...table.tHead.rows[0].cells].forEach((heading, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...heading.childNodes);
    heading.append(button);
    button.addEventListener("click", () => {
      const up = heading.getAttribute("aria-sort") !== "ascending";
      for (const other of table.tHead.rows[0].cells) other.removeAttribute("aria-sort");
      heading.setAttribute("aria-sort", up ? "ascending" : "descending");
      const keyed = rows.map((row) => [key(row.cells[column]), row]);
      keyed.sort(([a], [b]) => (typeof a === typeof b ? (a < b ? -1 : a > b ? 1 : 0) : typeof a === "number" ? -1 : 1) * (up ? 1 : -1));
      body.append(...keyed.map(([, row]) => row));
      for (const row of rows) {
        for (const cell of named(row)) cell.textContent = cell.dataset.name;
        row.classList.remove("group");
      }
    });
  });
}
