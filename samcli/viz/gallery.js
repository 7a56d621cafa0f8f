"use strict";
// The gallery's program. Names and labels may hold anything: they reach the page as text only, never as markup.
(() => {

const $ = (id) => document.getElementById(id);
const make = (tag, className, text) => {
  const element = document.createElement(tag);
  if (className) element.className = className;
  if (text !== undefined) element.textContent = text;
  return element;
};
const count = (n) => n.toLocaleString("en");
const plural = (n, names) => `${count(n)} ${n === 1 ? names.slice(0, -1) : names}`;

// ---- The index: all images and masks, as columns

const index = JSON.parse($("index").textContent);
const column = (name, Kind) => {
  const text = atob(index.columns[name]), bytes = new Uint8Array(text.length);
  for (let i = 0; i < text.length; i++) bytes[i] = text.charCodeAt(i);
  return new Kind(bytes.buffer);  // little-endian, as every browser's machine is
};
const ID = column("id", Int32Array), AREA = column("area", Uint32Array), COLOR = column("color", Uint32Array);
const LABEL = column("label", Int32Array);
const SCORE = column("score", Int16Array), IOU = column("iou", Int16Array);
const STABILITY = column("stability", Int16Array), DETECTOR = column("detector", Int16Array);
const UNIT = 10000, NONE = -32768;
const LABELS = index.labels;

let first = 0;
const IMAGES = index.images.map(([name, width, height, w, h, kind, masks, problem], i) => {
  const image = { i, name, low: name.toLowerCase(), width, height, w, h, kind, problem, first, end: first + masks };
  first += masks;
  return image;
});
const MASKS = first;
const SHARE = new Float64Array(MASKS);  // area in per cent of the image
for (const image of IMAGES) {
  for (let k = image.first; k < image.end; k++) SHARE[k] = (100 * AREA[k]) / (image.width * image.height);
}
let worst = 0, best = UNIT;
for (let k = 0; k < MASKS; k++) {
  if (SCORE[k] === NONE) continue;  // made by a program that gives none
  worst = Math.min(worst, SCORE[k]);
  best = Math.max(best, SCORE[k]);
}
const LOWEST = Math.floor(worst / 100) / 100, HIGHEST = Math.ceil(best / 100) / 100;

const rgb = (color) => `rgb(${color >> 16},${(color >> 8) & 255},${color & 255})`;
const lighter = (color) => {  // as contours on overlays: 40 % white
  const mix = (v) => Math.round(0.6 * v + 102);
  return `rgb(${mix(color >> 16)},${mix((color >> 8) & 255)},${mix(color & 255)})`;
};
const digits = (score) => (score === NONE ? "–" : (score / UNIT).toFixed(3));
const percent = (share) => `${share >= 10 ? share.toFixed(0) : share >= 0.1 ? share.toFixed(1) : share.toPrecision(1)} %`;
const title = (k) => (LABEL[k] < 0 ? `Mask ${ID[k]}` : LABELS[LABEL[k]][0]);

// ---- What is shown: kept in the address, so that a view can be shared and reloaded

const WHOLE = { q: "", show: "all", score: null, area: [0, 100], labels: [], sort: "name", turned: false };
let state = { ...WHOLE, paint: "fill", theme: "", size: null, open: null };

function readAddress() {
  const given = new URLSearchParams(location.hash.slice(1));
  const one = (name, values, fallback) => (values.includes(given.get(name)) ? given.get(name) : fallback);
  const number = (text, fallback) => (text !== null && text !== "" && isFinite(text) ? Number(text) : fallback);
  const area = (given.get("area") || "").split(",");
  const names = given.getAll("label").concat(given.has("unlabelled") ? [null] : []);
  state = {
    q: given.get("q") || "",
    show: one("show", ["all", "ok", "empty", "failed"], "all"),
    score: number(given.get("score"), null),
    area: [number(area[0], 0), number(area[1] ?? "", 100)],
    labels: names
      .map((name) => (name === null ? -1 : LABELS.findIndex((label) => whole(label[0]) === name)))
      .filter((label, place) => label >= 0 || names[place] === null),
    sort: one("sort", ["name", "masks", "best", "mean", "area"], "name"),
    turned: given.has("turned"),
    paint: one("masks", ["fill", "line", "off"], "fill"),
    theme: one("theme", ["light", "dark"], ""),
    size: number(given.get("size"), null),
    open: given.get("open"),
  };
}
const whole = (text) => new URLSearchParams({ a: text }).get("a");  // without halves of characters

function writeAddress() {
  const said = new URLSearchParams();
  if (state.q) said.set("q", state.q);
  if (state.show !== "all") said.set("show", state.show);
  if (state.score !== null) said.set("score", state.score);
  if (state.area[0] > 0 || state.area[1] < 100) said.set("area", state.area.join(","));
  for (const label of state.labels) {
    if (label < 0) said.set("unlabelled", "");
    else said.append("label", LABELS[label][0]);
  }
  if (state.sort !== "name") said.set("sort", state.sort);
  if (state.turned) said.set("turned", "");
  if (state.paint !== "fill") said.set("masks", state.paint);
  if (state.theme) said.set("theme", state.theme);
  if (state.size !== null) said.set("size", state.size);
  if (state.open !== null) said.set("open", state.open);
  const hash = said.toString().replace(/=(?=&|$)/g, "").replaceAll("%2C", ",").replaceAll("%2F", "/");
  if (`#${hash}` !== (location.hash || "#")) history.replaceState(null, "", `#${hash}`);
}
let writing = 0;
function remember() {  // browsers refuse many changes of the address in a short time
  clearTimeout(writing);
  writing = setTimeout(writeAddress, 200);
}

// ---- Filters and order

const passes = new Uint8Array(MASKS);  // 1: the mask passes the filters
const passing = new Int32Array(IMAGES.length);
let shown = [];  // the images, in their order

const byScore = () => state.score !== null && state.score > LOWEST;
const byArea = () => state.area[0] > 0 || state.area[1] < 100;
const byMasks = () => byScore() || byArea() || state.labels.length > 0;

function filter() {
  const words = state.q.toLowerCase().split(/\s+/).filter(Boolean);
  const least = byScore() ? Math.round(state.score * UNIT) : NONE;
  const [from, to] = state.area, all = !byArea();
  const wanted = new Set(state.labels), any = wanted.size === 0;
  const ofLabel = new Int32Array(LABELS.length + 1);  // masks that the other filters leave; the last: no label
  let masks = 0;
  shown = [];
  for (const image of IMAGES) {
    const found = words.every((word) => image.low.includes(word));
    let n = 0;
    for (let k = image.first; k < image.end; k++) {
      const fits = SCORE[k] >= least && (all || (SHARE[k] >= from && SHARE[k] <= to));
      if (fits && found) ofLabel[LABEL[k] < 0 ? LABELS.length : LABEL[k]]++;
      n += passes[k] = fits && (any || wanted.has(LABEL[k])) ? 1 : 0;
    }
    passing[image.i] = n;
    const failed = image.kind === "failed";
    const fits = { all: failed ? !byMasks() : n > 0 || !byMasks(), ok: !failed && (n > 0 || !byMasks()),
      empty: !failed && n === 0, failed }[state.show];
    if (found && fits) {
      shown.push(image.i);
      masks += n;
    }
  }
  order();
  $("count").textContent =
    `${count(shown.length)} of ${plural(IMAGES.length, "images")} · ${count(masks)} of ${plural(MASKS, "masks")}`;
  return ofLabel;
}

function order() {
  if (state.sort !== "name") {
    const value = new Float64Array(IMAGES.length);
    for (const i of shown) {
      const image = IMAGES[i];
      let top = -Infinity, sum = 0, scored = 0, largest = -Infinity;
      for (let k = image.first; k < image.end; k++) {
        if (!passes[k]) continue;
        largest = Math.max(largest, SHARE[k]);
        if (SCORE[k] === NONE) continue;
        top = Math.max(top, SCORE[k]);
        sum += SCORE[k];
        scored++;
      }
      const n = passing[i];
      value[i] = { masks: image.kind === "failed" ? NaN : n, best: scored ? top : NaN,
        mean: scored ? sum / scored : NaN,
        area: n ? largest : NaN }[state.sort];
    }
    const sign = state.turned ? 1 : -1;  // the most first, unless turned
    shown.sort((a, b) => {
      const x = value[a], y = value[b];
      if (isNaN(x) || isNaN(y)) return isNaN(x) - isNaN(y) || a - b;  // those without a value stay last
      return sign * (x - y) || a - b;
    });
  } else if (state.turned) shown.reverse();
}

function refresh() {
  const ofLabel = filter();
  drawFilters(ofLabel);
  layOut();
  for (const tile of tiles.values()) update(tile);
  if ($("large").open) fillLarge();
  remember();
}

// ---- The controls

const AREA_FROM = 0.001;  // per cent; the slider is logarithmic from there to 100
const areaAt = (place) => (place <= 0 ? 0 : place >= 100 ? 100 : Number((AREA_FROM * (100 / AREA_FROM) ** (place / 100)).toPrecision(2)));
const placeOf = (area) => Math.max(0, Math.min(100, (100 * Math.log(area / AREA_FROM)) / Math.log(100 / AREA_FROM)));

const BARS = 48;
const barsOf = (place) => {  // which bar each mask belongs to, -1 for none, and how many are in each
  const of = new Int8Array(MASKS), every = new Float64Array(BARS);
  for (let k = 0; k < MASKS; k++) {
    of[k] = Math.min(BARS - 1, Math.floor(BARS * place(k)));
    if (of[k] >= 0) every[of[k]]++;
  }
  return { of, every };
};
const scoreBars = barsOf((k) => (SCORE[k] === NONE ? -1 : (SCORE[k] / UNIT - LOWEST) / (HIGHEST - LOWEST)));
const areaBars = barsOf((k) => placeOf(SHARE[k]) / 100);
function drawBars(svg, { of, every }) {
  const left = new Float64Array(BARS), high = Math.max(1, ...every);
  for (let k = 0; k < MASKS; k++) if (passes[k] && of[k] >= 0) left[of[k]]++;
  const path = (values) => {
    let d = "";
    for (let i = 0; i < BARS; i++) {
      const tall = values[i] ? Math.max(0.6, 20 * Math.sqrt(values[i] / high)) : 0;  // few must be seen beside many
      if (tall) d += `M${i + 0.1} 20v${-tall}h.8v${tall}z`;
    }
    return d;
  };
  svg.setAttribute("viewBox", `0 0 ${BARS} 20`);
  svg.querySelector(".some").setAttribute("d", path(every));
  svg.querySelector(".all").setAttribute("d", path(left));
}

let everyLabel = false;
const FEW = 14;
function drawFilters(ofLabel) {
  const set = (input, value) => { if (document.activeElement !== input || input.type !== "search") input.value = value; };
  set($("search"), state.q);
  for (const input of document.querySelectorAll("[name=show]")) input.checked = input.value === state.show;
  for (const input of document.querySelectorAll("[name=paint]")) input.checked = input.value === state.paint;
  $("score").value = byScore() ? state.score : LOWEST;
  $("score-said").textContent = byScore() ? state.score.toFixed(2) : "any";
  const [from, to] = state.area;
  $("area-min").value = from > 0 ? placeOf(from) : 0;
  $("area-max").value = to < 100 ? placeOf(to) : 100;
  const said = (v) => `${Number(v.toPrecision(2))} %`;
  $("area-said").textContent = !byArea() ? "any" : to >= 100 ? `at least ${said(from)}` : from <= 0 ? `at most ${said(to)}` : `${said(from)} to ${said(to)}`;
  $("area-min").setAttribute("aria-valuetext", from > 0 ? said(from) : "any");
  $("area-max").setAttribute("aria-valuetext", to < 100 ? said(to) : "any");
  $("sort").value = state.sort;
  $("direction").setAttribute("aria-pressed", state.turned);
  drawBars($("score-bars"), scoreBars);
  drawBars($("area-bars"), areaBars);
  drawLabels(ofLabel);
  const on = (state.q !== "") + (state.show !== "all") + byScore() + byArea() + state.labels.length;
  $("filters-on").hidden = on === 0;
  $("filters-on").textContent = on;
  $("reset").hidden = on === 0;
  $("filters-close").textContent = `Show ${plural(shown.length, "images")}`;
  document.documentElement.dataset.theme = state.theme;
}

let labelOrder = null;  // by their number of masks in all, so that chips stay where they are
function drawLabels(ofLabel) {
  $("label-group").hidden = LABELS.length === 0;
  if (LABELS.length === 0) return;
  if (!labelOrder) {
    const every = new Int32Array(LABELS.length + 1);
    for (let k = 0; k < MASKS; k++) every[LABEL[k] < 0 ? LABELS.length : LABEL[k]]++;
    labelOrder = LABELS.map((_, label) => label).sort((a, b) => every[b] - every[a] || a - b);
    if (every[LABELS.length]) labelOrder.push(-1);
  }
  const visible = labelOrder.filter((label, place) => everyLabel || place < FEW || state.labels.includes(label));
  const box = $("labels");
  const focused = document.activeElement?.dataset?.label;
  box.replaceChildren(...visible.map((label) => {
    const chip = make("button", "chip");
    chip.type = "button";
    chip.dataset.label = label;
    chip.setAttribute("aria-pressed", state.labels.includes(label));
    if (label >= 0) {
      const dot = make("span", "dot");
      dot.style.setProperty("--c", rgb(LABELS[label][1]));
      chip.append(dot);
    }
    const text = label < 0 ? "no label" : LABELS[label][0];
    chip.title = text;
    chip.append(make("span", "text", text), make("span", "number", count(ofLabel[label < 0 ? LABELS.length : label])));
    return chip;
  }));
  if (focused !== undefined) box.querySelector(`[data-label="${Number(focused)}"]`)?.focus();
  $("labels-more").hidden = labelOrder.length <= FEW;
  $("labels-more").textContent = everyLabel ? "Fewer" : `${labelOrder.length - FEW} more`;
}

function change(values) {
  Object.assign(state, values);
  refresh();
}
const reset = () => change({ q: "", show: "all", score: null, area: [0, 100], labels: [] });

function listen() {
  $("search").addEventListener("input", () => change({ q: $("search").value }));
  $("filters").addEventListener("change", (event) => {
    const { name, value } = event.target;
    if (name === "show" || name === "paint") change({ [name]: value });
  });
  $("score").min = LOWEST;
  $("score").max = HIGHEST;
  $("score").addEventListener("input", () => {
    const value = Number($("score").value);
    change({ score: value > LOWEST ? value : null });
  });
  for (const side of ["area-min", "area-max"]) {
    $(side).addEventListener("input", () => {
      let [from, to] = state.area;
      if (side === "area-min") from = Math.min(areaAt(Number($(side).value)), to);
      else to = Math.max(areaAt(Number($(side).value)), from);
      change({ area: [from, to] });
    });
  }
  $("labels").addEventListener("click", (event) => {
    const chip = event.target.closest(".chip");
    if (!chip) return;
    const label = Number(chip.dataset.label);
    change({ labels: state.labels.includes(label) ? state.labels.filter((other) => other !== label) : [...state.labels, label] });
  });
  $("labels-more").addEventListener("click", () => { everyLabel = !everyLabel; refresh(); });
  $("sort").addEventListener("change", () => change({ sort: $("sort").value }));
  $("direction").addEventListener("click", () => change({ turned: !state.turned }));
  $("size").addEventListener("input", () => change({ size: Number($("size").value) }));
  $("theme").addEventListener("click", otherTheme);
  $("help").addEventListener("click", () => $("keys").showModal());
  $("reset").addEventListener("click", reset);
  $("nothing").querySelector("button").addEventListener("click", reset);
  $("filters-open").addEventListener("click", () => openFilters(true));
  $("filters-close").addEventListener("click", () => openFilters(false));
  window.addEventListener("hashchange", () => { readAddress(); refresh(); openFromAddress(); });
  window.addEventListener("resize", layOut);
  window.addEventListener("scroll", scrolled, { passive: true });
  new ResizeObserver(() => {
    $("filters").style.top = matchMedia("(max-width: 820px)").matches ? "" : `${$("bar").offsetHeight}px`;
  }).observe($("bar"));
  document.addEventListener("keydown", key);
  matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => { for (const tile of tiles.values()) paint(tile); });
  listenGrid();
  listenLarge();
}

function otherTheme() {
  const dark = state.theme ? state.theme === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
  change({ theme: dark ? "light" : "dark" });
}
function openFilters(open) {
  document.body.classList.toggle("filtering", open);
  $("filters-open").setAttribute("aria-expanded", open);
  (open ? $("filters-close") : $("filters-open")).focus();
}

function key(event) {
  if (event.ctrlKey || event.metaKey || event.altKey || $("keys").open) return;
  const typing = event.target.matches("input[type=search], select");
  const sliding = event.target.matches("input[type=range], input[type=radio]");
  if ($("large").open) {
    keyLarge(event);
    return;
  }
  if (event.key === "Escape") {
    if (document.body.classList.contains("filtering")) openFilters(false);
    else if (typing) event.target.blur();
    clearHot();
    return;
  }
  if (typing) {
    if (event.target === $("search") && (event.key === "Enter" || event.key === "ArrowDown")) {
      event.preventDefault();
      focusTile(shown[0]);
    }
    return;
  }
  const act = {
    "/": () => { if (getComputedStyle($("filters")).display === "none") openFilters(true); $("search").focus(); $("search").select(); },
    "?": () => $("keys").showModal(),
    m: nextPaint,
    t: otherTheme,
    r: reset,
    "+": () => change({ size: Math.min(420, rowHeight() + 30) }),
    "=": () => change({ size: Math.min(420, rowHeight() + 30) }),
    "-": () => change({ size: Math.max(90, rowHeight() - 30) }),
  }[event.key];
  if (act) {
    event.preventDefault();
    act();
  } else if (!sliding && !event.shiftKey) moveFocus(event);
}
function nextPaint() {
  const ways = ["fill", "line", "off"];
  change({ paint: ways[(ways.indexOf(state.paint) + 1) % ways.length] });
}

// ---- The grid: rows of pictures of one height; only those near the window exist

const GAP = 14, CAPTION = 46;
let rows = [];  // {top, height, from, to}: places in `shown`
let spots = [];  // per place in `shown`: {x, width, row}
const tiles = new Map();  // image -> tile
let current = null;  // the image that has, or last had, the focus

const rowHeight = () => state.size ?? Math.max(150, Math.min(230, Math.round($("tiles").clientWidth / 5)));

function layOut() {
  const room = $("tiles").clientWidth, wish = rowHeight();
  $("size").value = wish;
  rows = [];
  spots = [];
  let top = 0, from = 0, sum = 0;
  const close = (to, height) => {
    let x = 0;
    for (let place = from; place < to; place++) {
      const width = shape(IMAGES[shown[place]]) * height;
      spots.push({ x, width, row: rows.length });
      x += width + GAP;
    }
    rows.push({ top, height, from, to });
    top += height + CAPTION + GAP;
    from = to;
    sum = 0;
  };
  for (let place = 0; place < shown.length; place++) {
    sum += shape(IMAGES[shown[place]]);
    const fits = (room - GAP * (place - from)) / sum;  // the height at which these fill the row
    if (fits <= wish) close(place + 1, fits);
  }
  if (from < shown.length) close(shown.length, Math.min(wish, room / sum));
  $("tiles").style.height = `${top}px`;
  const nothing = $("nothing");
  nothing.hidden = shown.length > 0;
  if (shown.length === 0) {
    const none = IMAGES.length === 0;
    nothing.querySelector("h2").textContent = none ? "No records here" : "Nothing passes these filters";
    nothing.querySelector("p").textContent = none
      ? "The folder holds no results yet. samcli automask writes some; then make this page again."
      : "";
    nothing.querySelector("button").hidden = none;
  }
  place();
}
// Very wide and very high pictures get an ordinary place, and do not fill it.
const shape = (image) => (image.kind === "failed" ? 1.4 : Math.max(0.66, Math.min(2.4, image.width / image.height)));

let scrolling = 0;
function scrolled() {
  hideTip();
  if (!scrolling) scrolling = requestAnimationFrame(() => { scrolling = 0; place(); });
}

function rowAt(y) {  // the last row that starts above y
  let low = 0, high = rows.length - 1;
  while (low < high) {
    const middle = (low + high + 1) >> 1;
    if (rows[middle].top <= y) low = middle;
    else high = middle - 1;
  }
  return low;
}

function place() {  // makes the tiles near the window, and drops the others
  const box = $("tiles"), above = box.getBoundingClientRect().top, tall = window.innerHeight;
  const keep = new Set();
  if (rows.length) {
    const from = rows[rowAt(-above - 0.6 * tall)].from, to = rows[rowAt(-above + 1.6 * tall)].to;
    for (let at = from; at < to; at++) keep.add(shown[at]);
    if (current !== null && tiles.get(current)?.button === document.activeElement && shown.includes(current)) keep.add(current);
  }
  for (const [i, tile] of tiles) {
    if (!keep.has(i)) {
      tile.element.remove();
      tiles.delete(i);
    }
  }
  if (current === null || !keep.has(current)) {
    if (!keep.has(current)) current = keep.size ? keep.values().next().value : null;
  }
  let last = null;
  for (const i of [...keep].sort((a, b) => placeOfImage(a) - placeOfImage(b))) {
    let tile = tiles.get(i);
    if (!tile) {
      tile = newTile(IMAGES[i]);
      tiles.set(i, tile);
    }
    const at = placeOfImage(i), spot = spots[at], row = rows[spot.row];
    fit(tile, spot.x, row.top, spot.width, row.height);
    tile.element.setAttribute("aria-posinset", at + 1);
    tile.element.setAttribute("aria-setsize", shown.length);
    tile.button.tabIndex = i === current ? 0 : -1;
    if (tile.element.previousSibling !== last || !tile.element.isConnected) box.insertBefore(tile.element, last ? last.nextSibling : box.firstChild);
    last = tile.element;
  }
}
let placesOf = null, placesFor = null;
function placeOfImage(i) {
  if (placesFor !== shown) {
    placesOf = new Int32Array(IMAGES.length).fill(-1);
    shown.forEach((image, at) => { placesOf[image] = at; });
    placesFor = shown;
  }
  return placesOf[i];
}

function newTile(image) {
  const element = make("div", `tile ${image.kind}`);
  element.setAttribute("role", "listitem");
  const button = make("button");
  button.type = "button";
  const picture = make("span", "picture"), frame = make("span", "fit");
  const tile = { image, element, button, picture, frame, meta: make("span", "meta"), hot: -1, ready: null, scale: 0 };
  const cut = image.name.lastIndexOf("/") + 1;
  const name = make("span", "name", image.name.slice(cut));
  name.title = image.name;
  if (image.kind === "failed") {
    const why = make("span", "why");
    why.append(make("b", "", "Failed"), image.problem);
    picture.append(why);
  } else {
    tile.photo = make("img");
    tile.photo.alt = "";
    tile.photo.decoding = "async";
    tile.canvas = make("canvas");
    frame.append(...(image.kind === "bare" ? [] : [tile.photo]), tile.canvas);
    picture.append(frame);
  }
  button.append(picture, name, tile.meta);
  element.append(button);
  element.dataset.image = image.i;
  update(tile);
  return tile;
}

function update(tile) {  // what depends on filters
  const { image } = tile, n = passing[image.i], all = image.end - image.first;
  let said;
  if (image.kind === "failed") said = "failed";
  else {
    said = n === all ? plural(all, "masks") : `${count(n)} of ${plural(all, "masks")}`;
    let top = NONE;
    for (let k = image.first; k < image.end; k++) if (passes[k]) top = Math.max(top, SCORE[k]);
    if (top > NONE) said += ` · best ${(top / UNIT).toFixed(2)}`;
  }
  tile.meta.textContent = said;
  tile.button.setAttribute("aria-label", image.kind === "failed" ? `${image.name}, failed: ${image.problem}` : `${image.name}, ${said}`);
  tile.ready?.forget();
  paint(tile);
}

function fit(tile, x, y, width, height) {
  const { style } = tile.element;
  style.transform = `translate(${x}px, ${y}px)`;
  style.width = `${width}px`;
  style.height = `${height + CAPTION}px`;
  tile.picture.style.height = `${height}px`;
  const { image } = tile;
  if (image.kind === "failed") return;
  const scale = Math.min(width / image.width, height / image.height);
  const w = scale * image.width, h = scale * image.height;
  Object.assign(tile.frame.style, { left: `${(width - w) / 2}px`, top: `${(height - h) / 2}px`, width: `${w}px`, height: `${h}px` });
  const dense = Math.min(2, window.devicePixelRatio || 1);
  const wide = Math.max(1, Math.round(w * dense)), tall = Math.max(1, Math.round(h * dense));
  if (tile.canvas.width !== wide || tile.canvas.height !== tall) {
    tile.canvas.width = wide;
    tile.canvas.height = tall;
    paint(tile);
  }
}

// Pictures and masks are made ready in turn, a few milliseconds at a time, so that scrolling stays smooth.
const waiting = new Set();
let working = 0;
function paint(tile) {
  if (tile.image.kind === "failed") return;
  waiting.add(tile);
  if (!working) working = requestAnimationFrame(work);
}
function work() {
  working = 0;
  const end = performance.now() + 9;
  for (const tile of waiting) {
    if (!tiles.has(tile.image.i) || tiles.get(tile.image.i) !== tile) waiting.delete(tile);
  }
  let late = false;
  for (const tile of waiting) {
    tile.ready ??= prepared(tile.image);
    if (!tile.ready) {
      late = true;  // the browser has not read that far
      continue;
    }
    if (tile.image.kind !== "bare" && !tile.photo.src) tile.photo.src = tile.ready.photo;
    drawMasks(tile.canvas, tile.ready, tile.hot);
    waiting.delete(tile);
    if (performance.now() > end) break;
  }
  if (waiting.size) {
    if (late) setTimeout(() => { working ||= requestAnimationFrame(work); }, 40);
    else working = requestAnimationFrame(work);
  }
}

// ---- Masks of one image: read from its block when it comes into view, a few images kept

const KEPT = 150;
const cache = new Map();
function prepared(image) {
  let ready = cache.get(image.i);
  if (ready) {
    cache.delete(image.i);
    cache.set(image.i, ready);
    return ready;
  }
  const block = $(`i${image.i}`);
  // a block that is being read may still grow: the next sibling, or the end, shows that it is whole
  if (!block || (document.readyState === "loading" && !block.nextSibling)) return null;
  ready = new Ready(image, block.textContent);
  cache.set(image.i, ready);
  if (cache.size > KEPT) cache.delete(cache.keys().next().value);
  return ready;
}

class Ready {
  constructor(image, text) {
    const [photo, runs] = text.split("\n");
    this.image = image;
    this.photo = photo ? `data:image/jpeg;base64,${photo}` : "";
    this.masks = runs ? runs.split(" ").map((code, n) => ({ k: image.first + n, ones: ones(code), path: null })) : [];
    this.masks.sort((a, b) => AREA[b.k] - AREA[a.k] || b.k - a.k);  // small ones above
    this.top = null;
  }
  forget() {  // the filters have changed
    this.top = null;
  }
  shown() {
    return this.masks.filter((mask) => passes[mask.k]);
  }
  at(x, y) {  // the uppermost mask at a pixel of the small picture, or -1
    const { w, h } = this.image;
    if (x < 0 || y < 0 || x >= w || y >= h) return -1;
    if (!this.top) {
      this.top = new Int32Array(w * h).fill(-1);
      for (const mask of this.masks) {
        if (passes[mask.k]) for (let i = 0; i < mask.ones.length; i += 2) this.top.fill(mask.k, mask.ones[i], mask.ones[i + 1]);
      }
    }
    return this.top[x * h + y];  // column-major, as the run lengths are
  }
  path(mask) {
    return (mask.path ??= outline(mask.ones, this.image.w, this.image.h));
  }
}

function ones(code) {  // COCO's compressed run lengths -> [start, end, ...] of the runs inside the mask
  const counts = [];
  for (let i = 0; i < code.length;) {
    let value = 0, shift = 0, more = true;
    while (more) {
      const c = code.charCodeAt(i++) - 48;
      value |= (c & 31) << shift;
      shift += 5;
      more = (c & 32) !== 0;
      if (!more && c & 16 && shift < 32) value |= -1 << shift;
    }
    counts.push(counts.length > 2 ? value + counts[counts.length - 2] : value);
  }
  const result = [];
  let at = 0;
  counts.forEach((length, i) => {
    if (i % 2 && length) result.push(at, at + length);
    at += length;
  });
  return result;
}

let scratch = new Uint8Array(0), edges = new Uint8Array(0);
function outline(runs, w, h) {
  // Walks along the edges of pixels with the mask on the right, and joins the middles of edges where the way
  // turns: slanted lines come out straight.
  const path = new Path2D();
  if (!runs.length) return path;
  const H = h + 2;  // with a border of nothing
  if (scratch.length < (w + 2) * H) {
    scratch = new Uint8Array((w + 2) * H);
    edges = new Uint8Array((w + 2) * H);
  }
  const cells = [];
  for (let i = 0; i < runs.length; i += 2) {
    for (let p = runs[i]; p < runs[i + 1]; p++) {
      const x = Math.floor(p / h), y = p - x * h, cell = (x + 1) * H + y + 1;
      scratch[cell] = 1;
      cells.push(cell);
    }
  }
  // Corner (x, y) is the top left one of pixel (x, y), under the same number. Ways: 0 right, 1 down, 2 left, 3 up.
  const ways = [H, 1, -H, -1], starts = [];
  for (const cell of cells) {
    if (!scratch[cell - 1]) { edges[cell] |= 1; starts.push(cell); }
    if (!scratch[cell + H]) edges[cell + H] |= 2;
    if (!scratch[cell + 1]) edges[cell + H + 1] |= 4;
    if (!scratch[cell - H]) edges[cell + 1] |= 8;
  }
  const middle = (corner, way) => {
    const x = Math.floor(corner / H) - 1, y = (corner % H) - 1;
    return [x + [0.5, 0, -0.5, 0][way], y + [0, 0.5, 0, -0.5][way]];
  };
  for (const start of starts) {
    if (!(edges[start] & 1)) continue;
    let corner = start, way = 0, before = -1, begun = false;
    do {
      edges[corner] &= ~(1 << way);
      const next = corner + ways[way], out = edges[next];
      const turn = out & (1 << ((way + 1) & 3)) ? (way + 1) & 3 : out & (1 << way) ? way : out & (1 << ((way + 3) & 3)) ? (way + 3) & 3 : -1;
      if (turn !== way || before !== way) {
        const [x, y] = middle(corner, way);
        if (begun) path.lineTo(x, y);
        else path.moveTo(x, y);
        begun = true;
      }
      before = way;
      corner = next;
      way = turn;
    } while (way >= 0);
    path.closePath();
  }
  for (const cell of cells) scratch[cell] = 0;
  return path;
}

const layer = document.createElement("canvas").getContext("2d");
function drawMasks(canvas, ready, hot) {
  // Fills replace one another, the small above the large, and are laid over the photo together.
  const { image } = ready, context = canvas.getContext("2d");
  const scale = canvas.width / image.w, tall = canvas.height / image.h;
  const dense = canvas.width / (canvas.clientWidth || canvas.width);
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.clearRect(0, 0, canvas.width, canvas.height);
  const pick = hot >= 0 ? ready.masks.find((mask) => mask.k === hot) : null;
  const masks = ready.shown(), bare = image.kind === "bare";
  const mode = image.kind === "drawn" ? "off" : state.paint;
  const thin = ((canvas.id ? 1.5 : 1) * dense) / scale;  // a CSS pixel in pixels of the small picture; more where it is large
  if ((mode === "fill" && !pick) || bare) {
    layer.canvas.width = canvas.width;
    layer.canvas.height = canvas.height;
    layer.setTransform(scale, 0, 0, tall, 0, 0);
    for (const mask of masks) {
      layer.fillStyle = rgb(COLOR[mask.k]);
      layer.fill(ready.path(mask), "evenodd");
    }
    context.globalAlpha = (bare ? 0.85 : 0.4) * (pick ? 0.4 : 1);
    context.drawImage(layer.canvas, 0, 0);
    context.globalAlpha = 1;
  }
  context.setTransform(scale, 0, 0, tall, 0, 0);
  context.lineJoin = "round";
  if (mode !== "off") {
    context.globalAlpha = pick ? 0.25 : 1;
    context.lineWidth = 1.1 * thin;
    for (const mask of masks) {
      context.strokeStyle = lighter(COLOR[mask.k]);
      context.stroke(ready.path(mask));
    }
    context.globalAlpha = 1;
  }
  if (pick) {
    const path = ready.path(pick), around = new Path2D();
    around.rect(0, 0, image.w, image.h);
    around.addPath(path);
    context.fillStyle = "rgb(0 0 0 / .5)";
    context.fill(around, "evenodd");
    context.fillStyle = rgb(COLOR[pick.k]);
    context.globalAlpha = bare ? 1 : 0.42;
    context.fill(path, "evenodd");
    context.globalAlpha = 1;
    context.strokeStyle = "#fff";
    context.lineWidth = 4 * thin;
    context.stroke(path);
    context.strokeStyle = rgb(COLOR[pick.k]);
    context.lineWidth = 2 * thin;
    context.stroke(path);
  }
}

// ---- Pointing

const tip = $("tip");
function showTip(k, image, x, y) {
  if (tip.dataset.mask !== String(k)) {
    tip.dataset.mask = k;
    const head = make("b"), dot = make("span", "dot");
    dot.style.setProperty("--c", rgb(COLOR[k]));
    head.append(dot, title(k));
    const line = (name, value) => {
      const row = make("span", "", name);
      row.append(make("i", "", value));
      return row;
    };
    const lines = [];
    if (LABEL[k] >= 0) lines.push(line("id", ID[k]));
    if (DETECTOR[k] !== NONE) lines.push(line("detector score", digits(DETECTOR[k])));
    if (SCORE[k] !== IOU[k] && SCORE[k] !== DETECTOR[k]) lines.push(line("score", digits(SCORE[k])));
    if (IOU[k] !== NONE) lines.push(line("predicted IoU", digits(IOU[k])));
    if (STABILITY[k] !== NONE) lines.push(line("stability", digits(STABILITY[k])));
    lines.push(line("area", `${count(AREA[k])} px · ${percent(SHARE[k])}`));
    tip.replaceChildren(head, ...lines);
  }
  tip.hidden = false;
  const { offsetWidth: w, offsetHeight: h } = tip;
  const left = x + 16 + w > innerWidth - 8 ? x - 16 - w : x + 16;
  const top = y + 18 + h > innerHeight - 8 ? y - 14 - h : y + 18;
  tip.style.transform = `translate(${Math.max(8, Math.min(left, innerWidth - w - 8))}px, ${Math.max(8, top)}px)`;
}
function hideTip() {
  tip.hidden = true;
}

// The mask at a point of the window, on a canvas of masks.
function maskAt(canvas, ready, x, y) {
  const box = canvas.getBoundingClientRect(), { w, h } = ready.image;
  return ready.at(Math.floor(((x - box.left) / box.width) * w), Math.floor(((y - box.top) / box.height) * h));
}

let hotTile = null;
function setHot(tile, k) {
  if (hotTile && hotTile !== tile) {
    hotTile.hot = -1;
    paint(hotTile);
  }
  hotTile = tile;
  if (tile && tile.hot !== k) {
    tile.hot = k;
    if (tile.ready) drawMasks(tile.canvas, tile.ready, k);
  }
}
function clearHot() {
  setHot(null, -1);
  hideTip();
}

function listenGrid() {
  const box = $("tiles");
  let moved = null, frame = 0;
  const tileAt = (event) => tiles.get(Number(event.target.closest?.(".tile")?.dataset.image ?? -1));
  const point = (tile, event) => {
    if (!tile?.ready) return -1;
    const k = maskAt(tile.canvas, tile.ready, event.clientX, event.clientY);
    setHot(tile, k);
    if (k >= 0) showTip(k, tile.image, event.clientX, event.clientY);
    else hideTip();
    return k;
  };
  box.addEventListener("pointermove", (event) => {
    if (event.pointerType === "touch") return;
    moved = event;
    frame ||= requestAnimationFrame(() => {
      frame = 0;
      const tile = tileAt(moved);
      if (tile?.ready) point(tile, moved);
      else clearHot();
    });
  });
  box.addEventListener("pointerleave", (event) => {
    if (event.pointerType === "touch") return;  // lifting the finger leaves, too
    cancelAnimationFrame(frame);
    frame = 0;
    clearHot();
  });
  let touched = false;
  document.addEventListener("pointerdown", (event) => {
    touched = event.pointerType === "touch";
    if (touched && !tileAt(event)) clearHot();
  });
  box.addEventListener("click", (event) => {
    const tile = tileAt(event);
    if (!tile) return;
    if (touched && event.target.closest(".picture") && tile.ready) {
      // the first touch of a mask lights it up, the second opens the image
      const before = hotTile === tile ? tile.hot : -1;
      const k = point(tile, event);
      if (k >= 0 && k !== before) return;
    }
    const hot = event.detail ? tile.hot : -1;
    clearHot();
    openLarge(tile.image.i, hot);
  });
  box.addEventListener("focusin", (event) => {
    const tile = tileAt(event);
    if (!tile) return;
    const old = tiles.get(current);
    if (old) old.button.tabIndex = -1;
    current = tile.image.i;
    tile.button.tabIndex = 0;
  });
}

function focusTile(i) {
  if (i === undefined || placeOfImage(i) < 0) return;
  const row = rows[spots[placeOfImage(i)].row], bar = $("bar").offsetHeight;
  const above = $("tiles").getBoundingClientRect().top + row.top, below = above + row.height + CAPTION;
  if (above < bar + 12) window.scrollBy(0, above - bar - 12);
  else if (below > window.innerHeight - 12) window.scrollBy(0, below - window.innerHeight + 12);
  current = i;
  place();
  tiles.get(i)?.button.focus({ preventScroll: true });
}

function moveFocus(event) {
  const focused = document.activeElement?.closest?.(".tile");
  if (!focused && event.target !== document.body) return;
  const at = focused ? placeOfImage(Number(focused.dataset.image)) : -1;
  let to = null;
  if (at < 0) to = event.key.startsWith("Arrow") ? placeOfImage(current ?? shown[0]) : null;
  else if (event.key === "ArrowRight") to = at + 1;
  else if (event.key === "ArrowLeft") to = at - 1;
  else if (event.key === "Home") to = 0;
  else if (event.key === "End") to = shown.length - 1;
  else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    const row = rows[spots[at].row + (event.key === "ArrowDown" ? 1 : -1)];
    if (row) {
      const middle = spots[at].x + spots[at].width / 2;
      const far = (n) => Math.abs(spots[n].x + spots[n].width / 2 - middle);
      to = row.from;
      for (let n = row.from; n < row.to; n++) if (far(n) < far(to)) to = n;
    }
  }
  if (to === null) return;
  event.preventDefault();
  focusTile(shown[Math.max(0, Math.min(shown.length - 1, to))]);
}

