// The page of the server: results, and images of them while they are made.

const FIELDS = ["steps", "guidance_scale"];
const TEXTS = ["size", "negative_prompt"];
const SIDES = ["model", "adapter_weight", "other", "other_weight"];
const LINKED = ["prompt", ...SIDES, "seed", "n", ...FIELDS, ...TEXTS];
const PARTIAL_IMAGES = 8;
const BASE = "@base"; // compared with: the same result without its adapters
const LAST = "@last"; // of a run whose best model is another one
const $ = (id) => document.getElementById(id);
const given = (id) => ($(id).disabled ? "" : $(id).value);
let running = null;
let results = new Map(); // by their names

const headers = () => {
  const token = sessionStorage.getItem("token");
  return token ? { Authorization: `Bearer ${token}` } : {};
};

function say(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

const element = (name, properties = {}, ...children) => {
  const made = Object.assign(document.createElement(name), properties);
  made.append(...children);
  return made;
};

async function problem(response) {
  const body = await response.json().catch(() => null);
  return body?.error?.message ?? `the server answered ${response.status}`;
}

// Results

async function loadResults() {
  const response = await fetch("v1/models", { headers: headers() });
  $("access").hidden = response.status !== 401;
  if (!response.ok) throw new Error(await problem(response));
  const listed = (await response.json()).data;
  results = new Map(listed.map((each) => [each.id, each]));
  for (const id of ["model", "other"]) {
    const select = $(id);
    for (const option of [...select.options]) if (!["", BASE].includes(option.value)) option.remove();
    select.append(...listed.map((each) => new Option(each.id, each.id)));
  }
  // The model of a run's last step has the pictures and the report of the run.
  $("results").replaceChildren(...listed.filter((each) => !each.id.endsWith(LAST)).map(card));
  readLink();
  offerSides();
  $("go").disabled = !listed.length;
  if (!$("prompt").value && listed.length) $("prompt").value = listed[0].prompt;
  say(listed.length ? `${listed.length} ${listed.length === 1 ? "result" : "results"}` : "No results yet: they appear when jobs end");
}

// A whole model, or a learned word alone, has no adapters that could be left out, or weighed.
function offerSides() {
  const option = [...$("other").options].find((each) => each.value === BASE);
  option.disabled = !hasAdapters($("model").value);
  option.textContent = option.disabled ? "its base model (it has no adapters)" : "its base model";
  if (option.disabled && option.selected) $("other").value = "";
  const other = $("other").value;
  offerWeight("adapter_weight", option.disabled ? "no adapters" : "");
  if (other === "") offerWeight("other_weight", "no comparison");
  else if (other === BASE) offerWeight("other_weight", "0: without adapters");
  else offerWeight("other_weight", hasAdapters(other) ? "" : "no adapters");
  showDefaults([$("model").value, other].filter((each) => results.has(each)).map((each) => results.get(each)));
}

const hasAdapters = (name) => results.get(name)?.has_adapters ?? true;

// A field that cannot be filled in says why.
function offerWeight(id, reason) {
  $(id).disabled = reason !== "";
  $(id).placeholder = reason || "1";
  if (reason) $(id).value = "";
}

// What is left empty is as in the job of each result.
function showDefaults(compared) {
  const all = (value) => [...new Set(compared.map(value))].join(" or ");
  $("steps").placeholder = all((result) => result.steps);
  $("guidance_scale").placeholder = all((result) => result.guidance_scale);
  $("size").placeholder = all((result) => `${result.resolution}x${result.resolution}`);
}

function card(result) {
  const files = `results/${result.id.split("/").map(encodeURIComponent).join("/")}/files`;
  const use = element("button", { type: "button", textContent: `Use ${result.id}` });
  use.addEventListener("click", () => {
    $("model").value = result.id;
    $("prompt").value = result.prompt;
    offerSides();
    $("prompt").focus();
  });
  const made = element(
    "article", {},
    element("h3", { textContent: result.id }),
    element("p", { textContent: `${result.prompt} · ${result.method} · ${result.base_model}` }),
  );
  const report = element("a", { href: `${files}/report.html`, textContent: "Report" });
  if (headers().Authorization) report.addEventListener("click", (event) => download(event, result.id));
  made.append(report, use);
  addPicture(made, `${files}/before-after.png`, `${result.id} before and after training`);
  return made;
}

// With a token, a plain link would be refused. The file is saved and not opened: a page of this origin
// could read the token.
async function download(event, id) {
  const link = event.currentTarget;
  if (link.download) return;
  event.preventDefault();
  const response = await fetch(link.href, { headers: headers() });
  if (!response.ok) return say(await problem(response), true);
  link.href = URL.createObjectURL(await response.blob());
  link.download = `${id.replaceAll("/", "-")}-report.html`;
  link.click();
}

async function addPicture(article, url, alt) {
  const response = await fetch(url, { headers: headers() });
  if (!response.ok) return;
  const src = URL.createObjectURL(await response.blob());
  article.insertBefore(element("img", { src, alt }), article.children[1]);
}

// Links: the settings are in the address

function readLink() {
  const link = new URLSearchParams(location.hash.slice(1));
  for (const name of LINKED) if (link.has(name)) $(name).value = link.get(name);
}

function writeLink(seed) {
  const link = new URLSearchParams();
  for (const name of LINKED) if (given(name)) link.set(name, given(name));
  link.set("seed", seed);
  history.replaceState(null, "", `#${link}`);
}

// Images

// A prompt is one line; one that is pasted may have been broken into several.
const promptLine = () => $("prompt").value.replace(/\s*[\r\n]+\s*/g, " ").trim();

// What is made side by side: results, and the weights of their adapters.
function sides() {
  const side = (model, weight) => ({
    model, weight, name: ["", "1"].includes(weight) ? model : `${model}, weight ${weight}`,
  });
  const own = side(given("model"), given("adapter_weight"));
  const other = given("other");
  if (!other) return [own];
  if (other === BASE) return [own, { ...side(own.model, "0"), name: `base model of ${own.model}` }];
  return [own, side(other, given("other_weight"))];
}

function body({ model, weight }, seed) {
  const made = {
    model, seed, prompt: promptLine(), n: Number($("n").value),
    stream: true, partial_images: PARTIAL_IMAGES,
  };
  if (weight !== "") made.adapter_weight = Number(weight);
  for (const name of FIELDS) if ($(name).value !== "") made[name] = Number($(name).value);
  for (const name of TEXTS) if ($(name).value) made[name] = $(name).value;
  return made;
}

async function* events(response) {
  // Server-sent events (HTML standard, section 9.2), as far as the server uses them.
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let buffer = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    buffer += value.replaceAll("\r", "");
    const blocks = buffer.split("\n\n");
    buffer = blocks.pop();
    for (const block of blocks) {
      const lines = block.split("\n").filter((line) => line.startsWith("data:"));
      if (lines.length) yield JSON.parse(lines.map((line) => line.slice(5).trim()).join("\n"));
    }
  }
}

