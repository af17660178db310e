"use strict";
// Drop, paste or choose an image; the answer comes without loading the page anew. Without scripts the form is sent.
const form = document.getElementById("try");
const input = document.getElementById("image");
const given = document.getElementById("given");
const answer = document.getElementById("answer");
let asked = 0;

function say(text) {
  const line = document.createElement("p");
  line.className = "quiet";
  line.textContent = text;
  answer.replaceChildren(line);
}

function take(files) {
  const image = [...files].find((file) => file.type.startsWith("image/"));
  if (!image) return say("That is no image.");
  const transfer = new DataTransfer();
  transfer.items.add(image);
  input.files = transfer.files;
  ask();
}

async function ask() {
  const image = input.files[0];
  if (!image) return say("Choose an image first.");
  if (given.src) URL.revokeObjectURL(given.src);
  given.src = URL.createObjectURL(image);
  given.hidden = false;
  if (image.size > Number(form.dataset.limit)) return say("This image is too large.");
  const turn = ++asked;
  form.setAttribute("aria-busy", "true");
  say("The model is looking. The first answer takes some seconds, as the model is loaded.");
  try {
    const response = await fetch(location.pathname, {
      method: "POST", body: new FormData(form), headers: { "X-Fragment": "1" },
    });
    const text = await response.text();
    if (turn === asked) answer.innerHTML = text;
  } catch {
    if (turn === asked) say("The hub did not answer. Try again.");
  } finally {
    if (turn === asked) form.removeAttribute("aria-busy");
  }
}

form.addEventListener("submit", (event) => { event.preventDefault(); ask(); });
input.addEventListener("change", ask);
form.addEventListener("dragover", (event) => { event.preventDefault(); form.classList.add("over"); });
form.addEventListener("dragleave", () => form.classList.remove("over"));
form.addEventListener("drop", (event) => {
  event.preventDefault();
  form.classList.remove("over");
  take(event.dataTransfer.files);
});
document.addEventListener("paste", (event) => {
  if (event.clipboardData.files.length) take(event.clipboardData.files);
});
