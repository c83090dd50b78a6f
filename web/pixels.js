// Pictures: {data, width, height}, RGB bytes row by row. Scaling as Pillow and OpenCV do it, for the network to see
// in the browser what it sees in Python; turning, framing, and cutting out a face.

export const clamp = (value, low, high) => Math.max(low, Math.min(high, value));

// To the even one of two whole numbers that are equally near, as Python does.
export function round(value) {
  const floor = Math.floor(value), rest = value - floor;
  return rest === 0.5 ? floor + (floor & 1) : Math.round(value);
}

export function fromImageData({ data, width, height }) {
  const rgb = new Uint8Array(3 * width * height);
  for (let from = 0, to = 0; to < rgb.length; from += 4, to += 3) {
    rgb[to] = data[from];
    rgb[to + 1] = data[from + 1];
    rgb[to + 2] = data[from + 2];
  }
  return { data: rgb, width, height };
}

// Keys' cubic, whose one free number is -0.5 in Pillow and -0.75 in OpenCV.
function cubic(x, a) {
  x = Math.abs(x);
  if (x < 1) return ((a + 2) * x - (a + 3)) * x * x + 1;
  return x < 2 ? (((x - 5) * x + 8) * x - 4) * a : 0;
}

// The kernel widens where the picture shrinks.
function antialiased(old, now) {
  const ratio = old / now, scale = Math.max(1, ratio), support = 2 * scale;
  return Array.from({ length: now }, (_, i) => {
    const centre = (i + 0.5) * ratio, first = Math.max(0, Math.floor(centre - support + 0.5));
    const count = Math.min(old, Math.floor(centre + support + 0.5)) - first;
    const weights = Float64Array.from({ length: count }, (_, j) => cubic((first + j + 0.5 - centre) / scale, -0.5));
    const sum = weights.reduce((total, weight) => total + weight, 0);
    return [first, weights.map((weight) => weight / sum)];
  });
}

// A weight with so many bits behind the point.
function fixed(weight, bits) {
  return Math.trunc(weight * 2 ** bits + (weight < 0 ? -0.5 : 0.5)) / 2 ** bits;
}

// Of each pixel of a row of `now` pixels: the first pixel of the row of `old` that it is made of, which may lie
// outside, and the weights from there on.
const TAPS = {
  // OpenCV's INTER_AREA: each pixel is the mean of what it covers.
  area(old, now) {
    const scale = old / now;
    return Array.from({ length: now }, (_, i) => {
      const start = i * scale, end = Math.min(old, start + scale), first = Math.floor(start + 1e-6);
      const count = Math.max(1, Math.ceil(end - 1e-6) - first);
      const covered = (j) => Math.min(end, first + j + 1) - Math.max(start, first + j);
      return [first, Float64Array.from({ length: count }, (_, j) => covered(j) / (end - start))];
    });
  },
  // Pillow's BICUBIC, with weights of 22 bits.
  pillow(old, now) {
    return antialiased(old, now).map(([first, weights]) => [first, weights.map((weight) => fixed(weight, 22))]);
  },
  // PyTorch's bicubic with antialiasing, of bytes: as many bits as bring the largest weight to 15.
  torch(old, now) {
    const taps = antialiased(old, now), largest = Math.max(...taps.flatMap(([, weights]) => [...weights]));
    let bits = 0;
    while (bits < 22 && Math.floor(0.5 + largest * 2 ** (bits + 1)) < 2 ** 15) bits++;
    return taps.map(([first, weights]) => [first, weights.map((weight) => fixed(weight, bits))]);
  },
  // OpenCV's INTER_CUBIC: the four nearest pixels, of which the edge's stands for those beyond it.
  cubic(old, now) {
    const ratio = old / now;
    return Array.from({ length: now }, (_, i) => {
      const centre = (i + 0.5) * ratio - 0.5, first = Math.floor(centre) - 1;
      return [first, Float64Array.from({ length: 4 }, (_, j) => cubic(first + j - centre, -0.75))];
    });
  },
};

