"use strict";
// The page works without this: it lets the slider answer while it moves, and adds keys.
const slider = document.getElementById("slider");
const range = slider && slider.querySelector("input[type=range]");
const exact = slider && slider.querySelector("input[type=number]");
const at = document.getElementById("at");
let running = null;

async function show(threshold, keep) {
  if (running) running.abort();
  const mine = running = new AbortController();
  at.classList.add("busy");
  try {
    const answer = await fetch("/at?t=" + encodeURIComponent(threshold), { signal: mine.signal });
    if (!answer.ok) { location.href = "/?t=" + encodeURIComponent(threshold); return; }
    at.innerHTML = await answer.text();
    if (keep) history.replaceState(null, "", "/?t=" + encodeURIComponent(threshold));
    at.classList.remove("busy");
  } catch (error) {
    if (error.name !== "AbortError") at.classList.remove("busy");
  }
}

if (slider && exact) {
  slider.classList.add("js");
  range.addEventListener("input", () => { exact.value = range.value; show(range.value, true); });
  exact.addEventListener("change", () => { if (exact.checkValidity()) { range.value = exact.value; show(exact.value, true); } });
  slider.addEventListener("submit", (event) => { event.preventDefault(); range.value = exact.value; show(exact.value, true); });
  at.addEventListener("click", (event) => {
    const link = event.target.closest("a[data-t]");
    if (!link) return;
    event.preventDefault();
    exact.value = range.value = link.dataset.t;
    exact.value = link.dataset.t;
    show(link.dataset.t, true);
  });
} else if (slider) {
  const pages = slider.dataset.pages.split(" ");
  range.addEventListener("change", () => { location.href = pages[Number(range.value)]; });
}

function turn(step) {
  const groups = [...document.querySelectorAll(".group")];
  const next = groups.indexOf(document.activeElement) + step;
  const group = groups[Math.max(0, Math.min(groups.length - 1, next))];
  if (group) { group.focus(); group.scrollIntoView({ block: "center" }); }
}

document.addEventListener("keydown", (event) => {
  if (event.ctrlKey || event.metaKey || event.altKey) return;
  const typing = event.target.matches("input:not([type=range]):not([type=checkbox])");
  if (event.key === "Escape" && typing) { event.target.blur(); return; }
  if (typing) return;
  if (event.key === "/") {
    const search = document.querySelector("input[type=search]");
    if (search) { event.preventDefault(); search.focus(); search.select(); }
  } else if (event.key === "j" || event.key === "k") {
    turn(event.key === "j" ? 1 : -1);
  } else if (range && event.target !== range && (event.key === "ArrowLeft" || event.key === "ArrowRight")) {
    event.preventDefault();
    if (event.key === "ArrowRight") range.stepUp(); else range.stepDown();
    range.dispatchEvent(new Event(exact ? "input" : "change"));
  }
});