// ---- One image, large, with the list of its masks

const large = { image: null, ready: null, hot: -1, held: false, key: "score", down: true };

function openLarge(i, hot = -1) {
  large.image = IMAGES[i];
  large.hot = hot;
  large.held = hot >= 0;
  if (!$("large").open) $("large").showModal();
  state.open = large.image.name;
  fillLarge();
  $("stage").scrollTop = $("list").scrollTop = 0;
  if (hot >= 0) lightLarge(hot, true, true);
  remember();
}
function openFromAddress() {
  const image = state.open === null ? null : IMAGES.find((one) => whole(one.name) === state.open);
  if (image && large.image !== image) openLarge(image.i);
  else if (!image && $("large").open) $("large").close();
}

function fillLarge() {
  const { image } = large, at = placeOfImage(image.i), failed = image.kind === "failed";
  $("large").className = image.kind;
  $("large-name").textContent = image.name;
  const all = image.end - image.first;
  const where = at < 0 ? "" : ` · ${count(at + 1)} of ${count(shown.length)}`;
  const size = image.width ? `${image.width} × ${image.height} px · ` : "";
  $("large-what").textContent = (failed ? "failed" : `${size}${plural(all, "masks")}`) + where;
  $("before").disabled = at <= 0;
  $("after").disabled = at < 0 || at >= shown.length - 1;
  $("stage-problem").textContent = failed ? image.problem : "";
  $("stage-inner").hidden = failed;
  large.ready = failed ? null : prepared(image);
  if (!failed && !large.ready) {
    setTimeout(() => { if ($("large").open && large.image === image) fillLarge(); }, 60);
    return;
  }
  if (failed) return;
  large.ready.forget();
  $("stage-photo").hidden = image.kind === "bare";
  if (image.kind !== "bare") $("stage-photo").src = large.ready.photo;
  if (large.hot < image.first || large.hot >= image.end || !passes[large.hot]) large.hot = -1;
  fillRows();
  sizeLarge();
}

