// The page: sends pictures and frames to POST /predict, draws boxes and bars, keeps the table in memory only.
import { csv } from "./csv.js";

const $ = (id) => document.getElementById(id);
const canvas = $("picture");
const pen = canvas.getContext("2d");
const MAX_SHOWN = 1280; // pixels of the drawn picture's longer side
const MAX_ROWS_SHOWN = 500; // the CSV file has all rows
const rows = [];
let model = null;
let running = null; // AbortController of the running webcam or video

async function start() {
  const answer = await fetch("/model");
  model = await answer.json();
  $("model").textContent = `model ${model.model} (${model.classes.length} classes, ${model.runtime})`;
  $("notice").textContent = model.notice;
  $("explain").disabled = !model.explains;
}

function say(text, bad = false) {
  $("status").textContent = text;
  $("status").classList.toggle("bad", bad);
}

// Send the bytes of a picture; wait and retry while the server is busy.
async function predict(blob, signal) {
  const query = new URLSearchParams({ explain: $("explain").checked, abstain: Number($("abstain").value) || 0 });
  for (let attempt = 0; ; attempt++) {
    const answer = await fetch(`/predict?${query}`, {
      method: "POST",
      headers: { "Content-Type": blob.type || "application/octet-stream" },
      body: blob,
      signal,
    });
    if (answer.status === 503 && attempt < 10) {
      await wait(1000 * (Number(answer.headers.get("Retry-After")) || 1));
      continue;
    }
    const body = await answer.json();
    if (!answer.ok) throw new Error(body.error);
    return body;
  }
}

const wait = (ms) => new Promise((done) => setTimeout(done, ms));

async function showPhoto(file) {
  if (file.size > model.max_bytes) throw new Error(`larger than ${model.max_bytes / 1e6} MB`);
  const answer = await predict(file);
  let bitmap = null;
  try {
    bitmap = await createImageBitmap(file, { imageOrientation: "from-image" });
  } catch {} // a format that this browser cannot show; the table still gets its rows
  show(bitmap, answer);
  addRows(file.name, null, answer);
  say(`${file.name}: ${faceCount(answer)}`);
}

// Draw a picture (bitmap or canvas) with its boxes, and the bars of its faces.
function show(picture, answer) {
  const scale = Math.min(1, MAX_SHOWN / Math.max(answer.width, answer.height));
  canvas.width = Math.round(answer.width * scale);
  canvas.height = Math.round(answer.height * scale);
  if (picture) pen.drawImage(picture, 0, 0, canvas.width, canvas.height);
  const thumbnails = answer.faces.map((face) => thumbnail(face, scale));
  pen.lineWidth = Math.max(2, canvas.width / 300);
  pen.font = `600 ${Math.max(14, canvas.width / 45)}px system-ui, sans-serif`;
  answer.faces.forEach((face, i) => drawBox(face, i, scale));
  $("faces").replaceChildren(...answer.faces.map((face, i) => faceItem(face, i, thumbnails[i])));
}

function drawBox(face, i, scale) {
  const [x1, y1, x2, y2] = face.box.map((v) => v * scale);
  const text = `${i + 1} ${face.expression ?? "uncertain"} ${percent(face.confidence)}`;
  const height = parseFloat(pen.font.split(" ")[1]) * 1.3;
  const top = y1 > height ? y1 - height : y1;
  pen.strokeStyle = pen.fillStyle = "#1f5fbf";
  pen.strokeRect(x1, y1, x2 - x1, y2 - y1);
  pen.fillRect(x1 - pen.lineWidth / 2, top, pen.measureText(text).width + 10, height);
  pen.fillStyle = "#fff";
  pen.textBaseline = "middle";
  pen.fillText(text, x1 + 5, top + height / 2);
}

// The face's crop or its Grad-CAM overlay.
function thumbnail(face, scale) {
  if (face.overlay) {
    const image = new Image();
    image.src = face.overlay;
    image.alt = "Grad-CAM: where the model looked";
    return image;
  }
  const [x1, y1, x2, y2] = face.box.map((v) => v * scale);
  const side = Math.max(x2 - x1, y2 - y1, 1);
  const cut = document.createElement("canvas");
  cut.width = cut.height = 176;
  const left = (x1 + x2 - side) / 2;
  cut.getContext("2d").drawImage(canvas, left, (y1 + y2 - side) / 2, side, side, 0, 0, 176, 176);
  cut.setAttribute("role", "img");
  cut.setAttribute("aria-label", "The face");
  return cut;
}

function faceItem(face, i, picture) {
  const item = document.createElement("li");
  const bars = element("div", "", "bars");
  bars.append(element("strong", `${i + 1} ${face.expression ?? "uncertain"} ${percent(face.confidence)}`));
  for (const [name, p] of Object.entries(face.probabilities)) {
    const bar = element("div", "", "bar");
    const track = element("div");
    const fill = element("i");
    fill.style.width = `${100 * p}%`;
    track.append(fill);
    bar.append(element("span", name), track, element("span", percent(p)));
    bars.append(bar);
  }
  item.append(picture, bars);
  return item;
}

function element(tag, text = "", name = "") {
  const made = document.createElement(tag);
  made.textContent = text;
  if (name) made.className = name;
  return made;
}

const percent = (p) => `${(100 * p).toFixed(1)} %`;
const faceCount = (answer) => (answer.faces.length === 1 ? "1 face" : `${answer.faces.length || "no"} faces`);

const columns = () => [
  "input", "time", "face", "status", "expression", "confidence", ...model.classes.map((name) => `p_${name}`),
  "score", "x1", "y1", "x2", "y2",
];