function pictures(name, request) {
  const figures = Array.from({ length: request.n }, (_, index) => {
    const seed = request.seed + index;
    const image = element("img", { alt: `${request.prompt}, ${name}, seed ${seed}` });
    const caption = element("figcaption", { textContent: `seed ${seed}: waits` });
    return element("figure", { className: "busy" }, image, caption);
  });
  const side = element(
    "div", {}, element("h3", { textContent: name }),
    element("div", { className: "pictures" }, ...figures),
  );
  return { side, figures };
}

function show(figure, event, seed) {
  const source = `data:image/png;base64,${event.b64_json}`;
  figure.querySelector("img").src = source;
  const caption = figure.querySelector("figcaption");
  if (event.type.endsWith("partial_image")) {
    caption.textContent = `seed ${seed}: ${event.partial_image_index + 1} of ${PARTIAL_IMAGES}`;
  } else {
    figure.classList.remove("busy");
    const name = `${seed}.png`;
    caption.replaceChildren(
      `seed ${seed} `, element("a", { href: source, download: name, textContent: "save" }),
    );
  }
}

async function stream(request, figures, signal) {
  const response = await fetch("v1/images/generations", {
    method: "POST", signal, body: JSON.stringify(request),
    headers: { ...headers(), "Content-Type": "application/json" },
  });
  if (!response.ok) throw new Error(await problem(response));
  const warnings = new Set();
  for await (const event of events(response)) {
    if (event.error) throw new Error(event.error.message);
    show(figures[event.index], event, request.seed + event.index);
    for (const warning of event.warnings ?? []) warnings.add(warning);
  }
  return [...warnings];
}

async function generate() {
  const seed = $("seed").value === "" ? Math.floor(Math.random() * 2 ** 31 - 1000) : Number($("seed").value);
  const compared = sides();
  const requests = compared.map((side) => body(side, Math.max(seed, 0)));
  const shown = requests.map((request, i) => pictures(compared[i].name, request));
  const prompt = element("p", { textContent: promptLine() });
  const run = element(
    "div", { className: "run" }, prompt,
    element("div", { className: "sides" }, ...shown.map((each) => each.side)),
  );
  $("output").prepend(run);
  writeLink(Math.max(seed, 0));
  running = new AbortController();
  $("go").disabled = true;
  $("stop").disabled = false;
  say("Making images");
  const began = performance.now();
  try {
    const warnings = await Promise.all(
      requests.map((request, i) => stream(request, shown[i].figures, running.signal)),
    );
    const unique = [...new Set(warnings.flat())];
    prompt.after(...unique.map((text) => element("p", { className: "warning", textContent: text })));
    say(`Done in ${((performance.now() - began) / 1000).toFixed(1)} s`);
  } catch (error) {
    const stopped = error.name === "AbortError";
    running.abort();
    say(stopped ? "Stopped" : error.message, !stopped);
    if (!run.querySelector("img[src]")) run.remove();
    for (const caption of run.querySelectorAll("figure.busy figcaption")) {
      caption.textContent = caption.textContent.replace(/:.*/, ": not made");
    }
  } finally {
    running = null;
    $("go").disabled = false;
    $("stop").disabled = true;
  }
}

$("prompt").addEventListener("keydown", (event) => {
  // Not while a word is composed, as in Japanese; Shift+Enter begins a new line.
  if (event.key !== "Enter" || event.shiftKey || event.isComposing) return;
  event.preventDefault();
  if (!$("go").disabled) $("request").requestSubmit();
});
$("request").addEventListener("submit", (event) => {
  event.preventDefault();
  generate();
});
for (const id of ["model", "other"]) $(id).addEventListener("change", offerSides);
$("stop").addEventListener("click", () => running?.abort());
$("access").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", $("token").value);
  loadResults().catch((error) => say(error.message, true));
});
loadResults().catch((error) => say(error.message, true));
