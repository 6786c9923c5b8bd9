"use strict";
const data = JSON.parse(document.getElementById("data").textContent);
const at = id => document.getElementById(id);
const make = (tag, text, parent) => {            // text only ever goes through textContent: it comes from a model
  const node = document.createElement(tag);
  node.textContent = text;
  parent.append(node);
  return node;
};
const visible = text => text.replace(/\n/g, "↵\n").replace(/\t/g, "→\t");
const state = { response: 0, signal: 0, token: 0 };
let spans = [];

at("about").textContent = data.about;
data.responses.forEach((response, index) => { make("option", response.label, at("response")).value = index; });
data.signals.forEach((signal, index) => {
  const label = make("label", "", at("signals"));
  const input = make("input", "", label);
  Object.assign(input, { type: "radio", name: "signal", value: index, checked: index === 0 });
  label.append(signal.label);
  input.addEventListener("change", () => { state.signal = index; paint(); });
});

function show(index) {
  state.response = (index + data.responses.length) % data.responses.length;
  const response = data.responses[state.response];
  at("response").value = state.response;
  at("question").textContent = response.question;
  at("outcome").textContent = response.outcome;
  at("tokens").replaceChildren();
  spans = response.tokens.map((text, t) => {
    const span = make("span", visible(text), at("tokens"));
    span.id = "t" + t;
    span.setAttribute("role", "option");
    return span;
  });
  state.token = 0;
  paint();
}

function paint() {
  const signal = data.signals[state.signal], response = data.responses[state.response];
  const values = response.values[signal.key], peaks = response.peaks[signal.key] || [];
  at("token-view").style.setProperty("--rgb", signal.rgb);
  at("low").textContent = signal.low;
  at("high").textContent = signal.high;
  at("unit").textContent = signal.unit;
  at("meaning").textContent = `${signal.label}: ${signal.meaning}. The scale is the same for every response.`;
  const marked = new Set(peaks);
  spans.forEach((span, t) => {
    const value = values[t];
    const share = value === null ? 0 : Math.min(1, Math.max(0, (value - signal.low) / (signal.high - signal.low)));
    span.style.setProperty("--share", share.toFixed(3));
    span.classList.toggle("undefined", value === null);
    span.classList.toggle("peak", marked.has(t));
  });
  choose(state.token);
}

function choose(t) {
  if (!spans.length) return;
  spans[state.token].classList.remove("active");
  spans[state.token].removeAttribute("aria-selected");
  state.token = Math.min(spans.length - 1, Math.max(0, t));
  spans[state.token].classList.add("active");
  spans[state.token].setAttribute("aria-selected", "true");
  at("tokens").setAttribute("aria-activedescendant", "t" + state.token);
  const response = data.responses[state.response];
  at("token").textContent = JSON.stringify(response.tokens[state.token]);
  at("values").replaceChildren();
  const row = (name, value) => { const pair = make("div", "", at("values")); make("dt", name, pair); make("dd", value, pair); };
  row("position", `${response.start + state.token} (${state.token + 1} of ${spans.length})`);
  for (const signal of data.signals) {
    const value = response.values[signal.key][state.token];
    const peak = (response.peaks[signal.key] || []).includes(state.token);
    row(signal.label, value === null ? "undefined" : `${value}${signal.suffix}${peak ? " ▲ peak" : ""}`);
  }
}

function line(step) {                            // the token above or below: nearest centre on the next line that way
  const box = node => node.getClientRects()[0];
  const from = box(spans[state.token]), x = (from.left + from.right) / 2;
  let best = state.token, top = null, gap = Infinity;
  for (let t = state.token + step; t >= 0 && t < spans.length; t += step) {
    const to = box(spans[t]);
    if (Math.abs(to.top - from.top) < 4) continue;
    if (top !== null && Math.abs(to.top - top) > 4) break;
    top = to.top;
    const away = Math.abs((to.left + to.right) / 2 - x);
    if (away < gap) { gap = away; best = t; }
  }
  return best;
}

function peak(step) {
  const peaks = data.responses[state.response].peaks[data.signals[state.signal].key] || [];
  const ahead = peaks.filter(t => step * (t - state.token) > 0);
  return ahead.length ? (step > 0 ? ahead[0] : ahead[ahead.length - 1]) : state.token;
}

at("tokens").addEventListener("keydown", event => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const moves = { ArrowRight: () => state.token + 1, ArrowLeft: () => state.token - 1, Home: () => 0, End: () => spans.length - 1,
    ArrowDown: () => line(1), ArrowUp: () => line(-1), n: () => peak(1), p: () => peak(-1) };
  const move = moves[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (!move) return;
  event.preventDefault();
  choose(move());
  spans[state.token].scrollIntoView({ block: "nearest" });
});
for (const kind of ["pointerover", "click"]) {
  at("tokens").addEventListener(kind, event => {
    if (event.target.id && event.target !== at("tokens")) choose(spans.indexOf(event.target));
  });
}
at("response").addEventListener("change", event => show(Number(event.target.value)));
at("previous").addEventListener("click", () => show(state.response - 1));
at("next").addEventListener("click", () => show(state.response + 1));
at("peaks").addEventListener("change", event => at("tokens").classList.toggle("peaks", event.target.checked));
show(0);
