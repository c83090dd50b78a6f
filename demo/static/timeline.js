// The last minute: two bands, the face's above the voice's. At each moment the emotions' probabilities stand one on
// the other. Also the ribbon of the card to share.

export const SECONDS = 60;

export function drawTimeline(canvas, emotions, moments = [], now = 0) {
  const width = canvas.clientWidth, height = canvas.clientHeight, dense = devicePixelRatio || 1;
  if (canvas.width !== Math.round(width * dense) || canvas.height !== Math.round(height * dense)) {
    canvas.width = Math.round(width * dense);
    canvas.height = Math.round(height * dense);
  }
  const pen = canvas.getContext("2d"), style = getComputedStyle(canvas), left = 52, axis = 18, gap = 8;
  pen.setTransform(dense, 0, 0, dense, 0, 0);
  pen.clearRect(0, 0, width, height);
  drawBands(pen, emotions, moments, now, { left, width, gap, band: (height - axis - gap) / 2, colour: style.color });
  pen.fillStyle = style.getPropertyValue("--body-text-color-subdued") || style.color;
  pen.font = "11px system-ui, sans-serif";
  pen.textBaseline = "bottom";
  for (const ago of [60, 45, 30, 15, 0]) {
    pen.textAlign = ago === 60 ? "left" : ago ? "center" : "right";
    pen.fillText(ago ? `−${ago} s` : "now", width - (ago / SECONDS) * (width - left), height);
  }
  const told = (source) => `${source} ${emotions[moments.at(-1)?.[source]?.label]?.word ?? "nothing"}`;
  const length = moments.length ? Math.min(SECONDS, Math.round(now - moments[0].time)) : 0;
  canvas.setAttribute("aria-label",
    moments.length ? `Timeline of ${length} seconds, now: ${told("face")}, ${told("voice")}` : "Timeline, empty");
}

// Both bands below each other, from the pen's origin on; their names stand left of `left`.
export function drawBands(pen, emotions, moments, now, { left, width, gap, band, colour, size = 12 }) {
  const across = (time) => width - ((now - time) / SECONDS) * (width - left);
  ["face", "voice"].forEach((source, i) => {
    const top = i * (band + gap);
    pen.globalAlpha = 0.07;
    pen.fillStyle = colour;
    pen.fillRect(left, top, width - left, band);
    pen.globalAlpha = 1;
    pen.font = `600 ${size}px system-ui, sans-serif`;
    pen.textAlign = "left";
    pen.textBaseline = "middle";
    pen.fillText(source === "face" ? "Face" : "Voice", 0, top + band / 2);
    pen.save();
    pen.beginPath();
    pen.rect(left, top, width - left, band);
    pen.clip();
    const names = stretches(moments, source).flatMap(
      (each) => drawStretch(pen, emotions, each, source, top, band, across));
    pen.fillStyle = "#0d0d12";
    pen.textAlign = "center";
    for (const [word, x, y] of names) pen.fillText(word, x, y); // after all colours: none covers a name
    pen.restore();
  });
}

// Contiguous moments in which a source was there; those before the connection was lost are apart.
function stretches(moments, source) {
  const found = [];
  let last = null;
  for (const moment of moments) {
    if (moment[source]) {
      if (!last?.[source] || last.old !== moment.old) found.push([]);
      found.at(-1).push(moment);
    }
    last = moment;
  }
  return found;
}

// Its colours; and [word, x, y] wherever an emotion was the likeliest for long enough to be written.
function drawStretch(pen, emotions, stretch, source, top, band, across) {
  const names = [], floor = stretch.map(() => 0);
  pen.globalAlpha = stretch[0].old ? 0.3 : 1;
  for (const [label, { word, colour }] of Object.entries(emotions)) {
    const roof = stretch.map((moment, i) => floor[i] + (moment[source].scores[label] ?? 0));
    pen.beginPath();
    stretch.forEach((moment, i) => pen.lineTo(across(moment.time), top + band * (1 - roof[i])));
    for (let i = stretch.length - 1; i >= 0; i--) pen.lineTo(across(stretch[i].time), top + band * (1 - floor[i]));
    pen.fillStyle = colour;
    pen.fill();
    let from = 0;
    for (let i = 0; i < stretch.length; i++) {
      if (stretch[i][source].label !== label) from = i + 1;
      else if (stretch[i + 1]?.[source].label !== label) {
        const middle = (from + i) >> 1, start = across(stretch[from].time), end = across(stretch[i].time);
        if (!stretch[0].old && end - start > 64 && band * (roof[middle] - floor[middle]) > 13)
          names.push([word, (start + end) / 2, top + band * (1 - (roof[middle] + floor[middle]) / 2)]);
      }
    }
    roof.forEach((value, i) => (floor[i] = value));
  }
  pen.globalAlpha = 1;
  return names;
}
