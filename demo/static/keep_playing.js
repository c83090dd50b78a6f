async () => {
  // The server deletes its file within minutes, and a visitor may look for longer: the browser keeps all of it.
  const video = document.querySelector("#video-player video");
  if (!video?.src.startsWith("http")) return;
  const kept = await (await fetch(video.src)).blob();
  if (video.isConnected) video.src = URL.createObjectURL(kept);
}