export function resize(picture, width, height, kernel) {
  if (picture.width === width && picture.height === height) return picture;
  // Pillow and PyTorch round to bytes between rows and columns, too, and half a level upwards. OpenCV rounds once, and
  // half a level to the even one, but where INTER_AREA halves a picture. Uint8ClampedArray rounds as the latter.
  const bytes = kernel === "pillow" || kernel === "torch";
  const halved = kernel === "area" && picture.width === 2 * width && picture.height === 2 * height;
  const upwards = bytes || halved ? 2 ** -24 : 0;
  let rows = new Float64Array(3 * width * picture.height);
  const across = { lines: picture.height, fromLine: 3 * picture.width, toLine: 3 * width, step: 3 };
  mix(picture.data, rows, TAPS[kernel](picture.width, width), picture.width, upwards, across);
  if (bytes) rows = new Float64Array(new Uint8ClampedArray(rows));
  const data = new Float64Array(3 * width * height);
  const down = { lines: width, fromLine: 3, toLine: 3, step: 3 * width };
  mix(rows, data, TAPS[kernel](picture.height, height), picture.height, upwards, down);
  return { data: new Uint8Array(new Uint8ClampedArray(data).buffer), width, height };
}

// Every line of `length` pixels to one of as many as there are taps; pixels of a line lie `step` apart.
function mix(from, to, taps, length, upwards, { lines, fromLine, toLine, step }) {
  taps.forEach(([first, weights], i) => {
    const places = Int32Array.from(weights, (_, j) => step * clamp(first + j, 0, length - 1)), count = weights.length;
    for (let line = 0; line < lines; line++) {
      let red = upwards, green = upwards, blue = upwards;
      for (let j = 0; j < count; j++) {
        const place = line * fromLine + places[j], weight = weights[j];
        red += weight * from[place];
        green += weight * from[place + 1];
        blue += weight * from[place + 2];
      }
      const at = line * toLine + i * step;
      to[at] = red;
      to[at + 1] = green;
      to[at + 2] = blue;
    }
  });
}

// The picture whose pixel (x, y) is that of `picture` at `place(x, y)`, [x, y]; beyond its edges, the edges' own.
function gathered(picture, width, height, place) {
  const data = new Uint8Array(3 * width * height);
  for (let y = 0, to = 0; y < height; y++)
    for (let x = 0; x < width; x++, to += 3) {
      const [column, row] = place(x, y);
      const from = 3 * (clamp(row, 0, picture.height - 1) * picture.width + clamp(column, 0, picture.width - 1));
      data[to] = picture.data[from];
      data[to + 1] = picture.data[from + 1];
      data[to + 2] = picture.data[from + 2];
    }
  return { data, width, height };
}

// By so many quarters counter-clockwise, as numpy.rot90.
export function turn(picture, quarters) {
  const { width, height } = picture;
  if (quarters === 0) return picture;
  if (quarters === 1) return gathered(picture, height, width, (x, y) => [width - 1 - y, x]);
  if (quarters === 2) return gathered(picture, width, height, (x, y) => [width - 1 - x, height - 1 - y]);
  return gathered(picture, height, width, (x, y) => [y, height - 1 - x]);
}

export function withBorder(picture, border) {
  const { width, height } = picture;
  return gathered(picture, width + 2 * border, height + 2 * border, (x, y) => [x - border, y - border]);
}

// The square of a face, as `crop_face` in media_emoclip.py cuts it, no larger than `most` pixels.
export function cropFace(picture, [x, y, width, height], most) {
  const side = Math.max(1, round(Math.max(width, height)));
  const left = round(x + (width - side) / 2), top = round(y + (height - side) / 2);
  const crop = gathered(picture, side, side, (column, row) => [left + column, top + row]);
  return side > most ? resize(crop, most, most, "pillow") : crop;
}

// Luma (ITU-R BT.601) in every channel, added up in 32 bits as `to_grayscale` in processing_emoclip.py does.
export function toGrey({ data, width, height }) {
  const grey = new Uint8Array(data.length), [red, green, blue] = [0.299, 0.587, 0.114].map(Math.fround);
  for (let i = 0; i < data.length; i += 3) {
    const two = Math.fround(Math.fround(data[i] * red) + Math.fround(data[i + 1] * green));
    grey.fill(round(Math.fround(two + Math.fround(data[i + 2] * blue))), i, i + 3);
  }
  return { data: grey, width, height };
}
