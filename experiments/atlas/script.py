"""What makes a table of the atlas searched and sorted: plain JavaScript within the page, no network.

Without it the table is all there. Headers become buttons, so that a keyboard reaches them, and say how they
sort by aria-sort; how many rows are shown is told by a status line.
"""

SCRIPT = """
<script>
(() => {
  const table = document.querySelector("table"), body = table.tBodies[0], rows = [...body.rows];
  const heads = [...table.tHead.rows[0].cells];
  const field = document.getElementById("search"), shown = document.getElementById("shown");
  const tell = () => {
    const count = rows.filter((row) => !row.hidden).length;
    shown.textContent = `${count} of ${rows.length} orbits shown`;
  };
  const compare = (a, b) => {
    const [x, y] = [Number(a), Number(b)];
    return a !== "" && b !== "" && !isNaN(x) && !isNaN(y) ? x - y : a.localeCompare(b, "en");
  };
  field.addEventListener("input", () => {
    const words = field.value.toLowerCase().split(/\\s+/).filter(Boolean);
    for (const row of rows) {
      const text = row.textContent.toLowerCase();
      row.hidden = !words.every((word) => text.includes(word));
    }
    tell();
  });
  heads.forEach((head, column) => {
    if (rows.some((row) => row.cells[column].querySelector("svg"))) return;
    const button = document.createElement("button");
    button.type = "button";
    button.append(...head.childNodes);
    head.append(button);
    button.addEventListener("click", () => {
      const down = head.getAttribute("aria-sort") === "ascending";
      heads.forEach((other) => other.removeAttribute("aria-sort"));
      head.setAttribute("aria-sort", down ? "descending" : "ascending");
      const key = (row) => row.cells[column].textContent.trim();
      rows.sort((one, other) => (down ? -1 : 1) * compare(key(one), key(other)));
      body.append(...rows);
    });
  });
  heads[0].setAttribute("aria-sort", "ascending");
  document.getElementById("find").hidden = false;
  tell();
})();
</script>
"""
FIND = (
    '<form id="find" role="search" hidden onsubmit="return false">'
    '<label for="search">Search names, verdicts and numbers</label> '
    '<input id="search" type="search" autocomplete="off"> <span id="shown" role="status"></span></form>'
)
STYLE = """
#find { margin: 1rem 0; } #search { font: inherit; padding: 0.2rem 0.4rem; max-width: 100%; }
th button { font: inherit; font-weight: 600; background: none; border: 0; padding: 0.2rem 0; color: #00508a;
  cursor: pointer; text-decoration: underline; }
th[aria-sort=ascending] button::after { content: " \\25B2"; }
th[aria-sort=descending] button::after { content: " \\25BC"; }
a:focus-visible, button:focus-visible, input:focus-visible, .scroll:focus-visible, summary:focus-visible {
  outline: 3px solid #d55e00; outline-offset: 2px; }
nav ol { list-style: none; display: flex; flex-wrap: wrap; gap: 0 0.6rem; padding: 0; margin: 0; }
nav ol a { margin: 0; white-space: normal; } section { scroll-margin-top: 1rem; }
.pictures { display: flex; flex-wrap: wrap; gap: 1.5rem; }
.pictures figure { margin: 0.5rem 0; max-width: 24rem; }
footer { margin-top: 2.5rem; border-top: 1px solid #bbb; color: #444; font-size: 0.9rem; padding: 0.6rem 0; }
"""