function fillRows() {
  const { image } = large, sign = large.down ? -1 : 1;
  const masks = [];
  for (let k = image.first; k < image.end; k++) if (passes[k]) masks.push(k);
  const value = { score: SCORE, stability: STABILITY, area: AREA }[large.key];
  masks.sort((a, b) => {
    if (value) return sign * (value[a] - value[b]) || a - b;
    const one = title(a), other = title(b);
    return sign * (LABEL[a] < 0 && LABEL[b] < 0 ? ID[a] - ID[b] : one < other ? -1 : one > other ? 1 : 0) || a - b;
  });
  $("rows").replaceChildren(...masks.map((k) => {
    const row = make("tr"), cell = make("td"), dot = make("span", "dot");
    row.dataset.mask = k;
    row.tabIndex = -1;
    dot.style.setProperty("--c", rgb(COLOR[k]));
    cell.append(dot, title(k));
    cell.title = title(k);
    if (LABEL[k] >= 0) cell.append(make("small", "", ID[k]));
    const area = make("td", "", percent(SHARE[k]));
    area.title = plural(AREA[k], "pixels");
    row.append(cell, make("td", "", digits(SCORE[k])), make("td", "", digits(STABILITY[k])), area);
    return row;
  }));
  for (const head of $("list").querySelectorAll("th")) {
    if (head.dataset.key === large.key) head.setAttribute("aria-sort", large.down ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  }
  const hidden = image.end - image.first - masks.length;
  $("hidden-masks").textContent = hidden ? `The filters hide ${plural(hidden, "masks")}.` : masks.length ? "" : "No masks were found.";
  markRow(false);
}

function sizeLarge() {
  const { image, ready } = large, stage = $("stage");
  if (!image || !ready) return;
  const pad = window.innerWidth > 820 ? 20 : 0;
  const scale = Math.min((stage.clientWidth - 2 * pad) / image.width, (stage.clientHeight - 2 * pad) / image.height);
  const w = Math.max(1, scale * image.width), h = Math.max(1, scale * image.height);
  Object.assign($("stage-inner").style, {
    width: `${w}px`, height: `${h}px`, left: `${(stage.clientWidth - w) / 2}px`, top: `${(stage.clientHeight - h) / 2}px`,
  });
  const dense = Math.min(2, window.devicePixelRatio || 1), canvas = $("stage-masks");
  canvas.width = Math.max(1, Math.round(w * dense));
  canvas.height = Math.max(1, Math.round(h * dense));
  drawMasks(canvas, ready, large.hot);
}

function lightLarge(k, held, seen) {
  large.held = held && k >= 0;
  if (k === large.hot && !seen) return;
  large.hot = k;
  if (large.ready) drawMasks($("stage-masks"), large.ready, k);
  markRow(seen);
}
function markRow(seen) {
  for (const row of $("rows").children) {
    const hot = Number(row.dataset.mask) === large.hot;
    row.classList.toggle("hot", hot);
    if (hot) row.setAttribute("aria-current", "true");
    else row.removeAttribute("aria-current");
    if (hot && seen) row.scrollIntoView({ block: "nearest" });
  }
}

function listenLarge() {
  const stage = $("stage"), list = $("list");
  let frame = 0, last = null;
  const at = (event) => (large.ready ? maskAt($("stage-masks"), large.ready, event.clientX, event.clientY) : -1);
  stage.addEventListener("pointermove", (event) => {
    if (event.pointerType === "touch") return;
    last = event;
    frame ||= requestAnimationFrame(() => {
      frame = 0;
      const k = at(last);
      if (k >= 0 || !large.held) lightLarge(k, false, k >= 0 && k !== large.hot);
      if (k >= 0) showTip(k, large.image, last.clientX, last.clientY);
      else hideTip();
    });
  });
  stage.addEventListener("pointerleave", () => {
    cancelAnimationFrame(frame);
    frame = 0;
    hideTip();
    if (!large.held) lightLarge(-1, false, false);
  });
  stage.addEventListener("click", (event) => {
    const k = at(event);
    lightLarge(k, true, true);
    hideTip();
  });
  let from = null;
  stage.addEventListener("pointerdown", (event) => { from = event.pointerType === "touch" ? event : null; });
  stage.addEventListener("pointerup", (event) => {
    const far = from ? event.clientX - from.clientX : 0;
    if (Math.abs(far) > 60 && Math.abs(far) > 2 * Math.abs(event.clientY - from.clientY)) step(far < 0 ? 1 : -1);
    from = null;
  });
  const rowOf = (event) => Number(event.target.closest?.("tbody tr")?.dataset.mask ?? -1);
  list.addEventListener("pointerover", (event) => {
    if (event.pointerType !== "touch" && rowOf(event) >= 0) lightLarge(rowOf(event), false, false);
  });
  list.addEventListener("pointerleave", () => { if (!large.held) lightLarge(-1, false, false); });
  list.addEventListener("click", (event) => {
    const head = event.target.closest("th");
    if (head) {
      large.down = large.key === head.dataset.key ? !large.down : head.dataset.key !== "name";
      large.key = head.dataset.key;
      fillRows();
    } else if (rowOf(event) >= 0) lightLarge(rowOf(event), true, false);
  });
  $("before").addEventListener("click", () => step(-1));
  $("after").addEventListener("click", () => step(1));
  $("close").addEventListener("click", () => $("large").close());
  $("large").addEventListener("close", () => {
    hideTip();
    const i = large.image?.i;
    large.image = large.ready = null;
    state.open = null;
    remember();
    focusTile(i);
  });
  new ResizeObserver(sizeLarge).observe(stage);
}

function step(by) {
  const at = placeOfImage(large.image.i), to = shown[at + by];
  if (at < 0 || to === undefined) return;
  openLarge(to);
}

function keyLarge(event) {
  if (event.key === "ArrowRight" || event.key === "ArrowLeft") step(event.key === "ArrowRight" ? 1 : -1);
  else if (event.key === "ArrowDown" || event.key === "ArrowUp") {
    const list = [...$("rows").children];
    const at = list.findIndex((row) => Number(row.dataset.mask) === large.hot);
    const next = list[event.key === "ArrowDown" ? at + 1 : at < 0 ? list.length - 1 : at - 1];
    if (next) {
      next.focus({ preventScroll: true });
      lightLarge(Number(next.dataset.mask), true, true);
    }
  } else if (event.key === "m") nextPaint();
  else if (event.key === "t") otherTheme();
  else if (event.key === "?") $("keys").showModal();
  else return;
  event.preventDefault();
}

// ---- Begin

$("title").textContent = index.title;
readAddress();
listen();
refresh();
openFromAddress();
})();
