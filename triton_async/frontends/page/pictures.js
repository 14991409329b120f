"use strict";
// Pictures to tensors and back. Only canvas elements; nothing is fetched.

// How values of a pixel (0 to 255) become those of a tensor.
const SCALES = {
  "0…1": { python: "/ 255", of: (value) => value / 255 },
  "−1…1": { python: "/ 127.5 - 1", of: (value) => value / 127.5 - 1 },
  "0…255": { python: "", of: (value) => value },
  ImageNet: {
    python: "/ 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]",
    of: (value, channel) => (value / 255 - [0.485, 0.456, 0.406][channel]) / [0.229, 0.224, 0.225][channel],
  },
};
// Of a picture whose model takes any size: no side is longer.
const LONGEST_SIDE = 1280;
// Models with strides want such sides.
const SIDE_MULTIPLE = 32;

// Where channels, height and width of a picture are in a shape: {channels, height, width}, indices from the end (-1 is
// the last). null when it is no picture. A dim of -1 may be any.
function pictureLayout(shape) {
  if (shape.length < 3 || shape.slice(0, -3).some((dim) => dim > 1)) return null;
  const [a, b, c] = shape.slice(-3);
  const isSide = (dim) => dim === -1 || dim >= 8;
  const isChannels = (dim) => dim === 1 || dim === 3 || dim === 4;
  if (isChannels(a) && isSide(b) && isSide(c)) return { channels: -3, height: -2, width: -1 };
  if (isSide(a) && isSide(b) && isChannels(c)) return { channels: -1, height: -3, width: -2 };
  return null;
}

// The size to draw a picture at: the model's where it has one, else the picture's own, rounded.
function pictureSize(wanted, layout, picture) {
  const shrink = Math.min(1, LONGEST_SIDE / Math.max(picture.width, picture.height));
  const free = (side) => Math.max(SIDE_MULTIPLE, Math.round((side * shrink) / SIDE_MULTIPLE) * SIDE_MULTIPLE);
  const given = (at) => { const dim = wanted.at(at); return dim === null || dim === -1 ? 0 : dim; };
  return { width: given(layout.width) || free(picture.width), height: given(layout.height) || free(picture.height) };
}

// Flat values of a picture. `size` of `pictureSize`; `channels`: 1, 3 or 4; `order`: "RGB" or "BGR".
function pictureValues(picture, size, layout, channels, scale, order) {
  const canvas = new OffscreenCanvas(size.width, size.height);
  const context = canvas.getContext("2d", { willReadFrequently: true });
  context.fillStyle = "white";
  context.fillRect(0, 0, size.width, size.height);
  context.drawImage(picture, 0, 0, size.width, size.height);
  const { data } = context.getImageData(0, 0, size.width, size.height);
  const pixels = size.width * size.height, values = new Float32Array(pixels * channels), { of } = SCALES[scale];
  for (let pixel = 0; pixel < pixels; pixel++) {
    for (let channel = 0; channel < channels; channel++) {
      const source = order === "BGR" && channel < 3 ? 2 - channel : channel;
      const value = channels === 1
        ? 0.299 * data[4 * pixel] + 0.587 * data[4 * pixel + 1] + 0.114 * data[4 * pixel + 2]
        : data[4 * pixel + source];
      values[layout.channels === -3 ? channel * pixels + pixel : pixel * channels + channel] = of(value, channel);
    }
  }
  return values;
}

// A canvas with the picture that a tensor is; null when it looks like none.
function tensorPicture(shape, values) {
  const layout = pictureLayout(shape);
  if (!layout || shape.some((dim) => dim < 1) || !values.length || typeof values[0] !== "number") return null;
  const channels = shape.at(layout.channels), width = shape.at(layout.width), height = shape.at(layout.height);
  const pixels = width * height;
  if (pixels > 1 << 24) return null;
  let low = Infinity, high = -Infinity;
  for (const value of values) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  if (low >= 0 && high <= 255 && high > 1.5) [low, high] = [0, 255];
  else if (low >= 0 && high <= 1) [low, high] = [0, 1];
  const image = new ImageData(width, height), span = high - low || 1;
  for (let pixel = 0; pixel < pixels; pixel++) {
    for (let channel = 0; channel < 4; channel++) {
      const source = channels === 1 ? 0 : channel;
      const at = layout.channels === -3 ? source * pixels + pixel : pixel * channels + source;
      image.data[4 * pixel + channel] =
        channel === 3 && channels < 4 ? 255 : ((values[at] - low) / span) * 255;
    }
  }
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  canvas.getContext("2d").putImageData(image, 0, 0);
  return canvas;
}

// Whether bytes begin as PNG, JPEG, GIF or WebP do.
function isPictureFile(bytes) {
  const begins = (...head) => head.every((byte, at) => bytes[at] === byte);
  return begins(0x89, 0x50, 0x4e, 0x47) || begins(0xff, 0xd8, 0xff) || begins(0x47, 0x49, 0x46, 0x38)
    || (begins(0x52, 0x49, 0x46, 0x46) && bytes[8] === 0x57 && bytes[9] === 0x45);
}
