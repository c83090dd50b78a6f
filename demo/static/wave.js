// The stage of a microphone alone: the sound's waveform as it is now, in the colour of the emotion that is heard.

export function showWave(canvas, analyser, colour) {
  const samples = new Float32Array(analyser.fftSize), pen = canvas.getContext("2d");
  let running = true;
  const draw = () => {
    if (!running) return;
    const dense = devicePixelRatio || 1, width = canvas.clientWidth * dense, height = canvas.clientHeight * dense;
    if (canvas.width !== width || canvas.height !== height) Object.assign(canvas, { width, height });
    analyser.getFloatTimeDomainData(samples);
    pen.clearRect(0, 0, width, height);
    pen.strokeStyle = colour();
    pen.lineWidth = 3 * dense;
    pen.lineJoin = "round";
    pen.beginPath();
    samples.forEach((value, i) =>
      pen.lineTo((i / samples.length) * width, height * (0.5 - 0.45 * Math.tanh(2 * value))));
    pen.stroke();
    requestAnimationFrame(draw);
  };
  draw();
  return () => (running = false);
}
