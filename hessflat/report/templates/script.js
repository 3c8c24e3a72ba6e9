// Figures are packed, so that the page stays small.
async function unpack(image) {
  const bytes = Uint8Array.from(atob(image.dataset.packed), (letter) => letter.charCodeAt(0));
  const stream = new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"));
  const figure = await new Response(stream, { headers: { "Content-Type": "image/svg+xml" } }).blob();
  image.src = URL.createObjectURL(figure);
}
document.querySelectorAll("img[data-packed]").forEach(unpack);

const form = document.querySelector(".filters");
const claims = [...document.querySelectorAll(".claim")].map((node) => ({
  node,
  text: `${node.closest("section")?.querySelector("header")?.textContent} ${node.textContent}`.toLowerCase(),
}));

function filter() {
  const words = form.elements.search.value.toLowerCase().split(/\s+/);
  const chosen = ["paper", "verdict", "scale"].map((name) => [
    name,
    [...form.querySelectorAll(`[name=${name}]:checked`)].map((box) => box.value),
  ]);
  for (const { node, text } of claims) {
    const matches = chosen.every(([name, values]) => !values.length || values.includes(node.dataset[name]));
    node.hidden = !(matches && words.every((word) => text.includes(word)));
  }
  const shown = claims.filter(({ node }) => !node.hidden).length;
  for (const group of document.querySelectorAll(".experiment, .paper")) {
    group.hidden = shown < claims.length && !group.querySelector(".claim:not([hidden])");
  }
  form.querySelector(".shown").textContent = `${shown} of ${claims.length} claims are shown.`;
}

function showAll() {
  form.reset();
  filter();
}

// A link leads to its target also where that is filtered out or closed.
function reveal() {
  const target = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  if (!target) return;
  if (form && target.closest("[hidden]")) showAll();
  for (let part = target; part; part = part.parentElement) if (part.tagName === "DETAILS") part.open = true;
  target.scrollIntoView();
}

const dialog = document.querySelector("dialog");
for (const button of document.querySelectorAll("button.enlarge")) {
  button.addEventListener("click", () => {
    const image = button.querySelector("img");
    const enlarged = dialog.querySelector("img");
    enlarged.src = image.currentSrc;
    enlarged.alt = image.alt;
    dialog.showModal();
    dialog.scrollTo(0, 0);
  });
}
if (form) {
  form.hidden = false;
  form.addEventListener("input", filter);
  form.querySelector("button").addEventListener("click", showAll);
  form.addEventListener("submit", (event) => event.preventDefault());
  filter();
}
addEventListener("hashchange", reveal);
reveal();
