// Runs the script of the page at `/` as a browser does, with a key in the address, against a Weir that
// runs; prints what it has written once it has shown everything.
//
//   node page.mjs http://127.0.0.1:8080 weir_live_…

const [base, key] = process.argv.slice(2);
const page = await (await fetch(`${base}/`)).text();
const script = page.split("<script>")[1].split("</script>")[0];

class Element {
  children = [];
  textContent = "";
  append(...more) { this.children.push(...more); }
  replaceChildren(...others) { this.children = others; }
  addEventListener() {}
}
const elements = {};
for (const [tag, id] of page.matchAll(/<[^>]* id="([^"]+)"[^>]*>/g)) {
  elements[id] = Object.assign(new Element(), { hidden: / hidden[ >]/.test(tag) });
}
const document = { getElementById: (id) => elements[id], createElement: () => new Element(), hidden: false };
const location = { origin: base, hash: `#key=${key}` };
const names = ["document", "location", "fetch", "addEventListener"];
new Function(...names, script)(document, location, (path, options) => fetch(base + path, options), () => {});

const texts = (row) => row.children.map((cell) => cell.textContent);
const begun = Date.now();
let well = begun;
setInterval(() => {
  if (elements.events.textContent && !elements.main.hidden) {
    console.log(JSON.stringify({
      state: elements.state.textContent,
      hint_is_hidden: elements.hint.hidden,
      tiles: Object.fromEntries(elements.tiles.children.map(texts).map(([number, name]) => [name, number])),
      teams: elements.teams.children.map(texts),
      partitions: elements.partitions.children.map(texts),
      lines: ["send", "balance", "events"].map((id) => elements[id].textContent),
    }));
    process.exit(0);
  }
  // A refused key stays refused; what passes is asked for again.
  if (elements.state.className !== "bad") well = Date.now();
  if (Date.now() - well > 5_000 || Date.now() - begun > 60_000) {
    console.error(`nothing is shown: ${elements.state.textContent}`);
    process.exit(1);
  }
}, 50);
