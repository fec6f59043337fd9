"use strict";
// Light or dark: as the system says, until the button is pressed
const root = document.documentElement, theme = document.getElementById("theme");
theme.hidden = false;
theme.addEventListener("click", () => {
  const isDark = root.dataset.theme ? root.dataset.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  root.dataset.theme = isDark ? "light" : "dark";
});

// A box that is not checked hides its agent everywhere
const hidden = document.head.appendChild(document.createElement("style"));
const boxes = [...document.querySelectorAll("input[data-agent]")];
const show = () => {
  const off = boxes.filter((box) => !box.checked).map((box) => "." + box.dataset.agent);
  hidden.textContent = off.length ? off.join(",") + "{display:none}" : "";
};
boxes.forEach((box) => box.addEventListener("change", show));
show();

// A click on the head of a column sorts: largest first, then smallest first
const keyOf = (row, column) => {
  const cell = row.cells[column];
  return column === 0 ? cell.textContent.trim() : cell.dataset.value === undefined ? null : Number(cell.dataset.value);
};
const compare = (a, b, direction) => {
  if (a === null || b === null) return (a === null) - (b === null);
  return direction * (typeof a === "string" ? -a.localeCompare(b) : a - b);
};
document.querySelectorAll("table.sortable").forEach((table) => {
  [...table.tHead.rows[0].cells].forEach((head, column) => {
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const direction = head.getAttribute("aria-sort") === "descending" ? 1 : -1;
      [...table.tHead.rows[0].cells].forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", direction < 0 ? "descending" : "ascending");
      const body = table.tBodies[0];
      [...body.rows].sort((a, b) => compare(keyOf(a, column), keyOf(b, column), direction)).forEach((row) => body.append(row));
    });
  });
});
