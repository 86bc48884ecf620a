// The page of the server: results, and images of them while they are made.

const FIELDS = ["steps", "guidance_scale", "adapter_weight"];
const TEXTS = ["size", "negative_prompt"];
const LINKED = ["prompt", "model", "other", "seed", "n", ...FIELDS, ...TEXTS];
const PARTIAL_IMAGES = 8;
const BASE = "@base"; // compared with: the same result without its adapters
const $ = (id) => document.getElementById(id);
let running = null;
let wholeModels = new Set();

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
  const results = (await response.json()).data;
  for (const id of ["model", "other"]) {
    const select = $(id);
    for (const option of [...select.options]) if (!["", BASE].includes(option.value)) option.remove();
    select.append(...results.map((each) => new Option(each.id, each.id)));
  }
  $("results").replaceChildren(...results.map(card));
  wholeModels = new Set(results.filter((each) => each.method === "full").map((each) => each.id));
  readLink();
  offerBase();
  $("go").disabled = !results.length;
  if (!$("prompt").value && results.length) $("prompt").value = results[0].prompt;
  say(results.length ? `${results.length} ${results.length === 1 ? "result" : "results"}` : "No results yet: they appear when jobs end");
}

// A whole model has no adapters that could be left out.
function offerBase() {
  const option = [...$("other").options].find((each) => each.value === BASE);
  option.disabled = wholeModels.has($("model").value);
  if (option.disabled && option.selected) $("other").value = "";
}

function card(result) {
  const files = `results/${result.id.split("/").map(encodeURIComponent).join("/")}/files`;
  const use = element("button", { type: "button", textContent: `Use ${result.id}` });
  use.addEventListener("click", () => {
    $("model").value = result.id;
    $("prompt").value = result.prompt;
    offerBase();
    $("prompt").focus();
  });
  const made = element(
    "article", {},
    element("h3", { textContent: result.id }),
    element("p", { textContent: `${result.prompt} · ${result.method} · ${result.base_model}` }),
  );
  // With a token, a plain link would be refused.
  if (!headers().Authorization) {
    made.append(element("a", { href: `${files}/report.html`, textContent: "Report" }));
  }
  made.append(use);
  addPicture(made, `${files}/before-after.png`, `${result.id} before and after training`);
  return made;
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
  for (const name of LINKED) if ($(name).value) link.set(name, $(name).value);
  link.set("seed", seed);
  history.replaceState(null, "", `#${link}`);
}

// Images

function body(model, seed) {
  const made = {
    model, seed, prompt: $("prompt").value, n: Number($("n").value),
    stream: true, partial_images: PARTIAL_IMAGES,
  };
  for (const name of FIELDS) if ($(name).value !== "") made[name] = Number($(name).value);
  for (const name of TEXTS) if ($(name).value) made[name] = $(name).value;
  return model === BASE ? { ...made, model: $("model").value, adapter_weight: 0 } : made;
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
  const model = name === BASE ? `base model of ${request.model}` : name;
  const figures = Array.from({ length: request.n }, (_, index) => {
    const seed = request.seed + index;
    const image = element("img", { alt: `${request.prompt}, ${model}, seed ${seed}` });
    const caption = element("figcaption", { textContent: `seed ${seed}: waits` });
    return element("figure", { className: "busy" }, image, caption);
  });
  const side = element(
    "div", {}, element("h3", { textContent: model }),
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
  for await (const event of events(response)) {
    if (event.error) throw new Error(event.error.message);
    show(figures[event.index], event, request.seed + event.index);
  }
}

async function generate() {
  const seed = $("seed").value === "" ? Math.floor(Math.random() * 2 ** 31 - 1000) : Number($("seed").value);
  const models = [$("model").value, $("other").value].filter(Boolean);
  const requests = models.map((model) => body(model, Math.max(seed, 0)));
  const sides = requests.map((request, i) => pictures(models[i], request));
  const prompt = element("p", { textContent: $("prompt").value });
  const run = element(
    "div", { className: "run" }, prompt,
    element("div", { className: "sides" }, ...sides.map((each) => each.side)),
  );
  $("output").prepend(run);
  writeLink(Math.max(seed, 0));
  running = new AbortController();
  $("go").disabled = true;
  $("stop").disabled = false;
  say("Making images");
  const began = performance.now();
  try {
    await Promise.all(
      requests.map((request, i) => stream(request, sides[i].figures, running.signal)),
    );
    say(`Done in ${((performance.now() - began) / 1000).toFixed(1)} s`);
  } catch (error) {
    const stopped = error.name === "AbortError";
    running.abort();
    say(stopped ? "Stopped" : error.message, !stopped);
    for (const figure of run.querySelectorAll("figure.busy figcaption")) {
      figure.textContent = figure.textContent.replace(/:.*/, ": not made");
    }
  } finally {
    running = null;
    $("go").disabled = false;
    $("stop").disabled = true;
  }
}

$("request").addEventListener("submit", (event) => {
  event.preventDefault();
  generate();
});
$("model").addEventListener("change", offerBase);
$("stop").addEventListener("click", () => running?.abort());
$("access").addEventListener("submit", (event) => {
  event.preventDefault();
  sessionStorage.setItem("token", $("token").value);
  loadResults().catch((error) => say(error.message, true));
});
loadResults().catch((error) => say(error.message, true));