function addRows(input, time, answer) {
  const found = answer.faces.map((face, i) => [
    input, time, i, face.expression === null ? "uncertain" : "ok", face.expression, face.confidence,
    ...model.classes.map((name) => face.probabilities[name]), face.score, ...face.box,
  ]);
  if (!found.length) found.push([input, time, null, answer.status, ...Array(columns().length - 4).fill(null)]);
  keep(found);
}

function keep(found) {
  rows.push(...found);
  const head = $("table").tHead;
  if (!head.rows.length) {
    head.append(document.createElement("tr"));
    head.rows[0].append(...columns().map((name) => element("th", name)));
  }
  for (const row of found) {
    const line = document.createElement("tr");
    line.append(...row.map((value) => element("td", typeof value === "number" ? String(+value.toFixed(3)) : (value ?? ""))));
    $("table").tBodies[0].prepend(line);
  }
  while ($("table").tBodies[0].rows.length > MAX_ROWS_SHOWN) $("table").tBodies[0].lastChild.remove();
  $("download").disabled = $("clear").disabled = !rows.length;
}

async function handle(files) {
  stop();
  for (const file of files) {
    try {
      say(`${file.name} …`);
      await ready;
      if (file.type.startsWith("video/")) await playVideo(file);
      else await showPhoto(file);
    } catch (error) {
      say(`${file.name}: ${error.message}`, true);
      if (model && !file.type.startsWith("video/"))
        keep([[file.name, null, null, error.message, ...Array(columns().length - 4).fill(null)]]);
    }
  }
}

// A frame as JPEG bytes, from an element that shows a video.
async function frameOf(video) {
  const frame = new OffscreenCanvas(video.videoWidth, video.videoHeight);
  frame.getContext("2d").drawImage(video, 0, 0);
  return [frame, await frame.convertToBlob({ type: "image/jpeg", quality: 0.95 })];
}

function begin() {
  stop();
  running = new AbortController();
  $("stop").hidden = false;
  return running.signal;
}

function stop() {
  running?.abort();
  running = null;
  $("stop").hidden = true;
}

// The table gets every frame's faces with the frame's time in seconds.
async function playVideo(file) {
  const signal = begin();
  const video = document.createElement("video");
  video.muted = true;
  video.src = URL.createObjectURL(file);
  try {
    await once(video, "loadeddata");
    if (!Number.isFinite(video.duration)) throw new Error("this video does not say how long it is; use ssfer predict");
    const step = 1 / (Number($("fps").value) || 2);
    for (let time = 0; time < video.duration && !signal.aborted; time += step) {
      video.currentTime = time;
      await once(video, "seeked");
      const [frame, blob] = await frameOf(video);
      const answer = await predict(blob, signal);
      show(frame, answer);
      addRows(file.name, +time.toFixed(3), answer);
      say(`${file.name}: ${time.toFixed(1)} of ${video.duration.toFixed(1)} s, ${faceCount(answer)}`);
    }
    if (!signal.aborted) say(`${file.name}: done`);
  } catch (error) {
    if (error.name !== "AbortError") throw error;
  } finally {
    URL.revokeObjectURL(video.src);
    if (running?.signal === signal) stop();
  }
}

async function useCamera() {
  const signal = begin();
  let stream = null;
  try {
    if (!navigator.mediaDevices) throw new Error("this browser gives this page no access to a camera");
    stream = await navigator.mediaDevices.getUserMedia({ video: true });
    const video = document.createElement("video");
    video.muted = video.playsInline = true;
    video.srcObject = stream;
    await video.play();
    const began = performance.now();
    while (!signal.aborted) {
      const time = (performance.now() - began) / 1000;
      const [frame, blob] = await frameOf(video);
      const answer = await predict(blob, signal);
      show(frame, answer);
      addRows("webcam", +time.toFixed(3), answer);
      say(`webcam: ${time.toFixed(1)} s, ${faceCount(answer)}, ${(1 / answer.seconds).toFixed(1)} frames/s`);
    }
  } catch (error) {
    if (error.name === "NotFoundError") say("webcam: this computer has no camera", true);
    else if (error.name === "NotAllowedError") say("webcam: the browser was not allowed to use the camera", true);
    else if (error.name !== "AbortError") say(`webcam: ${error.message}`, true);
  } finally {
    stream?.getTracks().forEach((track) => track.stop());
    if (running?.signal === signal) stop();
  }
}

function once(video, name) {
  return new Promise((done, fail) => {
    video.addEventListener(name, done, { once: true });
    video.addEventListener("error", () => fail(new Error("this browser cannot play the video; use ssfer predict")), {
      once: true,
    });
  });
}

function download() {
  const link = document.createElement("a");
  link.href = URL.createObjectURL(new Blob([csv(columns(), rows)], { type: "text/csv" }));
  link.download = "faces.csv";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}

function clear() {
  rows.length = 0;
  $("table").tBodies[0].replaceChildren();
  $("faces").replaceChildren();
  canvas.width = canvas.height = 0;
  $("download").disabled = $("clear").disabled = true;
  say("");
}

$("files").addEventListener("change", async () => {
  await handle([...$("files").files]);
  $("files").value = "";
});
$("drop").addEventListener("keydown", (event) => {
  if (event.key === "Enter" || event.key === " ") $("files").click();
});
for (const name of ["dragenter", "dragover", "dragleave", "drop"])
  document.addEventListener(name, (event) => {
    event.preventDefault();
    $("drop").classList.toggle("over", name === "dragenter" || name === "dragover");
    if (name === "drop") handle([...event.dataTransfer.files]);
  });
$("camera").addEventListener("click", useCamera);
$("stop").addEventListener("click", stop);
$("download").addEventListener("click", download);
$("clear").addEventListener("click", clear);
const ready = start();
ready.catch(() => say("the server does not answer; is ssfer app still running?", true));
