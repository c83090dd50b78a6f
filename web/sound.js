// Sound: mixed, resampled, and the speech in it, as processing_emoclip.py, media_emoclip.py and silero-vad have it.

// Channels, Float32Arrays of one length, to one: their mean, or the loudest where the mean loses most of the sound.
export function mixDown(channels, cancelled) {
  if (channels.length === 1) return channels[0];
  const mean = channels[0].map((_, i) => channels.reduce((sum, channel) => sum + channel[i], 0) / channels.length);
  const powers = channels.map(power), loudest = powers.indexOf(Math.max(...powers));
  return power(mean) < cancelled * powers[loudest] ? channels[loudest] : mean;
}

// Without any constant.
function power(samples) {
  let sum = 0, squares = 0;
  for (const value of samples) {
    sum += value;
    squares += value * value;
  }
  return squares / samples.length - (sum / samples.length) ** 2;
}

export function peak(samples) {
  let low = Infinity, high = -Infinity;
  for (const value of samples) {
    if (value < low) low = value;
    if (value > high) high = value;
  }
  return (high - low) / 2;
}

const ZEROS = 6, ROLLOFF = 0.99; // of torchaudio's filter: zero crossings to each side, and the cutoff

// Windowed sinc interpolation, as torchaudio.functional.resample.
export function resample(samples, rate, newRate) {
  if (rate === newRate) return samples;
  const common = divisor(rate, newRate), old = rate / common, now = newRate / common;
  const cutoff = ROLLOFF * Math.min(old, now), width = Math.ceil((ZEROS * old) / cutoff);
  const filters = Array.from({ length: now }, (_, phase) =>
    Float32Array.from({ length: 2 * width + old }, (_, i) => {
      const time = Math.max(-ZEROS, Math.min(ZEROS, ((i - width) / old - phase / now) * cutoff));
      const sinc = time === 0 ? 1 : Math.sin(Math.PI * time) / (Math.PI * time);
      return (sinc * Math.cos((time * Math.PI) / ZEROS / 2) ** 2 * cutoff) / old;
    }));
  return Float32Array.from({ length: Math.ceil((samples.length * now) / old) }, (_, i) => {
    const filter = filters[i % now], start = Math.floor(i / now) * old - width;
    let sum = 0;
    for (let j = Math.max(0, -start); j < filter.length && start + j < samples.length; j++)
      sum += filter[j] * samples[start + j];
    return sum;
  });
}

function divisor(a, b) {
  return b ? divisor(b, a % b) : a;
}

// The [start, end] of every stretch of speech, in seconds, for the probability of speech in each piece of `step`
// samples: silero_vad.get_speech_timestamps, with its own numbers in `settings`.
export function speechSegments(probabilities, length, rate, step, settings) {
  const minSpeech = (rate * settings.min_speech_duration_ms) / 1000;
  const minSilence = (rate * settings.min_silence_duration_ms) / 1000, pad = (rate * settings.speech_pad_ms) / 1000;
  const segments = [];
  let start = null, quiet = 0; // where speech, and where a pause in it, began
  probabilities.forEach((probability, i) => {
    const here = step * i;
    if (probability >= settings.threshold) {
      quiet = 0;
      start ??= here;
    } else if (probability < settings.exit_threshold && start !== null) {
      quiet ||= here;
      if (here - quiet < minSilence) return;
      if (quiet - start > minSpeech) segments.push([start, quiet]);
      start = null;
      quiet = 0;
    }
  });
  if (start !== null && length - start > minSpeech) segments.push([start, length]);
  segments.forEach((segment, i) => {
    const next = segments[i + 1], pause = next ? next[0] - segment[1] : Infinity;
    if (i === 0) segment[0] = Math.trunc(Math.max(0, segment[0] - pad));
    if (pause < 2 * pad) {
      segment[1] += Math.floor(pause / 2);
      next[0] = Math.max(0, next[0] - Math.floor(pause / 2));
    } else {
      segment[1] = Math.trunc(Math.min(length, segment[1] + pad));
      if (next) next[0] = Math.trunc(Math.max(0, next[0] - pad));
    }
  });
  return segments.map((segment) => segment.map((samples) => samples / rate));
}

// How many of the seconds from `start` to `end` are speech.
export function speechSeconds(segments, start, end) {
  return segments.reduce((sum, [first, last]) => sum + Math.max(0, Math.min(last, end) - Math.max(first, start)), 0);
}

// Where the windows of a recording start, in seconds: `window_starts` in recognizer_emoclip.py.
export function windowStarts(seconds, window, hop) {
  if (seconds <= window) return [0];
  const starts = [];
  for (let i = 0; i * hop < seconds - window; i++) starts.push(i * hop);
  return [...starts, seconds - window];
}
