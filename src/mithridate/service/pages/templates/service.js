// Two comforts; every page works without them.
"use strict";

// Parts of a page that change by themselves are taken from a fresh copy of it, for as long as a job is unfinished.
const live = document.querySelector('[data-live="on"]');
const look = async () => {
  const answer = await fetch(location.href).catch(() => null);
  if (answer === null) return setTimeout(look, 10000);
  if (answer.redirected || !answer.ok) return location.reload();
  const page = new DOMParser().parseFromString(await answer.text(), "text/html");
  for (const part of document.querySelectorAll("[data-live]")) {
    const fresh = page.getElementById(part.id);
    // What somebody has opened stays open.
    const open = [...part.querySelectorAll("details")].map((one) => one.open);
    fresh?.querySelectorAll("details").forEach((one, at) => { one.open = open[at] ?? false; });
    // What somebody has their focus in stays as it is until they leave it.
    if (fresh && fresh.innerHTML !== part.innerHTML && !part.contains(document.activeElement)) {
      part.replaceChildren(...fresh.childNodes);
    }
  }
  document.title = page.title;
  setTimeout(look, page.querySelector('[data-live="on"]') ? 2000 : 10000);
};
if (live) setTimeout(look, 2000);

// A file can be dropped on the form instead of being chosen in it.
for (const form of document.querySelectorAll("[data-drop]")) {
  const input = form.querySelector('input[type="file"]');
  const over = (event, is) => { event.preventDefault(); form.classList.toggle("over", is); };
  form.addEventListener("dragover", (event) => over(event, true));
  form.addEventListener("dragleave", (event) => over(event, false));
  form.addEventListener("drop", (event) => {
    over(event, false);
    if (event.dataTransfer.files.length) { input.files = event.dataTransfer.files; input.focus(); }
  });
}
